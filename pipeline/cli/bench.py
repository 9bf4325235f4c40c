"""`wrn-pipe bench ...`: how fast this machine trains and loads, and what each part of it contributes."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import bench_pipeline
from pipeline.cli.bench_pipeline import AsJson, Repeats

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    help="Measure speed on this machine, in rounds, with the spread of repeats.",
    epilog="Example: wrn-pipe bench train --networks WRN-40-1",
)


@app.command(epilog="Example: wrn-pipe bench train --networks WRN-40-1 --repeats 5")
def train(
    networks: Annotated[str, typer.Option(help="Networks, by their printed names, with commas between.")] = (
        "WRN-40-1,WRN-16-4,WRN-28-10"
    ),
    repeats: Repeats = 3,
    compiled: Annotated[
        bool,
        typer.Option("--compile/--no-compile", help="Also measure kernels: compiled on a CPU, which takes minutes."),
    ] = False,
    epoch: Annotated[
        bool, typer.Option("--epoch/--no-epoch", help="Also time real epochs of the first network.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Training images a second from a public port's way to ours, and the machine's own matrix rate as the ceiling.

    The port: NCHW, fp32, eager, torchvision's DataLoader with two workers. Leave the machine alone meanwhile.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from pipeline.benchmarks.child import say_if_busy
    from pipeline.benchmarks.train_bench import bench
    from pipeline.progress import say
    from pipeline.publish import json_text
    from pipeline.runner.params_file import load

    say_if_busy()
    names = [name.strip() for name in networks.split(",")]
    result = bench(names, repeats, load().loading.backend, compiled=compiled, epoch=epoch, say=say)
    if as_json:
        typer.echo(json_text(asdict(result)), nl=False)
        return
    console = Console()
    console.print(result.machine["name"], highlight=False)
    for precision, rate in result.matrix_gflops.items():
        console.print(f"{precision} matrix product: {rate} GFLOP/s", highlight=False)
    for of in result.networks:
        title = f"{of.network}, batch {of.batch}, {of.gflop_per_image:.3g} GFLOP an image and step"
        table = Table("way", title=title, title_justify="left")
        for column in ("images/s", "GFLOP/s", "of matrix rate", "x port"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in of.rows:
            cells = (str(row.images_per_s), f"{row.gflops:,.0f}", f"{row.of_matrix_rate:.0%}", f"{row.times_port:.2f}")
            table.add_row(row.label, *cells)
        console.print(table)
    if result.epoch is not None:
        console.print(
            f"{names[0]}, whole epochs with loader, log and checkpoint: {result.epoch.end_to_end} images/s; "
            f"bare steps: {result.epoch.bare}; {-result.epoch.lost:+.1%}",
            highlight=False,
        )
    console.print(f"Median of {repeats} rounds (lowest to highest).", highlight=False)
    _tell(console, result.machine, "these rates")


def _tell(console: "Console", machine: dict[str, str], what: str) -> None:
    """The machine, for whoever reads the table elsewhere."""
    console.print(f"\nTo report {what}, send all of the above with the machine, or the output of --json:")
    for key, value in machine.items():
        console.print(f"  {key}: {value}", highlight=False, markup=False, soft_wrap=True)


@app.command(epilog="Example: wrn-pipe bench neighbours --repeats 5")
def neighbours(
    network: Annotated[str, typer.Option(help="What is trained, at batch 128 in bf16.")] = "WRN-40-1",
    busy: Annotated[int, typer.Option(min=1, help="Busy processes beside the training.")] = 1,
    spins: Annotated[str, typer.Option(help="Further GOMP_SPINCOUNTs to measure, with commas between.")] = "",
    repeats: Repeats = 5,
    as_json: AsJson = False,
) -> None:
    """Training steps on the CPU: alone, beside processes that keep cores busy, and two trainings at once.

    By how threads wait: as torch does by default, spinning for long; as wrn-pipe has them, for a moment and each on its
    own core, or making way while others are busy there; the same, but never making way; the same on any core; asleep at
    once. Takes some minutes. Leave the machine alone meanwhile.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from pipeline.benchmarks.neighbours import bench
    from pipeline.errors import UserError
    from pipeline.models.names import parse
    from pipeline.progress import say
    from pipeline.publish import json_text
    from pipeline.runner.params_file import load

    words = [word.strip() for word in spins.split(",") if word.strip()]
    if not all(word.isdigit() for word in words):
        raise UserError(f"--spins {spins}", "write numbers with commas between, such as 1000,5000")
    result = bench(parse(network).name, load().kernels, [int(word) for word in words], busy, repeats, say)
    if as_json:
        typer.echo(json_text(asdict(result)), nl=False)
        return
    title = f"{result.network}, ms a step; {result.threads} threads on {result.cores} cores"
    beside = "beside a busy process" if busy == 1 else f"beside {busy} busy processes"
    first = Table("threads wait by", title=title, title_justify="left")
    second = Table("threads wait by")
    for table, columns in ((first, ("alone", beside, "ratio")), (second, ("two trainings at once", "ratio"))):
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
    for row in result.rows:
        name = f"{row.setting} ({row.variables})" if row.variables else row.setting
        first.add_row(name, str(row.idle_ms), str(row.busy_ms), f"{row.ratio:.2f}")
        second.add_row(name, str(row.twins_ms), f"{row.twins_ratio:.2f}")
    console = Console()
    console.print(first)
    console.print(f"A fair share of the cores would be {result.fair_share:.2f}.", highlight=False)
    console.print(second)
    fair = max(1.0, 2 * result.threads / result.cores)
    console.print(f"A fair share of the cores would be {fair:.2f}.", highlight=False)
    console.print(f"Median of {repeats} rounds (lowest to highest).", highlight=False)


