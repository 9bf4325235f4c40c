"""`wrn-pipe net NAME`: what a printed name builds, and what it costs."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import completion

if TYPE_CHECKING:
    from pipeline.models.param_count import Layer

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
    """Print a network's layers, output sizes, parameters and multiply-adds, counted for one image."""
    from pipeline.models.names import parse
    from pipeline.models.param_count import layers

    network = parse(name)
    classes, size = num_classes or network.num_classes, image_size or network.image_size
    rows = layers(network, size, classes)
    top = [row for row in rows if "." not in row.name]
    parameters = sum(row.parameters for row in top)
    multiply_adds = sum(row.multiply_adds for row in top)
    if json:
        from dataclasses import asdict
        from json import dumps

        told = {"name": network.name, "num_classes": classes, "image_size": size, "parameters": parameters}
        told |= {"multiply_adds": multiply_adds, "layers": [asdict(row) for row in rows]}
        typer.echo(dumps(told, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{network.name}, {classes} classes, one {size} x {size} image", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for column in ("output", "parameters", "multiply-adds"):
        table.add_column(column, justify="right", no_wrap=True)

    def add(label: str, row: "Layer", style: str | None = None) -> None:
        output = " x ".join(map(str, row.output))
        table.add_row(label, output, f"{row.parameters:,}", f"{row.multiply_adds:,}", style=style)

    for row in top:
        blocks = [block for block in rows if block.kind == "block" and block.name.startswith(f"{row.name}.")]
        add(row.name, row, "bold" if blocks else None)
        folded = len(blocks) >= _FOLD_FROM  # a group's first block differs from the others, which are all alike
        for block in blocks[:2] if folded else blocks:
            more = f" ... block{len(blocks)}, each" if folded and block is blocks[1] else ""
            add(f"  {block.name.split('.')[1]}{more}", block)
    table.add_section()
    table.add_row("total", "", f"{parameters:,}", f"{multiply_adds:,}", style="bold")
    Console().print(table)
