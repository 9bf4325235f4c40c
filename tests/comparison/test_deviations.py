"""Every field of a protocol, and every fact of a run record that bears on it, is compared."""

import pytest
from made_up_runs import changed, plan_text, result

from pipeline.comparison.deviations import deviations
from pipeline.params import PARAMS, OneCycleSchedule, Protocol, Representation
from pipeline.publication.claims import Claim
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import parse_plan

CLAIMS = {claim.id: claim for claim in PAPER.claims}
PLAIN = CLAIMS["4/cifar10/WRN-40-1/top1_error"]
DROPOUT = CLAIMS["6/cifar10/WRN-28-10-dropout/top1_error"]
IMAGENET = CLAIMS["7/imagenet/WRN-18-2.0/top1_error"]
STEPS = {"kind": "step", "drop_after": (59, 119, 159), "factor": 0.2, "reset_momentum": True}


PLAN = parse_plan(plan_text([]), PARAMS)


def found(claim: Claim, plan=PLAN, **settings):
    recipe = PAPER.protocol_of(claim)
    run = result(600, network=claim.model, dataset=claim.dataset, **{"protocol": recipe.name, **settings})
    return {d.field: d for d in deviations(run, claim, recipe, PAPER, plan)}


CHANGES = [
    ("epochs", 300, True),
    ("batch_size", 256, True),
    ("learning_rate", 0.2, True),
    ("momentum", 0.8, True),
    ("nesterov", False, True),
    ("weight_decay", 0.0001, True),
    ("schedule", {**STEPS, "factor": 0.1}, True),
    ("schedule", {**STEPS, "drop_after": (60, 120, 160)}, True),
    ("schedule", {"kind": "one-cycle", "warmup_fraction": 0.3, "start_factor": 0.1}, True),
    ("label_smoothing", 0.1, True),
    ("preprocessing", "meanstd", True),
    ("flip", "per-image", False),
    ("flip", "none", True),
    ("crop", "per-image", True),
    ("crop", "none", True),
    ("crop", "random-resized", True),
    ("drop_last", False, False),
    ("conv_init", "fan_in", False),
    ("bn_init", "ones", True),
    ("precision", "bf16", False),
    ("weight_average", {"decay": 0.9, "every": 5}, True),
    ("holdout", 5000, True),
    ("processes", 2, True),
    ("batch_norm", "synchronised", False),
]


@pytest.mark.parametrize(
    ("field", "value", "material"), CHANGES, ids=[f"{f}-{i}" for i, (f, _, _) in enumerate(CHANGES)]
)
def test_a_changed_field_is_found_and_weighed(field: str, value, material: bool) -> None:
    recipe = changed("paper-zca", **{field: value, **({"test_every": 0} if field == "holdout" else {})})
    differences = found(PLAIN, protocol=recipe, representation=recipe.representation)
    assert set(differences) - {"device", "library"} == {field}
    assert differences[field].material is material
    assert differences[field].reason
    assert len(differences[field].evidence) > 20, "each weight says what it rests on"


def test_all_fields_of_a_protocol_are_weighed() -> None:
    # one optimizer exists; the two others are below
    tested = {field for field, _, _ in CHANGES} | {"optimizer", "dropout", "color"}
    assert set(PAPER.weights) == set(Protocol.model_fields)
    assert tested == {field for field, weight in PAPER.weights.items() if weight.weight != "none"}


def test_what_is_no_deviation_and_what_is_minor_together() -> None:
    assert changed("paper-zca").test_every == 1
    assert found(PLAIN, protocol=changed("paper-zca", test_every=0)) == found(PLAIN)
    differences = found(PLAIN, protocol=changed("paper-zca", processes=4, batch_norm="synchronised"))
    assert [differences[field].material for field in ("processes", "batch_norm")] == [False, False]
    assert str(differences["processes"]) == "processes: 4 instead of 1"


def test_dropout_counts_only_where_the_network_has_it() -> None:
    assert "dropout" not in found(PLAIN, protocol=changed("paper-zca", dropout=0.0))
    assert "dropout" not in found(DROPOUT)
    deviation = found(DROPOUT, protocol=changed("paper-meanstd", dropout=0.1))["dropout"]
    assert (deviation.published, deviation.ours, deviation.material) == ("0.3", "0.1", True)


def test_an_unstated_field_is_minor() -> None:
    differences = found(IMAGENET, protocol=changed("paper-imagenet", processes=4, nesterov=False))
    assert {f: differences[f].material for f in ("processes", "nesterov")} == {"processes": False, "nesterov": True}


def test_imagenet_without_its_colors_is_material() -> None:
    deviation = found(IMAGENET, protocol=changed("paper-imagenet", color="none"), representation="jpeg")["color"]
    assert deviation.material
    assert "fb.resnet.torch" in deviation.evidence
    assert str(deviation) == "color: none instead of jitter-lighting"
    assert "color" not in found(IMAGENET)


@pytest.mark.parametrize(
    ("max_side", "quality", "material"), [(500, 90, False), (600, 95, False), (499, 90, True), (500, 89, True)]
)
def test_images_that_were_encoded_again_are_told(max_side: int, quality: int, material: bool) -> None:
    stored = Representation(dataset="imagenet", kind="jpeg", max_side=max_side, quality=quality)
    plan = PLAN.model_copy(update={"representations": {"imagenet-jpeg": stored}})
    deviation = found(IMAGENET, plan, representation="jpeg")["stored_images"]
    ours = f"longer side at most {max_side}, quality {quality}"
    assert str(deviation) == f"stored images: {ours} instead of the original files"
    assert deviation.material is material
    assert "stored_images" not in found(IMAGENET, representation="jpeg")


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"n": 5000}, "test_split", "test split: 5000 images of the test split instead of 10000 images"),
        ({"split": "held-out"}, "test_split", "10000 images of the held-out split instead of 10000 images"),
        ({"epochs": 120}, "completed", "completed: 120 epochs instead of 200 epochs"),
        ({"representation": "rgb"}, "representation", "representation: rgb instead of zca"),
    ],
)
def test_facts_of_the_run_are_material(change, field: str, said: str) -> None:
    deviation = found(PLAIN, **change)[field]
    assert deviation.material
    assert str(deviation).endswith(said)


def test_training_split_is_the_plans() -> None:
    smaller = PLAN.datasets["cifar10"].model_copy(update={"splits": {"train": 45_000, "test": 10_000}})
    assert found(PLAIN, PLAN.model_copy(update={"datasets": {"cifar10": smaller}}))["training_split"].material


def test_the_papers_protocol_deviates_in_machine_and_library_only() -> None:
    assert set(found(PLAIN, device={"type": "cuda", "name": "NVIDIA Titan X"})) == {"library"}
    assert found(PLAIN, device={"type": "cpu"})["device"].ours == "cpu"
    differences = found(PLAIN)
    assert {f: d.material for f, d in differences.items()} == {"device": False, "library": False}
    assert "2.14.1" in str(differences["library"])
    assert "H200" in str(differences["device"])


def test_schedules_are_shown_in_words() -> None:
    one_cycle = OneCycleSchedule(kind="one-cycle", warmup_fraction=0.3, start_factor=0.1)
    shown = str(found(PLAIN, protocol=changed("paper-zca", schedule=one_cycle, processes=2))["schedule"])
    assert shown == "schedule: one-cycle instead of x0.2 after 59/119/159 epochs, momentum reset"
