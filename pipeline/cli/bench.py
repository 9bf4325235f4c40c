"""`wrn-pipe bench ...`: how fast this machine trains and loads, and what each part of it contributes."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    help="Measure speed on this machine, in rounds, with the spread of repeats.",
    epilog="Example: wrn-pipe bench train --networks WRN-40-1",
)

Repeats = Annotated[int, typer.Option(min=1, help="Rounds; each measures everything once.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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

    from pipeline.benchmarks.train import bench
    from pipeline.params import load
    from pipeline.progress import say
    from pipeline.publish import json_text

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
        for column in ("images/s", "GFLOP/s", "of bf16 rate", "x port"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in of.rows:
            cells = (str(row.images_per_s), f"{row.gflops:,.0f}", f"{row.of_bf16_rate:.0%}", f"{row.times_port:.2f}")
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
    spins: Annotated[str, typer.Option(help="Further GOMP_SPINCOUNTs to measure, with commas between.")] = "",
    repeats: Repeats = 5,
    as_json: AsJson = False,
) -> None:
    """Training steps on the CPU, alone and beside one process that keeps a core busy, by how threads wait.

    As torch does by default, spinning for long; as wrn-pipe sets it, for a moment; asleep at once. Takes a minute or
    two. Leave the machine alone meanwhile.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from pipeline.benchmarks.neighbours import bench
    from pipeline.errors import UserError
    from pipeline.models.names import parse
    from pipeline.params import load
    from pipeline.progress import say
    from pipeline.publish import json_text

    words = [word.strip() for word in spins.split(",") if word.strip()]
    if not all(word.isdigit() for word in words):
        raise UserError(f"--spins {spins}", "write numbers with commas between, such as 1000,5000")
    result = bench(parse(network).name, load().kernels, [int(word) for word in words], repeats, say)
    if as_json:
        typer.echo(json_text(asdict(result)), nl=False)
        return
    title = f"{result.network}, ms a step; {result.threads} threads on {result.cores} cores"
    table = Table("threads wait by", title=title, title_justify="left")
    for column in ("alone", "beside a busy process", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in result.rows:
        name = f"{row.setting} ({row.variables})" if row.variables else row.setting
        table.add_row(name, str(row.idle_ms), str(row.busy_ms), f"{row.ratio:.2f}")
    console = Console()
    console.print(table)
    console.print(f"A fair share of the cores would be {result.fair_share:.2f}.", highlight=False)
    console.print(f"Median of {repeats} rounds (lowest to highest).", highlight=False)


@app.command(epilog="Example: wrn-pipe bench estimate --network WRN-16-1")
def estimate(
    network: Annotated[str, typer.Option(help="What is probed, then trained on all of CIFAR-10.")] = "WRN-16-1",
    epochs: Annotated[int, typer.Option(min=1, help="Timed, after a first one that is not.")] = 1,
    as_json: AsJson = False,
) -> None:
    """The probe of `wrn-pipe estimate` beside real epochs of the protocol quick. Leave the machine alone meanwhile."""
    from dataclasses import asdict

    from pipeline.benchmarks.estimate import check
    from pipeline.params import load
    from pipeline.progress import say
    from pipeline.publish import json_text

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


@app.command(epilog="Example: wrn-pipe bench loader --repeats 5 --json > loader.json")
def loader(
    data: Annotated[str, typer.Option(help="A folder of data/beton with images as bytes.")] = "cifar10-rgb",
    ways: Annotated[
        str | None, typer.Option(help="Only the ways whose names contain one of these words, with commas between.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Measure with 1 worker and with up to so many.")] = 2,
    repeats: Repeats = 3,
    as_json: AsJson = False,
) -> None:
    """Images a second, loaded and augmented as the paper does: ours, FFCV's, torchvision's and airbench's ways.

    Each way runs in a process held to as many cores as it has workers. Leave the machine alone meanwhile: three rounds
    of all ways take 4 minutes on two cores.
    """
    from dataclasses import asdict
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from pipeline.benchmarks.loader import bench
    from pipeline.benchmarks.loading_ways import WAYS
    from pipeline.errors import UserError
    from pipeline.progress import say
    from pipeline.publish import json_text

    words = [word.strip() for word in ways.split(",")] if ways else [""]
    chosen = [way for way in WAYS if any(word in way for word in words)]
    if not chosen:
        raise UserError(f"no way to load is called {ways!r}", f"choose words of: {', '.join(WAYS)}")
    result = bench(Path("data/beton") / data, chosen, range(1, workers + 1), repeats, say)
    if as_json:
        typer.echo(json_text(asdict(result)), nl=False)
        return
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in result.machine.items()), highlight=False)
    table = Table("way", title=f"{result.images} images of {result.data}, batch {result.batch}", title_justify="left")
    for column in ("cores", "images/s", "x DataLoader"):
        table.add_column(column, justify="right", no_wrap=True)
    for rate in result.rates:
        times = "" if rate.times_torchvision is None else f"{rate.times_torchvision:.1f}"
        table.add_row(rate.way, str(rate.workers), str(rate.images_per_s), times)
    console.print(table)
    table = Table("first batch of a process", "caches on disk", title_justify="left")
    table.add_column("seconds", justify="right", no_wrap=True)
    for first in result.first_batches:
        table.add_row(first.way, first.caches, str(first.seconds))
    console.print(table)
    console.print(f"Median of {repeats} rounds (lowest to highest).")


