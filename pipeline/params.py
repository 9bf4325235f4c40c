"""params.yaml as frozen, strictly checked objects: what to reproduce, and with which protocol."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.dataset_config import KNOWN, Dataset
from pipeline.errors import UserError
from pipeline.models.names import parse
from pipeline.publication.paper import TITLES

PARAMS = Path("params.yaml")


class Strict(BaseModel):
    """Unknown keys and wrong types are refused, values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StepSchedule(Strict):
    """The learning rate is multiplied by `factor` at the start of some epochs."""

    kind: Literal["step"]
    drop_after: tuple[int, ...] = Field(strict=False)
    """Completed epochs after which the rate drops: the authors' "epoch 60" is the 60th, so 59."""
    factor: Annotated[float, Field(gt=0, lt=1)]
    reset_momentum: bool
    """Zero the momentum buffer at each drop, as the authors' Torch7 code does by making a new optimiser state."""


class OneCycleSchedule(Strict):
    """Linear from `start_factor` times the learning rate up to it, then linear down to zero, per step."""

    kind: Literal["one-cycle"]
    warmup_fraction: Annotated[float, Field(gt=0, lt=1)]
    start_factor: Annotated[float, Field(gt=0, le=1)]


class WeightAverage(Strict):
    """The weights of a run are an exponential moving average over its training (Polyak & Juditsky 1992), batch
    statistics included. It is not trained with: gradients are those of the weights themselves."""

    decay: Annotated[float, Field(gt=0, lt=1)]
    """What remains of the average at each update; its mean age is every / (1 - decay) steps."""
    every: Annotated[int, Field(gt=0)]
    """Steps from one update to the next. The first update replaces the average."""


class Protocol(Strict):
    """The full recipe of a run: everything but dataset, network and seed."""

    epochs: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]
    optimizer: Literal["sgd"]
    learning_rate: Annotated[float, Field(gt=0)]
    """The highest rate of the schedule."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool
    weight_decay: Annotated[float, Field(ge=0)]
    """L2 penalty on all parameters, batch normalisation and biases included."""
    schedule: Annotated[StepSchedule | OneCycleSchedule, Field(discriminator="kind")]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Probability of zeroing in networks whose name ends in -dropout; other networks have none."""
    preprocessing: Literal["meanstd", "zca", "unit", "imagenet"]
    """meanstd: the authors' CIFAR-10 constants; zca: GCN and ZCA whitening; unit: divide by 255; imagenet: its own."""
    flip: Literal["none", "per-image", "half-batch"]
    """Horizontal: each image with p = 0.5, or exactly half of each mini-batch."""
    crop: Literal["none", "per-image", "per-batch", "random-resized"]
    """Random crop of the image's size from its 4-pixel reflection pad, or ImageNet's random resized crop."""
    drop_last: bool
    """Leave out the last, smaller mini-batch of each training epoch."""
    conv_init: Literal["fan_in", "fan_out"]
    bn_init: Literal["uniform", "ones"]
    precision: Literal["fp32", "bf16"]
    weight_average: WeightAverage | None = None
    """None: the weights after the last step are the run's."""
    holdout: Annotated[int, Field(ge=0)] = 0
    """So many training images, the same for every seed, are kept out of training and evaluated instead of the test
    split: for choosing settings without the test split."""
    test_every: Annotated[int, Field(ge=0)] = 0
    """The test split is also looked at while training, after every so many epochs, for curves; 0: at the end alone.
    Each look costs a forward pass in fp32 of all test images, and nothing is chosen by it: weights are the same."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Each mini-batch is shared evenly by so many processes (torchrun); batch_size stays that of them all."""
    batch_norm: Literal["per-process", "synchronised"] = "per-process"
    """Whose statistics normalise: those of a process's own share of the mini-batch, or of all of it. synchronised is
    made of torch's operations whatever `kernels` says, which is slower, and then any number of processes may train the
    run: only rounding differs (wrn-pipe stage train RUN --nproc N)."""

    @property
    def representation(self) -> str:
        """Kind of .beton file that training by it reads: Representation.kind."""
        return {"zca": "zca", "imagenet": "jpeg"}.get(self.preprocessing, "rgb")

    @model_validator(mode="after")
    def _consistent(self) -> "Protocol":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.test_every and self.holdout:
            raise ValueError("test_every looks at the test split, which holdout is there to leave alone")
        if self.batch_size % self.processes:
            raise ValueError(f"{self.processes} processes can not share batch_size {self.batch_size} evenly")
        if isinstance(self.schedule, StepSchedule):
            drops = self.schedule.drop_after
            if list(drops) != sorted(set(drops)) or (drops and not 0 < drops[0] <= drops[-1] < self.epochs):
                raise ValueError(f"drop_after {list(drops)} must rise strictly within 1..{self.epochs - 1}")
        return self


