"""Where a run differs from the paper's protocol for a claim, found by comparing the two field by field.

A material deviation makes the run not comparable; a minor one becomes a footnote. What each field weighs, and the
evidence for it, is publication/deviations.yaml.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.comparison.results import Result
from pipeline.models.names import parse
from pipeline.params import Plan, Protocol, StepSchedule, WeightAverage
from pipeline.publication.claims import Claim
from pipeline.publication.paper import Paper, PaperProtocol

_REENCODED = "JPEGs scaled down and encoded a second time; the network sees them at 224 pixels a side"
_REENCODED_EVIDENCE = (
    "libffcv/ffcv-imagenet: a ResNet-50 comes to 78.4 % top-1 on images of at most 500 pixels, half of them encoded "
    "again at quality 90; no comparison with the original files is known"
)


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


def deviations(result: Result, claim: Claim, recipe: PaperProtocol, paper: Paper, plan: Plan) -> tuple[Deviation, ...]:
    """All differences from the claim's `recipe`; what data the run read is told by the plan, where that has it."""
    of_run = [each for each in _facts(result, claim, paper, plan) if each.ours != each.published]
    return (*_of_protocol(result.record.protocol, claim, recipe, paper), *of_run)


def _of_protocol(ours: Protocol, claim: Claim, recipe: PaperProtocol, paper: Paper) -> Iterator[Deviation]:
    for field in Protocol.model_fields:
        weight = paper.weights[field]
        theirs, our = getattr(recipe.protocol, field), getattr(ours, field)
        if field == "dropout":
            # The rate only acts in networks that have dropout, and the claim names the paper's rate.
            theirs, our = claim.dropout or 0.0, our if parse(claim.network).dropout else 0.0
        if weight.weight == "none" or theirs == our:
            continue
        material, reason, evidence = weight.weight == "material", weight.reason, weight.evidence
        if recipe.sources[field].startswith("unstated"):
            material, reason, evidence = False, "the paper does not state it", recipe.sources[field]
        elif {theirs, our} <= set(weight.minor_among):
            material, reason, evidence = False, weight.minor_reason, weight.minor_evidence
        elif field == "processes" and ours.batch_norm == "synchronised":
            synchronised = paper.weights["batch_norm"]
            material, reason, evidence = False, synchronised.reason, synchronised.evidence
        yield Deviation(field, _show(theirs), _show(our), material, reason, evidence)


def _show(value: Any) -> str:
    if isinstance(value, StepSchedule):
        reset = ", momentum reset" if value.reset_momentum else ""
        return f"x{value.factor:g} after {'/'.join(map(str, value.drop_after))} epochs{reset}"
    if isinstance(value, WeightAverage):
        return f"decay {value.decay:g} every {value.every} steps"
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(getattr(value, "kind", value))


def _facts(result: Result, claim: Claim, paper: Paper, plan: Plan) -> Iterator[Deviation]:
    """What run.json, metrics.json and the plan say of a run beside its protocol, whether it differs or not."""
    metrics, record = result.metrics, result.record
    tested, trained = (f"{paper.images(claim.dataset, split)} images" for split in ("test", "train"))
    split = f"{metrics.n} images of the {metrics.split} split"
    yield Deviation("test_split", f"{tested} of the test split", split, True, "another test split")
    if dataset := plan.datasets.get(claim.dataset):
        ours = f"{dataset.splits['train']} images"
        yield Deviation("training_split", trained, ours, True, "another training split")
    epochs = f"{record.protocol.epochs} epochs"
    yield Deviation("completed", epochs, f"{record.epochs} epochs", True, "unfinished training")
    yield Deviation("representation", record.protocol.representation, record.representation, True, "preprocessing")
    stored = plan.representations.get(f"{claim.dataset}-{record.representation}")
    if stored and stored.max_side and stored.quality:
        ours = f"longer side at most {stored.max_side}, quality {stored.quality}"
        poor = stored.max_side < 500 or stored.quality < 90  # which the evidence does not cover
        yield Deviation("stored_images", "the original files", ours, poor, _REENCODED, _REENCODED_EVIDENCE)
    yield Deviation("device", paper.hardware["device"], str(record.device["name"]), False, "rounding only")
    library = f"PyTorch {record.versions['torch']}"
    yield Deviation("library", paper.hardware["library"], library, False, "rounding and defaults of another library")
