"""wrn-pipe sweep: one protocol with some settings changed, over networks and seeds: a line of a CSV file for each."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import completion

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.params import Plan

RUN = "sweep"
"""What the one run of a changed plan is called in messages."""
COLUMNS = (
    *("dataset", "network", "protocol", "epochs", "seed", "training_multiply_adds", "split", "top1_error"),
    *("standard_error", "negative_log_likelihood", "n", "holdout", "learning_rate", "weight_decay", "batch_size"),
    *("label_smoothing", "weight_average", "schedule", "optimizer", "momentum", "nesterov", "dropout"),
    *("preprocessing", "flip", "crop", "drop_last", "conv_init", "bn_init", "precision"),
    *("processor", "threads", "kernels", "loader", "torch", "fingerprint"),
)

RECIPE = tuple(
    column
    for column in COLUMNS[: COLUMNS.index("processor")]
    if column not in ("top1_error", "standard_error", "negative_log_likelihood", "n")
)
"""The columns that are known before a training; two rows that agree in them are of the same settings and seed."""

EPILOG = (
    "Example: wrn-pipe sweep fast --networks WRN-16-1,WRN-40-1 --set epochs=2,4,8 --set holdout=5000 --to choice.csv"
)


def sweep(
    protocol: Annotated[str, typer.Argument(help="A protocol of params.yaml.", autocompletion=completion.protocols)],
    to: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="The CSV file; trainings that it has are not done again, and refused when code or data have changed.",
        ),
    ],
    networks: Annotated[str, typer.Option(help="Networks, by their printed names, with commas between.")] = "WRN-40-1",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUES", help="Values with commas between; once for each field."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 1 to so many.")] = 1,
    dataset: Annotated[
        str, typer.Option(help="A dataset of params.yaml.", autocompletion=completion.planned_datasets)
    ] = "cifar10",
) -> None:
    """Train every combination of the settings and note its error in FILE, with its whole recipe and its compute.

    Outside DVC: nothing is published, params.yaml and dvc.lock stay as they are. Interrupted, it goes on where it was.
    With `--set holdout=5000` errors are of 5,000 training images kept from training: settings are chosen by those.
    """
    from itertools import product
    from pathlib import Path

    from pipeline.errors import UserError
    from pipeline.params import nearest
    from pipeline.runner.params_file import load

    plan = load()
    for word, known, noun in ((protocol, plan.protocols, "protocol"), (dataset, plan.datasets, "dataset")):
        if word not in known:
            raise UserError(f"params.yaml has no {noun} {word!r}", nearest(word, known, noun))
    fields = dict(_values(change) for change in changes or ())
    grid = [dict(zip(fields, values, strict=True)) for values in product(*fields.values())]
    names = [name.strip() for name in networks.split(",")]
    runs = [(changed, name, seed) for changed in grid for name in names for seed in range(1, seeds + 1)]
    # All before the first training: a mistake in the last is told at once.
    plans = [_changed(plan, protocol, changed, dataset, name, seed) for changed, name, seed in runs]
    rows = _rows(Path(to))
    for each in plans:
        _refuse_a_second(each, rows, Path(to))
    for each in plans:
        _train(each, Path(to))


def _values(change: str) -> tuple[str, list[Any]]:
    """`epochs=2,4` -> ("epochs", [2, 4]); values are YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from pipeline.errors import UserError

    field, found, values = change.partition("=")
    try:
        if not found or not values:
            raise ValueError
        return field, list(YAML(typ="safe", pure=True).load(f"[{values}]"))
    except (ValueError, YAMLError):
        raise UserError(f"--set {change!r} is no setting", "write it like --set learning_rate=0.4,0.8") from None


def _changed(plan: "Plan", protocol: str, changed: dict[str, Any], dataset: str, network: str, seed: int) -> "Plan":
    """The plan with no run but one, `RUN`, by the changed protocol. Raises UserError as for params.yaml."""
    import io
    from functools import reduce

    from ruamel.yaml import YAML

    from pipeline.errors import UserError
    from pipeline.runner.params_file import parse_plan

    values = plan.model_dump(mode="json", exclude_none=True)
    recipe = values["protocols"][protocol]
    for field, value in changed.items():
        *outer, last = field.split(".")
        try:
            reduce(lambda at, key: at[key], outer, recipe)[last] = value
        except (KeyError, TypeError):
            raise UserError(f"--set: protocol {protocol} has no {field}", "see params.yaml") from None
    kind = plan.protocols[protocol].representation
    run = {"dataset": dataset, "representation": kind, "network": network, "protocol": protocol, "seed": seed}
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump({**values, "runs": {RUN: run}}, text)
    try:
        return parse_plan(text.getvalue())
    except UserError as error:
        # Its line is one of no file that anybody has.
        raise UserError(f"--set or --networks: {error.what.split(': ', 1)[1]}", error.remedy) from None