class Representation(Strict):
    """How a dataset's images are stored in .beton files."""

    dataset: str
    kind: Literal["rgb", "zca", "jpeg"]
    """rgb: the bytes as published, uint8; zca: whitened by the authors' recipe, float32; jpeg: images of any shape,
    compressed."""
    max_side: Annotated[int, Field(ge=32, le=2000)] | None = None
    """Of jpeg: larger images are scaled down until their longer side has so many pixels."""
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    """Of jpeg: what libjpeg calls its quality."""


class Run(Strict):
    """One training of one network on one dataset with one seed."""

    dataset: str
    """A key of `datasets`."""
    representation: str
    """Kind of representation, such as rgb: `<dataset>-<kind>` is a key of `representations`."""
    network: str
    """As the paper prints it, such as WRN-40-2-B(3,1,3); see `wrn-pipe net`."""
    protocol: str
    """A key of `protocols`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]


class Loading(Strict):
    """Which code reads the .beton files. Both give equal bytes; of JPEGs, equal boxes and nearly equal pixels."""

    backend: Literal["ffcv", "numpy"]


class Comparison(Strict):
    """Margins of "the same", in points of error, with the reason for each in params.yaml."""

    margins: dict[str, Annotated[float, Field(gt=0)]]


class Plan(Strict):
    """All of params.yaml."""

    datasets: dict[str, Dataset]
    """What there is to train on, and where it comes from."""
    representations: dict[str, Representation]
    """`<dataset>-<kind>` -> how its images are stored for training."""
    protocols: dict[str, Protocol]
    """Recipes by a name without dots."""
    runs: dict[str, Run]
    """Run id (lower-case letters, digits, hyphens) -> what is trained."""
    tables: tuple[str, ...] = Field(strict=False)
    """The paper's tables to write to results/."""
    loading: Loading
    device: Literal["auto", "cpu", "cuda"]
    """Where trainings and evaluations run: the fastest of the CPU and every CUDA GPU (auto) or of the GPUs (cuda), as a
    short matrix product measures them where there is more than one (pipeline/training/device.py)."""
    kernels: Literal["fused", "torch", "compiled"]
    """What trains (pipeline/kernels/apply.py). fused: BN-ReLU as one operation, on a CPU our own, built by g++ on
    first use (pipeline/kernels/bn_relu.py; post-activation networks keep torch's), with our own weight gradients where
    precision is bf16 and the processor has AVX512_BF16 or AMX, and all convolutions our own where it has AVX2 and no
    AVX512 (pipeline/kernels/convolution.py), on a GPU that of torch.compile; compiled: torch.compile, on a CPU as well;
    torch: torch's own, one after another. The three round differently, and run.json says which one it was, with its
    compiler. A protocol's batch_norm: synchronised takes torch."""
    comparison: Comparison

    def run(self, run_id: str) -> Run:
        if run_id not in self.runs:
            raise UserError(f"{PARAMS} has no run {run_id!r}", nearest(run_id, self.runs, "run"))
        return self.runs[run_id]


def nearest(word: str, known: Sequence[str] | dict[str, Any] | set[str], noun: str) -> str:
    """A remedy that names the nearest known word, or all of them."""
    known = sorted(known)
    if close := difflib.get_close_matches(word, known, n=1, cutoff=0.6):
        return f"did you mean {close[0]}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"known {noun}s: {shown or 'none'}"


def load(path: Path = PARAMS) -> Plan:
    """Read and check a plan. Raises UserError with the line of the first mistake and the nearest valid word."""
    above = next((folder for folder in Path.cwd().parents if (folder / path).is_file()), None)
    deleted = f"git checkout {path} if it was deleted"
    return parse_plan(read_text(path, f"cd {above}" if above else f"cd into the repository; {deleted}"), path)