@app.command(epilog="Example: wrn-pipe bench estimate --network WRN-16-1")
def estimate(
    network: Annotated[str, typer.Option(help="What is probed, then trained on all of CIFAR-10.")] = "WRN-16-1",
    epochs: Annotated[int, typer.Option(min=1, help="Timed, after a first one that is not.")] = 1,
    as_json: AsJson = False,
) -> None:
    """The probe of `wrn-pipe estimate` beside real epochs of the protocol quick. Leave the machine alone meanwhile."""
    from dataclasses import asdict

    from pipeline.benchmarks.plan_estimate import check
    from pipeline.progress import say
    from pipeline.publish import json_text
    from pipeline.runner.params_file import load

    found = check(load(), network, epochs, say)
    if as_json:
        typer.echo(json_text(asdict(found)), nl=False)
        return
    typer.echo(
        f"{found.network}: estimated {found.images_per_s:,.0f} images/s, real epochs {found.real} images/s; "
        f"estimated over real time {found.ratio:.3f}"
    )


@app.command("figure-4", epilog="Example: wrn-pipe bench figure-4 --precision bf16")
def figure_4(
    precision: Annotated[str, typer.Option(help="fp32, as the paper, or bf16.")] = "fp32",
    repeats: Repeats = 3,
    as_json: AsJson = False,
) -> None:
    """Forward and backward time at batch 32 of the five networks of the paper's Figure 4, ratios beside the paper's."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from pipeline.benchmarks.figure_4 import REFERENCE, bench
    from pipeline.errors import UserError
    from pipeline.progress import say
    from pipeline.publish import json_text

    if precision not in ("fp32", "bf16"):
        raise UserError(f"no precision {precision!r}", "choose fp32 or bf16")
    result = bench("bf16" if precision == "bf16" else "fp32", repeats, say)
    if as_json:
        typer.echo(json_text(asdict(result)), nl=False)
        return
    table = Table(
        "network", title=f"Forward and backward at batch 32, {precision}; x {REFERENCE}", title_justify="left"
    )
    for column in ("paper, ms", "paper, x", "ours, ms", "ours, x"):
        table.add_column(column, justify="right", no_wrap=True)
    for timing in result.timings:
        paper = (f"{timing.paper_ms:.0f}", f"{timing.paper_ratio:.2f}")
        table.add_row(timing.network, *paper, str(timing.ms), f"{timing.ratio:.2f}")
    console = Console()
    console.print(table)
    console.print(f"Median of {repeats} rounds (lowest to highest). The paper's machine: Titan X, cuDNN v5, fp32.")
    _tell(console, result.machine, "these times")


app.command(epilog="Example: wrn-pipe bench loader --repeats 5 --json > loader.json")(bench_pipeline.loader)
app.command(epilog="Example: wrn-pipe bench jobs --slots 1,2 --runs 4")(bench_pipeline.jobs)
app.command(epilog="Example: wrn-pipe bench driver --runs 1000 --hours 1")(bench_pipeline.driver)
app.command(epilog="Example: wrn-pipe bench scale --backends numpy --samples 100000")(bench_pipeline.scale)
