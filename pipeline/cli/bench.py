"""`wrn-pipe bench ...`: how fast this machine trains and loads, and what each part of it contributes."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Measure speed on this machine, in rounds, with the spread of repeats.")

Repeats = Annotated[int, typer.Option(min=1, help="Rounds; each measures everything once.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    of all ways take about 2 minutes on two cores.
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
    for column in ("workers = cores", "images/s", "x DataLoader"):
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