def _refuse_a_second(plan: "Plan", rows: list[dict[str, str]], to: "Path") -> None:
    """Raise UserError where the file has the recipe of the plan's only run, but not by this code and data."""
    from pipeline.errors import UserError
    from pipeline.provenance import fingerprint

    run, print_of_run, recipe = plan.run(RUN), fingerprint(plan, RUN), _recipe(plan)
    same = [row["fingerprint"] for row in rows if all(row[column] == recipe[column] for column in RECIPE)]
    if same and print_of_run not in same:
        raise UserError(
            f"{to} has {run.network}, seed {run.seed} by this recipe, but by other code or data: fingerprint "
            f"{same[0][:12]}, now {print_of_run[:12]}",
            "name another file with --to, or take that row out first",
        )


def _train(plan: "Plan", to: "Path") -> None:
    """Add the plan's only run to the file `to`, unless it is there. Raises what a training raises."""
    import csv
    import io
    from pathlib import Path

    from filelock import FileLock

    from pipeline.runner.waiting import bind_threads

    bind_threads(plan.kernels)
    from pipeline.errors import InterruptedTrainingError
    from pipeline.progress import say
    from pipeline.provenance import fingerprint
    from pipeline.publish import new_file
    from pipeline.runner.run_hooks import RunHooks
    from pipeline.runner.run_lock import discard, hold
    from pipeline.tasks.classification import metrics
    from pipeline.training.evaluate_run import predicted
    from pipeline.training.loop import train
    from pipeline.training.train_run import prepare

    run, print_of_run = plan.run(RUN), fingerprint(plan, RUN)
    if any(row["fingerprint"] == print_of_run for row in _rows(to)):
        say(f"{to} has {run.network}, seed {run.seed}, {print_of_run[:12]}")
        return
    scratch = Path("scratch") / print_of_run
    with hold(scratch, RUN):
        training, record = prepare(plan, RUN, print_of_run, scratch, RunHooks())
        try:
            train(training, lambda *_: None)
        except InterruptedTrainingError as stop:
            stop.remedy = "continue with the same command"
            raise
        weights = {k: v.detach().cpu() for k, v in training.model.state_dict().items()}
        _, labels, probabilities = predicted(plan, run, weights)
        row = _row(plan, record, metrics(labels, probabilities.argmax(1), probabilities))
        with FileLock(scratch.with_name(f"{to.name}.lock")):  # several sweeps may fill one file
            rows = sorted([*_rows(to), row], key=lambda each: [each[column] for column in COLUMNS])
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            new_file(to, text.getvalue().encode())  # on the disk before the training's state is let go of
        discard(scratch)
    say(f"{run.network}, seed {run.seed}: {row['split']} error {row['top1_error']} %")


def _rows(to: "Path") -> list[dict[str, str]]:
    """Raises UserError for a file that is no sweep's, or cannot be made: a training would be lost for it."""
    import csv
    import os

    from pipeline.errors import UserError

    if not os.access(to.parent, os.W_OK | os.X_OK) or not to.parent.is_dir():
        raise UserError(f"--to {to}: {to.parent} is no folder to write in", "name a file in a folder that exists")
    if not to.exists():
        return []
    other = UserError(f"{to} is no file of wrn-pipe sweep", "name another file")
    try:
        with to.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise other
            return list(reader)
    except (UnicodeDecodeError, csv.Error):
        raise other from None
    except OSError as error:
        raise UserError(f"{to}: {error.strerror}", "name another file") from None


def _row(plan: "Plan", record: dict[str, Any], values: dict[str, float | int]) -> dict[str, str]:
    """A line of the file: the whole recipe, so that it stands for itself when params.yaml has changed."""
    found = {
        **record,
        **values,
        "threads": record["device"]["threads"],
        "torch": record["versions"]["torch"],
        "processor": record["device"]["name"],
    }
    others = (column for column in COLUMNS if column not in RECIPE)
    row = _recipe(plan) | {column: _cell(found[column]) for column in others}
    return {column: row[column] for column in COLUMNS}


def _recipe(plan: "Plan") -> dict[str, str]:
    """The columns RECIPE of the plan's only run."""
    from pipeline.comparison.training_cost import FORWARD_AND_BACKWARD
    from pipeline.models.names import parse
    from pipeline.models.param_count import multiply_adds

    run = plan.run(RUN)
    protocol, dataset, network = plan.protocols[run.protocol], plan.datasets[run.dataset], parse(run.network)
    size = dataset.shape[0] if dataset.shape else network.image_size
    images = (dataset.splits["train"] - protocol.holdout) * protocol.epochs
    found = {
        **protocol.model_dump(mode="json"),
        **run.model_dump(mode="json"),
        "training_multiply_adds": FORWARD_AND_BACKWARD * multiply_adds(network, size, dataset.classes) * images,
        "split": "held-out" if protocol.holdout else "test",
    }
    return {column: _cell(found[column]) for column in RECIPE}


def _cell(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)
