"""`wrn-pipe bench loader`, `jobs`, `driver` and `scale`: how fast images arrive, and how a plan's runs are driven."""

from typing import Annotated

import typer

Repeats = Annotated[int, typer.Option(min=1, help="Rounds; each measures everything once.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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

    from pipeline.benchmarks.loader_bench import bench
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

    from pipeline.benchmarks.fan_out_bench import slots as bench
    from pipeline.errors import UserError
    from pipeline.progress import say
    from pipeline.publish import json_text
    from pipeline.runner.params_file import load

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

    from pipeline.benchmarks.fan_out_bench import JOB_START_S, model
    from pipeline.benchmarks.fan_out_bench import driver as bench
    from pipeline.progress import say
    from pipeline.publish import json_text
    from pipeline.runner.params_file import load

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
