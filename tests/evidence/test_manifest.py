"""results/manifest.json: what it says of every cell and run, and that it says nothing else."""

import hashlib
import json
from contextlib import chdir
from pathlib import Path

import pytest
from project import RUN, Project

from pipeline.atomic_write import json_text
from pipeline.errors import UserError
from pipeline.evidence.table_manifest import manifest
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.dag import stages
from pipeline.runner.params_file import load


def test_it_has_every_claim_of_the_tables_with_its_verdict(finished: Project) -> None:
    told = json.loads((finished.root / "results/manifest.json").read_text())
    cells = told["tables"]["4"]["cells"]
    assert {cell["claim"] for cell in cells} - {None} == {claim.id for claim in PAPER.claims_of("4")}
    by_claim = {cell["claim"]: cell for cell in cells}
    assert by_claim["4/cifar10/WRN-40-1/top1_error"]["verdict"] == "not run"
    assert by_claim["4/cifar10/WRN-40-1/top1_error"]["printed"] == "6.85"
    assert by_claim["4/cifar10/WRN-40-1/params_millions"]["verdict"] == "same count"


def test_it_has_what_stands_behind_a_run(finished: Project) -> None:
    run = json.loads((finished.root / "results/manifest.json").read_text())["runs"][RUN]
    record = json.loads((finished.root / f"models/{RUN}/run.json").read_text())
    assert run["fingerprint"] == record["fingerprint"]
    assert run["settings"] == record["protocol"]
    assert run["devices"] == record["devices"]
    assert run["evaluated_on"]["name"]
    assert run["metrics"] == json.loads((finished.root / f"evaluations/{RUN}/metrics.json").read_text())
    card = (finished.root / "data/beton/cifar10-tiny-rgb/card.json").read_bytes()
    assert run["data"]["card"] == hashlib.sha256(card).hexdigest()
    for path, digest in run["files"].items():
        assert hashlib.sha256((finished.root / path).read_bytes()).hexdigest() == digest
    assert set(run["stages"]) <= {stage.name for stage in stages(finished.root)}
    assert run["command"] == f"wrn-pipe repro train@{RUN} evaluate@{RUN}"


def test_it_says_nothing_of_the_checkout(finished: Project) -> None:
    """The same bytes at another commit, in another place, at another time."""
    before = (finished.root / "results/manifest.json").read_text()
    with chdir(finished.root):
        assert json_text(manifest(PAPER, load(), Path())) == before
    assert str(finished.root) not in before
    assert finished.run("git", "rev-parse", "HEAD").stdout.strip() not in before


@pytest.mark.parametrize("content", ["{", "[]", '{"data": {}}', None])
def test_broken_digests_are_named(copy: Project, content: str | None) -> None:
    path = Path("evaluations") / RUN / "digests.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=r"digests\.json") as refusal:
        manifest(PAPER, load(), Path())
    assert refusal.value.remedy == f"it is written by: wrn-pipe repro evaluate@{RUN}"
