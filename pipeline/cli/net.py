"""`wrn-pipe net NAME`: what a printed name builds, and what it costs."""

from typing import Annotated

import typer

from pipeline.cli import completion

EPILOG = "Example: wrn-pipe net WRN-28-10 --num-classes 100"
"""Shown below the command's help."""

_FOLD_FROM = 13
"""Groups with this many blocks or more are folded, so that pre-act-ResNet-1001 is still a page."""


def net(
    name: Annotated[
        str,
        typer.Argument(
            help="The network as the paper prints it, such as WRN-40-2-B(3,1,3).", autocompletion=completion.networks
        ),
    ],
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of the last layer. Default: 10, ImageNet's networks 1000.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width of the image. Default: 32, ImageNet's networks 224.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print every single layer as JSON.")] = False,
) -> None:
    """Print a network's layers, output sizes, parameters and multiply-adds, counted for one image.

    Example: wrn-pipe net WRN-28-10 --num-classes 100
    """
    from pipeline.models.model_summary import layers
    from pipeline.models.names import parse

    network = parse(name)
    classes = network.num_classes if num_classes is None else num_classes
    size = network.image_size if image_size is None else image_size
    rows = layers(network, size, classes)
    top = [row for row in rows if "." not in row.name]
    parameters = sum(row.parameters for row in top)
    multiply_adds = sum(row.multiply_adds for row in top)
    if json:
        from dataclasses import asdict
        from json import dumps

        summary = {
            "name": network.name,
            "num_classes": classes,
            "image_size": size,
            "parameters": parameters,
            "multiply_adds": multiply_adds,
            "layers": [asdict(row) for row in rows],
        }
        typer.echo(dumps(summary, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{network.name}, {classes} classes, one {size} x {size} image", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for column in ("output", "parameters", "multiply-adds"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in top:
        blocks = [block for block in rows if block.kind == "block" and block.name.startswith(f"{row.name}.")]
        style = "bold" if blocks else None
        output = " x ".join(map(str, row.output))
        table.add_row(row.name, output, f"{row.parameters:,}", f"{row.multiply_adds:,}", style=style)
        # A group's first block differs from the others, which are all alike.
        shown = blocks if len(blocks) < _FOLD_FROM else blocks[:2]
        for block in shown:
            folded = len(blocks) - 1 if len(shown) < len(blocks) and block is shown[-1] else 1
            label = f"  {block.name.split('.')[1]}" + (f" ... block{len(blocks)}, each" if folded > 1 else "")
            output = " x ".join(map(str, block.output))
            table.add_row(label, output, f"{block.parameters:,}", f"{block.multiply_adds:,}")
    table.add_section()
    table.add_row("total", "", f"{parameters:,}", f"{multiply_adds:,}", style="bold")
    Console().print(table)