@app.command(epilog="Example: wrn-pipe bench jobs --slots 1,2 --runs 4")
def jobs(
    slots: Annotated[str, typer.Option(help="Numbers of slots, with commas between.")] = "1,2",
    runs: Annotated[int, typer.Option(min=1, help="Runs of the plan.")] = 16,
    network: Annotated[str, typer.Option(help="What they train.")] = "WRN-16-1",
    epochs: Annotated[int, typer.Option(min=1, help="Of the protocol quick, on all of CIFAR-10.")] = 1,
    repeats: Repeats = 1,
    as_json: AsJson = False,
) -> None:
    """Runs an hour of `wrn-pipe repro --jobs N`, from converted data to the tables, in copies of this checkout.

    Leave the machine alone meanwhile: 16 runs of WRN-16-1 take several minutes for each number of slots.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from pipeline.benchmarks.fan_out import slots as bench
    from pipeline.errors import UserError
    from pipeline.params import load
    from pipeline.progress import say
    from pipeline.publish import json_text

    if not all(word.strip().isdigit() and int(word) for word in slots.split(",")):
        raise UserError(f"--slots {slots}", "write numbers with commas between, such as 1,2")
    counts = [int(word) for word in slots.split(",")]
    found = bench(load(), counts, runs, network, epochs, repeats, say)
    if as_json:
        typer.echo(json_text([asdict(row) for row in found]), nl=False)
        return
    table = Table("slots", title=f"{runs} runs of {network}, {epochs} epochs of quick each", title_justify="left")
    for column in ("seconds", "runs an hour", "speed-up"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found:
        table.add_row(str(row.slots), str(row.seconds), f"{row.runs_per_hour:.0f}", f"{row.speed_up:.2f}")
    console = Console()
    console.print(table)
    console.print(f"Median of {repeats} rounds (lowest to highest).")


@app.command(epilog="Example: wrn-pipe bench driver --runs 1000 --hours 1")
def driver(
    runs: Annotated[int, typer.Option(min=1, help="Runs of the plan.")] = 1000,
    hours: Annotated[float, typer.Option(min=0.01, help="Of one run on one GPU, for the model.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """What the driver of `wrn-pipe repro --slurm` does itself, timed with the results of a finished run as everybody's.

    And, from that, what 100 and 1,000 runs would take on 8 to 256 GPUs.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from pipeline.benchmarks.fan_out import JOB_START_S, model
    from pipeline.benchmarks.fan_out import driver as bench
    from pipeline.params import load
    from pipeline.progress import say
    from pipeline.publish import json_text

    measured = bench(load(), runs, say)
    campaigns = model(measured, hours, (100, 1000), (8, 32, 64, 256))
    if as_json:
        typer.echo(json_text({"driver": asdict(measured), "model": [asdict(row) for row in campaigns]}), nl=False)
        return
    console = Console()
    table = Table("part of the driver", title=f"{measured.runs} runs", title_justify="left")
    table.add_column("seconds", justify="right")
    for key, value in asdict(measured).items():
        if key != "runs":
            table.add_row(key, f"{value:.1f}")
    table.add_row("all", f"{measured.total:.1f}")
    console.print(table)
    share = measured.total / measured.runs / 3600 / hours
    console.print(f"{measured.total / measured.runs:.2f} s a run: {share:.2%} of a run of {hours:g} h", highlight=False)
    table = Table("runs", "GPUs", title="Model, not measured", title_justify="left")
    for column in ("hours", "of the GPUs' time in training"):
        table.add_column(column, justify="right")
    for row in campaigns:
        table.add_row(f"{row.runs:,}", str(row.gpus), f"{row.hours:.1f}", f"{row.efficiency:.0%}")
    console.print(table)
    console.print(
        f"Assumed: each run takes {hours:g} h, a job starts within {JOB_START_S:.0f} s, GPUs take run after run "
        "without a pause, and the driver's seconds grow with the runs and come before or after all training.",
        highlight=False,
    )


@app.command(epilog="Example: wrn-pipe bench scale --backends numpy --samples 100000")
def scale(
    samples: Annotated[int, typer.Option(min=1, help="Images in the file.")] = 1_281_167,
    backends: Annotated[str, typer.Option(help="ffcv, numpy, or both with a comma between.")] = "ffcv,numpy",
    repeats: Repeats = 3,
    as_json: AsJson = False,
) -> None:
    """Seconds to a process's first batch, and its memory, with as many images as ImageNet's training split has.

    It writes a .beton file of so many small JPEGs into scratch/ (0.6 GB by default) and deletes it afterwards. Reading
    and checking a file of the real images takes longer by their bytes; nothing else depends on these.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from pipeline.benchmarks.scale import bench
    from pipeline.errors import UserError
    from pipeline.progress import say
    from pipeline.publish import json_text

    chosen = [backend.strip() for backend in backends.split(",")]
    if unknown := [backend for backend in chosen if backend not in ("ffcv", "numpy")]:
        raise UserError(f"no backend {unknown[0]!r}", "choose ffcv, numpy, or both: --backends ffcv,numpy")
    result = bench(samples, chosen, repeats, say)
    if as_json:
        typer.echo(json_text(asdict(result)), nl=False)
        return
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in result.machine.items()), highlight=False)
    title = f"{result.samples:,} JPEGs in {result.file_mb:,.0f} MB, batches of {result.batch}"
    table = Table("one process", title=title, title_justify="left")
    for start in result.starts:
        table.add_column(start.backend, justify="right", no_wrap=True)
    for name in result.starts[0].seconds:
        table.add_row(f"{name}, s", *(str(start.seconds[name]) for start in result.starts))
    table.add_section()
    for name, words in _MEMORY.items():
        table.add_row(f"{words}, MB", *(str(start.megabytes[name]) for start in result.starts))
    console.print(table)
    console.print(f"Median of {repeats} rounds (lowest to highest).")


_MEMORY = {
    "imports": "own, after imports",
    "own": "own, after 8 batches",
    "samples": "of that for the number",
    "mapped": "of files, shared",
    "peak": "peak of both",
}
