"""Records of runs are read strictly; every field of a protocol, and every fact of a record that bears on it, counts."""

import json

import pytest
from made_up_runs import changed, plan_text, result, write

from pipeline.comparison.deviations import deviations
from pipeline.comparison.results import load_results
from pipeline.errors import UserError
from pipeline.params import PARAMS, Protocol, Representation
from pipeline.publication.claims import Claim
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import parse_plan

CLAIMS = {claim.id: claim for claim in PAPER.claims}
PLAIN = CLAIMS["4/cifar10/WRN-40-1/top1_error"]
DROPOUT = CLAIMS["6/cifar10/WRN-28-10-dropout/top1_error"]
IMAGENET = CLAIMS["7/imagenet/WRN-18-2.0/top1_error"]
ONE_CYCLE = {"kind": "one-cycle", "warmup_fraction": 0.3, "start_factor": 0.1}
STEPS = {"kind": "step", "drop_after": (59, 119, 159), "factor": 0.2, "reset_momentum": True}
PLAN = parse_plan(plan_text([]), PARAMS, PAPER)


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
    ("schedule", ONE_CYCLE, True),
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
    # one optimizer exists; the two others are in words
    tested = {field for field, _, _ in CHANGES} | {"optimizer", "dropout", "color"}
    assert set(PAPER.weights) == set(Protocol.model_fields)
    assert tested == {field for field, weight in PAPER.weights.items() if weight.weight != "none"}


@pytest.mark.parametrize(
    ("claim", "fields", "settings", "said", "material"),
    [
        (PLAIN, {"processes": 4, "batch_norm": "synchronised"}, {}, "processes: 4 instead of 1", False),
        (PLAIN, {"schedule": ONE_CYCLE}, {}, "schedule: one-cycle instead of x0.2 after 59/119/159 epochs", True),
        (DROPOUT, {"dropout": 0.1}, {}, "dropout: 0.1 instead of 0.3", True),
        (IMAGENET, {"color": "none"}, {}, "color: none instead of jitter-lighting", True),
        (IMAGENET, {"nesterov": False}, {}, "nesterov: no instead of yes", True),
        (IMAGENET, {"processes": 4}, {}, "processes: 4 instead of 1", False),  # which the paper leaves unstated
        (PLAIN, {}, {"n": 5000}, "test split: 5000 images of the test split instead of 10000 images", True),
        (PLAIN, {}, {"split": "held-out"}, "test split: 10000 images of the held-out split instead of 10000", True),
        (PLAIN, {}, {"epochs": 120}, "completed: 120 epochs instead of 200 epochs", True),
        (PLAIN, {}, {"representation": "rgb"}, "representation: rgb instead of zca", True),
    ],
)
def test_a_deviation_in_words(claim: Claim, fields, settings, said: str, material: bool) -> None:
    recipe = changed(PAPER.protocol_of(claim).name, **fields)
    (deviation,) = [d for d in found(claim, protocol=recipe, **settings).values() if str(d).startswith(said)]
    assert deviation.material is material


def test_what_is_no_deviation() -> None:
    assert changed("paper-zca").test_every == 1
    assert found(PLAIN, protocol=changed("paper-zca", test_every=0)) == found(PLAIN)
    assert found(PLAIN, protocol=changed("paper-zca", dropout=0.0)) == found(PLAIN), "it has no dropout"
    assert {"dropout", "color"} & (found(DROPOUT).keys() | found(IMAGENET).keys()) == set()


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


def test_training_split_is_the_plans() -> None:
    smaller = PLAN.datasets["cifar10"].model_copy(update={"splits": {"train": 45_000, "test": 10_000}})
    assert found(PLAIN, PLAN.model_copy(update={"datasets": {"cifar10": smaller}}))["training_split"].material


def test_the_papers_protocol_deviates_in_machine_and_library_only() -> None:
    assert set(found(PLAIN, device={"type": "cuda", "name": "NVIDIA Titan X"})) == {"library"}
    differences = found(PLAIN)
    assert {f: d.material for f, d in differences.items()} == {"device": False, "library": False}
    assert "2.14.1" in str(differences["library"])
    assert "H200" in str(differences["device"])


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("metrics.json", {"errors": "685"}, "errors"),
        ("metrics.json", {"network": "WRN-40-2"}, "WRN-40-2"),
        ("metrics.json", {"run": "another"}, "another"),
        ("run.json", {"run": "another"}, "another"),
        ("run.json", {"protocol": {"epochs": 3}}, "protocol"),
    ],
)
def test_a_broken_record_is_named(tmp_path, file, change, named) -> None:
    run = result(685)
    write([run], tmp_path)
    path = tmp_path / "evaluations" / run.run / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as caught:
        load_results(tmp_path)
    assert f"evaluations/{run.run}" in caught.value.what
    assert named in caught.value.what
    assert run.run in caught.value.remedy
