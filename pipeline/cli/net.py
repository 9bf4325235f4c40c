"""`wrn-pipe net NAME`: what a printed name builds, and what it costs."""

from typing import Annotated

from typer import Argument, Option

from pipeline.cli.options import Json, networks
from pipeline.cli.output import print_json
from pipeline.models.names import costs, parse

_FOLD_FROM = 13
"""Groups with this many blocks or more are folded, so that pre-act-ResNet-1001 is still a page."""


def net(
    name: Annotated[str, Argument(help="As printed, such as WRN-40-2-B(3,1,3).", autocompletion=networks)],
    num_classes: Annotated[int | None, Option(min=1, help="Default: 10, of ImageNet's networks 1000.")] = None,
    image_size: Annotated[int | None, Option(min=1, help="Default: 32, of ImageNet's networks 224.")] = None,
    json: Json = False,
) -> None:
    """Print a network's layers, output sizes, parameters and multiply-adds, counted for one image.

    --json: every single layer.
    """
    from rich.console import Console
    from rich.table import Table

    network = parse(name)
    classes, size = num_classes or network.num_classes, image_size or network.image_size
    rows = costs(network, size, classes)
    top = [row for row in rows if "." not in row.name]
    parameters, multiply_adds = (sum(getattr(row, what) for row in top) for what in ("parameters", "multiply_adds"))
    if json:
        told = {"name": network.name, "num_classes": classes, "image_size": size, "parameters": parameters}
        print_json({**told, "multiply_adds": multiply_adds, "layers": rows})
        return
    table = Table(title=f"{network.name}, {classes} classes, one {size} x {size} image", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for column in ("output", "parameters", "multiply-adds"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in top:
        blocks = [block for block in rows if block.kind == "block" and block.name.startswith(f"{row.name}.")]
        shown = [(row.name, row)]
        for block in blocks[:2] if len(blocks) >= _FOLD_FROM else blocks:
            shown.append((f"  {block.name.split('.')[1]}", block))
        if len(blocks) >= _FOLD_FROM:  # a group's first block differs from the others, which are all alike
            shown[-1] = (f"{shown[-1][0]} ... block{len(blocks)}, each", blocks[1])
        for label, layer in shown:
            cells = (" x ".join(map(str, layer.output)), f"{layer.parameters:,}", f"{layer.multiply_adds:,}")
            table.add_row(label, *cells, style="bold" if blocks and layer is row else None)
    table.add_section()
    table.add_row("total", "", f"{parameters:,}", f"{multiply_adds:,}", style="bold")
    Console().print(table)
