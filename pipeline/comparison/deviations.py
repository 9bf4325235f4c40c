"""Where a run differs from the paper's protocol for a claim, found by comparing the two field by field.

A material deviation makes the run not comparable; a minor one becomes a footnote. The lists below are DESIGN.md's;
what they do not name is material unless there is a reason, given here, why it can not matter.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.comparison.results import Result
from pipeline.dataset_config import Dataset
from pipeline.params import Protocol, StepSchedule, WeightAverage
from pipeline.publication.claims import Claim
from pipeline.publication.protocols import PaperProtocol, published_hardware, published_images

MATERIAL = {
    "epochs": "length of training",
    "batch_size": "batch size",
    "optimizer": "optimiser",
    "learning_rate": "optimiser",
    "momentum": "optimiser",
    "nesterov": "optimiser",
    "weight_decay": "weight decay",
    "schedule": "learning-rate schedule",
    "label_smoothing": "another loss",
    "dropout": "dropout",
    "preprocessing": "preprocessing",
    "flip": "another kind of augmentation",
    "crop": "another kind of augmentation",
    "bn_init": "initialisation",
    "weight_average": "another model: an average over the training",
    "holdout": "fewer training images, and other test images",
    "processes": "batch normalisation by fewer images",
}
"""Field of Protocol -> why a difference there is material."""
MINOR = {
    "drop_last": "one step in several hundred per epoch",
    "conv_init": "batch normalisation after each convolution undoes the scale",
    "precision": "rounding only",
    "batch_norm": "of the whole mini-batch in both: rounding only",
}
"""Field of Protocol -> why a difference there is minor."""
NO_MATTER = {"test_every"}
"""Fields of Protocol that no result depends on."""
SAME_KIND = {
    "flip": ({"per-image", "half-batch"}, "the paper's own two eras differ in it"),
    "crop": ({"per-image", "per-batch"}, "the paper's own two eras differ in it"),
}
"""Field -> values among which a difference is minor, and why."""


@dataclass(frozen=True, order=True)
class Deviation:
    """One difference between a run and the paper."""

    field: str
    published: str
    ours: str
    material: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.field.replace('_', ' ')}: {self.ours} instead of {self.published}"


def deviations(result: Result, claim: Claim, paper: PaperProtocol, dataset: Dataset | None) -> tuple[Deviation, ...]:
    """All differences, material ones first. `dataset` is the plan's entry for the claim's dataset, if it has one."""
    found = [
        *_protocol_deviations(result.record.protocol, claim, paper),
        *_data_deviations(result, claim, dataset),
        *_hardware_deviations(result),
    ]
    return tuple(sorted(found, key=lambda deviation: not deviation.material))


def is_comparable(found: tuple[Deviation, ...]) -> bool:
    return not any(deviation.material for deviation in found)


def _protocol_deviations(ours: Protocol, claim: Claim, paper: PaperProtocol) -> list[Deviation]:
    found = []
    for field in Protocol.model_fields:
        if field in NO_MATTER:
            continue
        theirs_value, our_value = getattr(paper.protocol, field), getattr(ours, field)
        if field == "dropout":
            # The rate only acts in networks that have dropout, and the claim names the paper's rate.
            theirs_value, our_value = claim.dropout or 0.0, our_value if claim.network.endswith("-dropout") else 0.0
        if theirs_value == our_value:
            continue
        if field == "processes" and ours.batch_norm == "synchronised":
            material, reason = False, "they share gradients and statistics: rounding only"
        else:
            material, reason = _weigh(field, theirs_value, our_value, paper)
        found.append(Deviation(field, _show(theirs_value), _show(our_value), material, reason))
    return found


def _weigh(field: str, theirs: Any, ours: Any, paper: PaperProtocol) -> tuple[bool, str]:
    if not paper.is_stated(field):
        return False, "the paper does not state it"
    if field in SAME_KIND and {theirs, ours} <= SAME_KIND[field][0]:
        return False, SAME_KIND[field][1]
    if field in MINOR:
        return False, MINOR[field]
    return True, MATERIAL[field]


def _show(value: Any) -> str:
    if isinstance(value, StepSchedule):
        reset = ", momentum reset" if value.reset_momentum else ""
        return f"x{value.factor:g} after {'/'.join(map(str, value.drop_after))} epochs{reset}"
    if isinstance(value, WeightAverage):
        return f"decay {value.decay:g} every {value.every} steps"
    if value is None:
        return "none"
    if hasattr(value, "kind"):
        return str(value.kind)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _data_deviations(result: Result, claim: Claim, dataset: Dataset | None) -> list[Deviation]:
    found = []
    metrics, record = result.metrics, result.record
    whole = published_images(claim.dataset, "test")
    if metrics.split != "test" or metrics.n != whole:
        ours = f"{metrics.n} images of the {metrics.split} split"
        found.append(Deviation("test_split", f"{whole} images", ours, True, "another test split"))
    trained = published_images(claim.dataset, "train")
    if dataset is not None and dataset.splits["train"] != trained:
        ours = f"{dataset.splits['train']} images"
        found.append(Deviation("training_split", f"{trained} images", ours, True, "another training split"))
    if record.epochs != record.protocol.epochs:
        ours = f"{record.epochs} epochs"
        found.append(Deviation("completed", f"{record.protocol.epochs} epochs", ours, True, "unfinished training"))
    stored = record.protocol.representation
    if record.representation != stored:
        found.append(Deviation("representation", stored, record.representation, True, "preprocessing"))
    return found


def _hardware_deviations(result: Result) -> list[Deviation]:
    paper, record = published_hardware(), result.record
    device = record.device.name if record.device.name else record.device.type
    found = []
    if device != paper.device:
        found.append(Deviation("device", paper.device, device, False, "rounding only"))
    # No run of this tool is one of Torch7: the library always differs.
    library = f"PyTorch {record.versions['torch']}" if "torch" in record.versions else "PyTorch, version not recorded"
    found.append(Deviation("library", paper.library, library, False, "rounding and defaults of another library"))
    return found