def read_text(path: Path, remedy: str) -> str:
    """A text file. Raises UserError, with `remedy`, where it is not here, and with the line where it is not UTF-8."""
    try:
        content = path.read_bytes()
        return content.decode()
    except FileNotFoundError:
        raise UserError(f"{path} not found in {Path.cwd()}", remedy) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8, but byte {content[error.start]:#x}", "save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", remedy) from None


def yaml_mapping(text: str, path: Path, remedy: str, *, pure: bool = True) -> dict[str, Any]:
    """The mapping that a YAML text holds. Raises UserError, with the line, for what is none; `path` only names it.

    pure: by the parser in Python, whose messages are clearer; that in C is five times as fast.
    """
    try:
        values = YAML(typ="safe", pure=pure).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        what = " ".join((error.problem or str(error)).split())
        raise UserError(f"{path}:{mark.line + 1 if mark else 1}: {what}", remedy) from None
    except (YAMLError, ValueError) as error:  # a character that YAML does not have, a date that is none
        mark = getattr(error, "position", 0)
        raise UserError(f"{path}:{text.count(chr(10), 0, mark) + 1}: {' '.join(str(error).split())}", remedy) from None
    if not isinstance(values, dict):
        raise UserError(f"{path}:1: not a mapping", remedy)
    return values


def parse_plan(text: str, path: Path = PARAMS) -> Plan:
    """Check the text of a plan, as `load` does; `path` only names it."""
    values = yaml_mapping(text, path, f"mend the YAML there; its keys are {', '.join(Plan.model_fields)}")
    try:
        plan = Plan.model_validate(values)
    except ValidationError as error:
        # An unknown key first: where it is a misspelt one, the right one is reported missing as well.
        problem = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
        raise _mistake(path, _with_lines(text), problem) from None
    _check_references(path, text, plan)
    return plan


def _with_lines(text: str) -> Any:
    """The values with their places. Slow: only a mistake pays for it."""
    return YAML().load(text)


def _mistake(path: Path, lines: CommentedMap, problem: Any) -> UserError:
    keys, model = _yaml_path(problem["loc"], lines)
    where = f"{path}:{_line(lines, keys)}: {'.'.join(map(str, keys))}"
    word = next((key for key in reversed(problem["loc"]) if isinstance(key, str)), "")
    if problem["type"] == "extra_forbidden":
        return UserError(f"{where}: unknown key", nearest(word, set(model.model_fields) if model else set(), "key"))
    if problem["type"] == "missing":
        return UserError(f"{where}: missing", f"add {word} there; params.yaml in git has an example")
    if problem["type"] == "literal_error":
        return UserError(f"{where}: {problem['input']!r} is not a choice", f"choose {problem['ctx']['expected']}")
    if problem["type"] == "union_tag_invalid":
        wrong = f"{where}: kind {problem['ctx']['tag']!r} is not a choice"
        return UserError(wrong, f"choose {problem['ctx']['expected_tags']}")
    if problem["type"] == "value_error":
        return UserError(f"{where}: {problem['ctx']['error']}", "change one of the two")
    said = problem["msg"][0].lower() + problem["msg"][1:]
    return UserError(f"{where}: {said} (is {problem['input']!r})", _REMEDY.get(problem["type"], f"correct {word}"))


_REMEDY = {
    "int_type": "write a whole number, without quotes or a point",
    "float_type": "write a number without quotes; with an exponent it needs a point and a sign: 5.0e-4",
    "string_type": "put it into quotes",
    "bool_type": "write true or false, without quotes",
    "tuple_type": "write a list: [a, b]",
    "dict_type": "write a mapping: a key to a line, further in",
    "model_type": "write a mapping: a key to a line, further in",
}
"""By pydantic's kind of error: what YAML is like that has the right type."""


def _yaml_path(loc: Sequence[Any], lines: Any) -> tuple[list[Any], type[BaseModel] | None]:
    """The keys of `loc` that stand in the YAML (a union's tag does not) and the model that the last but one names."""
    keys: list[Any] = []
    model: Any = Plan
    parent: Any = None
    node = lines
    for part in loc:
        parent = model
        members = [m for m in _members(model) if isinstance(m, type) and issubclass(m, BaseModel)]
        tagged = [m for m in members if _tag(m) == part]
        if len(members) > 1 and tagged:
            model = tagged[0]
            continue
        fields = getattr(model, "model_fields", {})
        model = fields[part].annotation if part in fields else (get_args(model) or (None,))[-1]
        keys.append(part)
        if isinstance(node, CommentedMap | CommentedSeq):
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                node = None
    return keys, parent if isinstance(parent, type) and issubclass(parent, BaseModel) else None


def _members(model: Any) -> tuple[Any, ...]:
    arguments = get_args(model)
    if arguments and isinstance(arguments[0], type):
        return arguments
    return tuple(get_args(arguments[0])) if arguments else ()


def _tag(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation)[0] if kind else None


def _line(lines: Any, keys: Sequence[Any]) -> int:
    """Line (from 1) of the deepest of `keys` that exists."""
    line, node = 1, lines
    for key in keys:
        if isinstance(node, CommentedMap) and key in node:
            line = node.lc.key(key)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node):
            line = node.lc.item(key)[0] + 1
        else:
            break
        node = node[key]
    return line


