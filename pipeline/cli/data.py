"""wrn-pipe data: which datasets are here, whether their bytes are right, and what they look like."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from pipeline.cli.options import Json, of_plan
from pipeline.cli.output import print_json, report
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.params import Plan

app = typer.Typer(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: wrn-pipe data --json",
)


@app.callback()
def data(context: typer.Context, json: Json = False) -> None:
    """List the datasets of params.yaml, and those it could have, with state, size and sources.

    missing: its arrays are not here. fetched: they are, and nothing vouches for their content. verified: DVC finds
    them as the download stage wrote them, after comparing their content with the digests that params.yaml still pins
    (or, where it pins none, the archive with its md5). converted: DVC finds all .beton files that params.yaml lists for
    it as the convert stage wrote them and read them back. DVC goes by size, time and inode, and reads again what
    these say has changed; wrn-pipe data verify reads every byte.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    from pipeline.runner.params_file import load
    from pipeline.runner.plan_state import standings

    listed = standings(load())
    if json:
        print_json(listed)
        return
    table = Table(box=SIMPLE)
    for column in ("dataset", "state", "size", "stored as", "sources, in order"):
        table.add_column(column, overflow="fold", no_wrap=column == "size")
    for row in listed:
        size = decimal(row.bytes_here) if row.bytes_here else f"({decimal(row.bytes_raw)})"
        state = row.state if row.planned else f"{row.state}, not in params.yaml".removeprefix("missing, ")
        kept = [name if done == "converted" else f"{name} {done}" for name, done in row.representations.items()]
        table.add_row(row.name, state, size, "\n".join(kept), "\n".join(row.sources))
    Console().print(table)
    typer.echo("A size in brackets is what the images will take.")
    if lacking := [row.name for row in listed if row.planned and row.state != "converted"]:
        typer.echo(f"Next: wrn-pipe repro convert fetches and converts what is not ready: {', '.join(lacking)}.")
    if any(not row.planned for row in listed):
        typer.echo("wrn-pipe plan adds a dataset to params.yaml with the runs that need it.")


@app.command(epilog="Example: wrn-pipe data verify cifar10")
def verify(
    dataset: Annotated[
        str | None,
        Argument(help="Only this dataset. Default: all that are here.", autocompletion=of_plan("datasets")),
    ] = None,
    json: Json = False,
) -> None:
    """Read every byte of data/raw and data/beton again and say of each file whether it is right or wrong.

    The arrays' content is compared with the digests in params.yaml, or where it pins none with those in the card of the
    .beton files; each .beton file with its card; each folder as a whole with dvc.lock. What is not here or on no record
    is said to be unchecked, and is not wrong. Exit code: 0 nothing is wrong, 1 something is, 2 a mistake to fix.
    """
    from pipeline.evidence.verification import datasets as findings
    from pipeline.runner.params_file import load
    from pipeline.runner.plan_state import RAW, beton_folders

    plan = load()
    if dataset is not None:
        _need(dataset, plan, RAW / dataset, *beton_folders(dataset, plan).values())
    fix = "To get them right: delete the folder that each is in, then wrn-pipe repro convert"
    absent = "Not checked is what is not here or on no record: each line says why."
    report(findings(plan.datasets if dataset is None else [dataset], plan), json, fix, absent)


@app.command(epilog="Example: wrn-pipe data show cifar10 --augmented --seed 1 --epoch 3 --out cifar10.png")
def show(
    dataset: Annotated[str, Argument(help="A fetched dataset of params.yaml.", autocompletion=of_plan("datasets"))],
    augmented: Annotated[bool, Option("--augmented", help="Each image before and after augmentation.")] = False,
    seed: Annotated[int, Option(min=0, max=2**32 - 1, help="Seed of the training.")] = 1,
    epoch: Annotated[int, Option(min=0, help="Epoch of the training, from 0.")] = 0,
    count: Annotated[int, Option(min=1, max=1000, help="Number of images.")] = 30,
    out: Annotated[Path | None, Option(help="The picture to write. Default: DATASET.png.")] = None,
) -> None:
    """Draw the training images that a training with this seed sees first in this epoch, with their labels.

    With --augmented each stands above itself as flipped and cropped in that epoch (drawn for each image, from a pad of
    4 reflected pixels), and above what a training on its whitened form gets, where params.yaml lists that and it is
    converted.
    """
    from pipeline.data.conversion import load as load_split
    from pipeline.data.image_sheet import augmented_rows, sheet
    from pipeline.data.sampler import sample_order
    from pipeline.runner.params_file import load
    from pipeline.runner.plan_state import RAW, beton_folders

    plan = load()
    _need(dataset, plan, RAW / dataset)
    if plan.datasets[dataset].shape is None:
        raise UserError(f"{dataset} has images of many shapes, which this does not draw", "choose another dataset")
    images, labels = load_split(RAW / dataset, "train")
    chosen = sample_order(seed, epoch, len(images))[:count]
    rows = {"as published": images[chosen]}
    if augmented:
        white = beton_folders(dataset, plan).get("zca")
        rows = augmented_rows(images, chosen, seed, epoch, white if white and white.is_dir() else None)
    first = f"the first {len(chosen)} training images of epoch {epoch} with seed {seed}"
    picture, to = sheet(f"{plan.datasets[dataset].title}, {first}", rows, labels[chosen]), out or f"{dataset}.png"
    try:
        picture.save(to)
    except (OSError, ValueError) as error:  # or a format that pillow does not know
        raise UserError(f"cannot write {to}: {error}", "choose another place with --out, such as seen.png") from None
    typer.echo(f"{to}: {len(chosen)} images, {', '.join(rows)}")


def _need(name: str, plan: "Plan", *folders: Path) -> None:
    """Raise UserError where params.yaml has no such dataset, or none of its `folders` is here."""
    from pipeline.params import entry
    from pipeline.publication.wide_resnet import PAPER
    from pipeline.runner.plan_edit import known_datasets

    if name not in plan.datasets and name in known_datasets(PAPER):
        raise UserError(f"{name} is not in params.yaml", f"wrn-pipe plan --paper-table all --dataset {name} adds it")
    entry(plan.datasets, name, "dataset")
    if not any(folder.is_dir() for folder in folders):
        raise UserError(f"{name} is not in {' or '.join(map(str, folders))}", f"wrn-pipe repro download@{name}")
