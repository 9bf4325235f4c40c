"""`wrn-pipe bench ...`: how fast this machine trains and loads, and what each part of it contributes."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Option

from pipeline.cli.options import Json
from pipeline.cli.output import print_json, row_table
from pipeline.errors import UserError
from pipeline.publication.wide_resnet import PAPER

app = typer.Typer(
    no_args_is_help=True,
    help="Measure speed on this machine, in rounds, with the spread of repeats.",
    epilog="Example: wrn-pipe bench train --networks WRN-40-1",
)
Repeats = Annotated[int, Option(min=1, help="Rounds; each measures everything once.")]


@app.command(epilog="Example: wrn-pipe bench train --networks WRN-40-1 --repeats 5")
def train(
    networks: Annotated[str, Option(help="Networks, by their printed names, with commas between.")] = (
        "WRN-40-1,WRN-16-4,WRN-28-10"
    ),
    repeats: Repeats = 3,
    compiled: Annotated[bool, Option("--compile/--no-compile", help="Also torch.compile on a CPU: minutes.")] = False,
    as_json: Json = False,
) -> None:
    """Training images a second from a public port's way to ours, and this machine's peak GEMM rate as the ceiling.

    The port is the baseline of the speed-up: NCHW, fp32, eager, torchvision's DataLoader with two workers. Leave the
    machine alone meanwhile.
    """
    from pipeline.benchmarks.measuring import say_if_busy
    from pipeline.benchmarks.train_bench import bench
    from pipeline.runner.params_file import load

    say_if_busy()
    names = [name.strip() for name in networks.split(",")]
    result = bench(names, repeats, load().loading.backend, compiled=compiled)
    peaks = ", ".join(f"{precision} {rate}" for precision, rate in result["peak_gemm_gflops"].items())
    _print(result, "rows", f"Training; peak GEMM in GFLOP/s: {peaks}", as_json)


@app.command("figure-4", epilog="Example: wrn-pipe bench figure-4 --precision bf16")
def figure_4(
    precision: Annotated[Literal["fp32", "bf16"], Option(help="fp32, as the paper, or bf16.")] = "fp32",
    repeats: Repeats = 3,
    as_json: Json = False,
) -> None:
    """Forward and backward time at batch 32 of the five networks of the paper's Figure 4, ratios beside the paper's."""
    from pipeline.benchmarks.train_bench import REFERENCE, figure_4

    title = f"Forward and backward at batch 32, {precision}; ratios to {REFERENCE}; the paper's on a Titan X in fp32"
    _print(figure_4(PAPER, precision, repeats), "timings", title, as_json)


@app.command(epilog="Example: wrn-pipe bench loader --repeats 5 --json > loader.json")
def loader(
    data: Annotated[str, Option(help="A folder of data/beton with images as bytes.")] = "cifar10-rgb",
    ways: Annotated[str | None, Option(help="Only ways that contain one of these words, separated by commas.")] = None,
    workers: Annotated[int, Option(min=1, help="Measure with 1 worker and with up to this many.")] = 2,
    repeats: Repeats = 3,
    as_json: Json = False,
) -> None:
    """Images a second, loaded and augmented as the paper does: ours over FFCV and over numpy, and torchvision's.

    Each way runs in a process held to as many cores as it has workers. Leave the machine alone meanwhile: three rounds
    of all ways take some 2 minutes on two cores.
    """
    from pipeline.benchmarks.loader_bench import WAYS, bench

    words = [word.strip() for word in ways.split(",")] if ways else [""]
    chosen = [way for way in WAYS if any(word in way for word in words)]
    if not chosen:
        raise UserError(f"no way to load is called {ways!r}", f"choose words of: {', '.join(WAYS)}")
    result = bench(Path("data/beton") / data, chosen, range(1, workers + 1), repeats)
    _print(result, "rates", f"{result['images']} images of {data}, batch {result['batch']}", as_json)


def _print(result: dict[str, Any], rows: str, title: str, as_json: bool) -> None:
    """The result as JSON, or its `rows` and the machine, for whoever reads the table elsewhere."""
    from rich.console import Console

    if as_json:
        print_json(result)
        return
    console = Console(highlight=False)
    console.print(row_table(title, result[rows]), "Median of all rounds (lowest to highest).", sep="\n")
    console.print("\nTo report this, send all of the above with the machine, or the output of --json:")
    for key, value in result["machine"].items():
        console.print(f"  {key}: {value}", markup=False, soft_wrap=True)