def _check_references(path: Path, text: str, plan: Plan) -> None:
    def refuse(keys: list[str], what: str, remedy: str) -> None:
        raise UserError(f"{path}:{_line(_with_lines(text), keys)}: {'.'.join(keys)}: {what}", remedy)

    def known(keys: list[str], word: str, section: dict[str, Any], noun: str) -> None:
        if word not in section:
            refuse(keys, f"no {noun} {word!r}", nearest(word, section, noun))

    for section in ("datasets", "protocols"):
        for name in getattr(plan, section):
            if "." in name:
                # Stages depend on `protocols.<name>`, where DVC takes every dot for a step into the mapping.
                refuse([section, name], "a name has no dots", f"rename it {name.replace('.', '-')}")
    papers = yaml_mapping(KNOWN.read_text(encoding="utf-8"), KNOWN, "git checkout it", pure=False)["datasets"]
    for name in plan.comparison.margins:  # those of datasets that are not planned yet stand there as well
        known(["comparison", "margins", name], name, papers | plan.datasets, "dataset")
    for number, table in enumerate(plan.tables):
        if table not in TITLES:
            where = f"{path}:{_line(_with_lines(text), ['tables', number])}: tables"
            raise UserError(
                f"{where}: the paper has no table {table!r} with numbers", nearest(table, set(TITLES), "table")
            )
    for name, representation in plan.representations.items():
        known(["representations", name, "dataset"], representation.dataset, plan.datasets, "dataset")
        if name != f"{representation.dataset}-{representation.kind}":
            refuse(
                ["representations", name],
                "must be named <dataset>-<kind>",
                f"rename it {representation.dataset}-{representation.kind}",
            )
        one_shape = plan.datasets[representation.dataset].shape is not None
        if (representation.kind == "jpeg") == one_shape:
            refuse(
                ["representations", name, "kind"],
                f"{representation.dataset} has images of {'one shape' if one_shape else 'many shapes'}",
                f"choose {'rgb or zca' if one_shape else 'jpeg'}, and the name that goes with it",
            )
        for key, usual in (("max_side", 500), ("quality", 90)):
            if (getattr(representation, key) is not None) != (representation.kind == "jpeg"):
                refuse(
                    ["representations", name],
                    f"jpeg needs a {key}" if representation.kind == "jpeg" else f"only jpeg has a {key}",
                    f"add {key}: {usual}" if representation.kind == "jpeg" else f"remove {key}",
                )
    for run_id, run in plan.runs.items():
        at = ["runs", run_id]
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", run_id):
            refuse(at, "a run id has lower-case letters, digits and hyphens", f"e.g. {run.dataset}-wrn-40-1-quick-s1")
        known([*at, "dataset"], run.dataset, plan.datasets, "dataset")
        known([*at, "protocol"], run.protocol, plan.protocols, "protocol")
        known([*at, "representation"], f"{run.dataset}-{run.representation}", plan.representations, "representation")
        protocol = plan.protocols[run.protocol]
        if protocol.holdout >= plan.datasets[run.dataset].splits["train"]:
            refuse(["protocols", run.protocol, "holdout"], f"{run.dataset} has no more training images", "lower it")
        if (protocol.crop == "random-resized") == (plan.datasets[run.dataset].shape is not None):
            what = (
                f"{run.protocol} crops at random sizes, {run.dataset} has images of one size"
                if protocol.crop == "random-resized"
                else f"{run.protocol} does not crop at random sizes, {run.dataset} has images of many sizes"
            )
            refuse([*at, "protocol"], what, "choose another protocol")
        if plan.datasets[run.dataset].shape is None:
            needs = "jpeg"
        else:
            needs = "zca" if protocol.preprocessing == "zca" else "rgb"
        if run.representation != needs:
            refuse([*at, "representation"], f"protocol {run.protocol} needs {needs}", f"write representation: {needs}")
        try:
            parse(run.network)
        except UserError as error:
            refuse([*at, "network"], error.what, error.remedy)
