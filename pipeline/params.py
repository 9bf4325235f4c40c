"""params.yaml as frozen, strictly checked objects: what to reproduce, and with which protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.dataset_config import Dataset, Strict
from pipeline.errors import UserError, nearest

T = TypeVar("T")
PARAMS = Path("params.yaml")
Precision = Literal["fp32", "bf16"]
Normalisation = Literal["meanstd", "zca", "unit", "imagenet"]
Flip = Literal["none", "per-image", "half-batch"]
Crop = Literal["none", "per-image", "per-batch", "random-resized"]
Color = Literal["none", "jitter-lighting"]
ConvInit = Literal["fan_in", "fan_out"]
BnInit = Literal["uniform", "ones"]
Backend = Literal["ffcv", "numpy"]
Device = Literal["auto", "cpu", "cuda"]
Kernels = Literal["fused", "torch", "compiled", "graphs"]


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
    preprocessing: Normalisation
    """meanstd: the authors' CIFAR-10 constants; zca: GCN and ZCA whitening; unit: divide by 255; imagenet: its own."""
    flip: Flip
    """Horizontal: each image with p = 0.5, or exactly half of each mini-batch."""
    crop: Crop
    """Random crop of the image's size from its 4-pixel reflection pad, or ImageNet's random resized crop."""
    color: Color = "none"
    """Of training images, before they are normalised. jitter-lighting: fb.resnet.torch's brightness, contrast and
    saturation, each blended by a factor of 0.6 to 1.4, in random order, and PCA lighting of deviation 0.1, drawn for
    each image; needs crop random-resized."""
    drop_last: bool
    """Leave out the last, smaller mini-batch of each training epoch."""
    conv_init: ConvInit
    bn_init: BnInit
    precision: Precision
    """bf16: automatic mixed precision. A processor without instructions for bfloat16 computes in fp32 instead, and
    run.json says so."""
    weight_average: WeightAverage | None = None
    """None: the weights after the last step are the run's."""
    holdout: Annotated[int, Field(ge=0)] = 0
    """Training images, the same for every seed, that are kept out of training and evaluated instead of the test split:
    for choosing settings without the test split."""
    test_every: Annotated[int, Field(ge=0)] = 0
    """Epochs after which the test split is also looked at while training, for curves; 0: at the end alone. Each look
    costs a forward pass in fp32 of all test images, and nothing is chosen by it: weights are the same."""
    processes: Annotated[int, Field(ge=1)] = 1
    """That share each mini-batch evenly (torchrun); batch_size stays that of them all."""
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
        if self.color != "none" and self.crop != "random-resized":
            raise ValueError(f"color {self.color} needs crop random-resized, not {self.crop}")
        if self.batch_size % self.processes:
            raise ValueError(f"{self.processes} processes cannot share batch_size {self.batch_size} evenly")
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
    """Of jpeg: larger images are scaled down until their longer side has this number of pixels."""
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

    backend: Backend


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
    device: Device
    """Where trainings and evaluations run. auto: on the first visible CUDA GPU, and where there is none on the CPU;
    cuda: on the first GPU, or not at all. CUDA_VISIBLE_DEVICES chooses among several."""
    kernels: Kernels
    """What trains (pipeline/kernels/apply.py). fused: BN-ReLU as one operation, on a CPU our own, built by g++ on
    first use (pipeline/kernels/bn_relu.cpp; post-activation networks keep torch's), with our own weight gradients where
    precision is bf16 and the processor has AVX512_BF16 or AMX (pipeline/kernels/convolution.cpp), on a GPU that of
    torch.compile; compiled: torch.compile, on a CPU as well; graphs: on a GPU alone, its kernels launched as two CUDA
    graphs a step, or an error; torch: torch's own, one after another. They round differently, and run.json says which
    one it was, with its compiler. A protocol's batch_norm: synchronised takes torch."""
    comparison: Comparison

    def run(self, run_id: str) -> Run:
        return entry(self.runs, run_id, "run")


def entry(section: Mapping[str, T], name: str, noun: str) -> T:
    """What a section of params.yaml has under a name. Raises UserError, with the nearest name, where it has none."""
    if name not in section:
        raise UserError(f"{PARAMS} has no {noun} {name!r}", nearest(name, section, noun))
    return section[name]


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


def yaml_mapping(text: str, path: Path, remedy: str) -> dict[str, Any]:
    """The mapping that a YAML text holds. Raises UserError, with the line, for anything else; `path` only names it.

    The parser in C, which DVC uses as well, is five times as fast as the one in Python, whose messages are clearer.
    """
    try:
        values = YAML(typ="safe").load(text)
    except (YAMLError, ValueError):
        try:
            values = YAML(typ="safe", pure=True).load(text)
        except (YAMLError, ValueError) as error:  # one without a mark: a character that YAML does not have, a bad date
            mark = getattr(error, "problem_mark", None)
            line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
            what = " ".join(str(getattr(error, "problem", None) or error).split())
            raise UserError(f"{path}:{line + 1}: {what}", remedy) from None
    if not isinstance(values, dict):
        raise UserError(f"{path}:1: not a mapping", remedy)
    return values
