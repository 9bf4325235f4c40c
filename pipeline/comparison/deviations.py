"""Where a run differs from the paper's protocol for a claim, found by comparing the two field by field.

A material deviation makes the run not comparable; a minor one becomes a footnote. What each field weighs, and the
evidence for it, is publication/deviations.yaml.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.comparison.results import Result
from pipeline.dataset_config import Dataset
from pipeline.params import Protocol, Representation, StepSchedule, WeightAverage
from pipeline.publication.claims import Claim
from pipeline.publication.paper import Paper
from pipeline.publication.statements import Hardware, PaperProtocol, Weight

_REENCODED = "JPEGs scaled down and encoded a second time; the network sees them at 224 pixels a side"
_REENCODED_EVIDENCE = (
    "libffcv/ffcv-imagenet: a ResNet-50 comes to 78.4 % top-1 on images of at most 500 pixels, half of them encoded "
    "again at quality 90; no comparison with the original files is known"
)
_WELL_ENCODED = 500, 90
"""The side and the quality that this evidence covers."""


@dataclass(frozen=True, order=True)
class Deviation:
    """One difference between a run and the paper."""

    field: str
    published: str
    ours: str
    material: bool
    reason: str
    evidence: str = ""
    """What its weight rests on; empty where the reason says it."""

    def __str__(self) -> str:
        return f"{self.field.replace('_', ' ')}: {self.ours} instead of {self.published}"


def deviations(
    result: Result,
    claim: Claim,
    recipe: PaperProtocol,
    paper: Paper,
    dataset: Dataset | None,
    stored: Representation | None = None,
) -> tuple[Deviation, ...]:
    """All differences from the claim's `recipe`, material ones first.

    `dataset` is the plan's entry for the claim's dataset, and `stored` that for the form in which the run read it, if
    the plan has them.
    """
    found = [
        *_of_protocol(result.record.protocol, claim, recipe, paper.weights),
        *_of_data(result, claim, paper, dataset, stored),
        *_of_hardware(result, paper.hardware),
    ]
    return tuple(sorted(found, key=lambda deviation: not deviation.material))


def is_comparable(found: tuple[Deviation, ...]) -> bool:
    return not any(deviation.material for deviation in found)


def _of_protocol(
    ours: Protocol, claim: Claim, recipe: PaperProtocol, weights: dict[str, Weight]
) -> Iterator[Deviation]:
    for field in Protocol.model_fields:
        weight = weights[field]
        theirs, our = getattr(recipe.protocol, field), getattr(ours, field)
        if field == "dropout":
            # The rate only acts in networks that have dropout, and the claim names the paper's rate.
            theirs, our = claim.dropout or 0.0, our if claim.network.endswith("-dropout") else 0.0
        if weight.weight == "none" or theirs == our:
            continue
        material, reason, evidence = weight.weight == "material", weight.reason, weight.evidence
        if not recipe.is_stated(field):
            material, reason, evidence = False, "the paper does not state it", recipe.sources[field]
        elif {theirs, our} <= set(weight.minor_among):
            material, reason, evidence = False, weight.minor_reason, weight.minor_evidence
        elif field == "processes" and ours.batch_norm == "synchronised":
            material, reason, evidence = False, weights["batch_norm"].reason, weights["batch_norm"].evidence
        yield Deviation(field, _show(theirs), _show(our), material, reason, evidence)


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


def _of_data(
    result: Result, claim: Claim, paper: Paper, dataset: Dataset | None, stored: Representation | None
) -> Iterator[Deviation]:
    metrics, record = result.metrics, result.record
    whole, trained = paper.images(claim.dataset, "test"), paper.images(claim.dataset, "train")
    if metrics.split != "test" or metrics.n != whole:
        ours = f"{metrics.n} images of the {metrics.split} split"
        yield Deviation("test_split", f"{whole} images", ours, True, "another test split")
    if dataset is not None and dataset.splits["train"] != trained:
        ours = f"{dataset.splits['train']} images"
        yield Deviation("training_split", f"{trained} images", ours, True, "another training split")
    if record.epochs != record.protocol.epochs:
        planned, ours = f"{record.protocol.epochs} epochs", f"{record.epochs} epochs"
        yield Deviation("completed", planned, ours, True, "unfinished training")
    if record.representation != record.protocol.representation:
        needed = record.protocol.representation
        yield Deviation("representation", needed, record.representation, True, "preprocessing")
    if stored and stored.max_side and stored.quality:
        ours = f"longer side at most {stored.max_side}, quality {stored.quality}"
        poor = stored.max_side < _WELL_ENCODED[0] or stored.quality < _WELL_ENCODED[1]
        yield Deviation("stored_images", "the original files", ours, poor, _REENCODED, _REENCODED_EVIDENCE)


def _of_hardware(result: Result, theirs: Hardware) -> Iterator[Deviation]:
    record = result.record
    device = record.device.name or record.device.type
    if device != theirs.device:
        yield Deviation("device", theirs.device, device, False, "rounding only")
    # No run of this tool is one of Torch7: the library always differs.
    version = record.versions.get("torch")
    library = f"PyTorch {version}" if version else "PyTorch, version not recorded"
    yield Deviation("library", theirs.library, library, False, "rounding and defaults of another library")
