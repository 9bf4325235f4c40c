"""Where a number comes from: results/manifest.json and, with the checkout, wrn-pipe show and explain."""

import hashlib
import json
import re
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from project import RUN, Project
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.comparison.cells import planned
from pipeline.comparison.results import load_results
from pipeline.errors import UserError
from pipeline.evidence.provenance_summary import as_text
from pipeline.evidence.table_manifest import manifest
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.dag import stages
from pipeline.runner.params_file import load


def told(*arguments: str) -> str:
    """What the command prints, in one line a paragraph's words."""
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output + repr(ran.exception)
    return ran.stdout


def words(text: str) -> str:
    return " ".join(text.split())


def told_json(*arguments: str) -> Any:
    return json.loads(told(*arguments, "--json"))


def in_words(story: Any) -> str:
    """What is printed of what JSON says: to ask DVC again takes seconds."""
    return words(as_text(story, PAPER))


def test_show_tells_every_step_of_the_way(finished: Project) -> None:
    with chdir(finished.root):
        story, text = told_json("show", RUN), words(told("show", RUN))
    metrics = json.loads((finished.root / f"evaluations/{RUN}/metrics.json").read_text())
    record = json.loads((finished.root / f"models/{RUN}/run.json").read_text())
    card = (finished.root / "data/beton/cifar10-tiny-rgb/card.json").read_bytes()
    assert story["metrics"] == metrics
    assert (story["fingerprint"], story["settings"]) == (record["fingerprint"], record["protocol"])
    assert story["devices"] == record["devices"]
    assert story["data"]["card"] == hashlib.sha256(card).hexdigest()
    assert story["data"]["train"] == json.loads(card)["splits"]["train"]["digest"]
    assert len(story["files"]) == 6
    for path, digest in story["files"].items():
        assert hashlib.sha256((finished.root / path).read_bytes()).hexdigest() == digest
    weights = f"models/{RUN}/model.safetensors"
    md5 = hashlib.md5((finished.root / weights).read_bytes()).hexdigest()
    assert story["lock"][f"train@{RUN}"]["outs"][weights] == md5
    assert "protocols.brief" in story["lock"][f"train@{RUN}"]["settings"]
    head = finished.run("git", "rev-parse", "HEAD").stdout.strip()
    assert story["checkout"] == {"commit": head, "dirty": False}
    assert story["recorded_in"] == head
    run = json.loads((finished.root / "results/manifest.json").read_text())["runs"][RUN]
    assert {key: story[key] for key in run} == run
    assert run["command"] == f"wrn-pipe repro train@{RUN} evaluate@{RUN}"
    assert story["claims"] == []
    for expected in (
        f"Test error {metrics['top1_error']:.2f} %",
        f"fingerprint {record['fingerprint']}",
        f"{weights}, sha256 {story['files'][weights][:12]}",
        f"since commit {head[:12]}; checked out is {head[:12]}, clean",
        "dvc.lock up to date",
        "no table of the paper has this network on this dataset",
        "in params.yaml: runs.",
        "environment: data/beton/cifar10-tiny-rgb, environment/requirements.lock - code: stages/train.py, ",
    ):
        assert expected in text


def test_explain_tells_a_claim_without_runs(finished: Project) -> None:
    with chdir(finished.root):
        text = words(told("explain", "--paper-table", "4", "--row", "WRN-40-1", "--dataset", "cifar10"))
    assert "exactly 563,930 here: same count" in text
    assert "6.85 in the paper, not run" in text
    assert "Its recipe is paper-zca" in text
    assert "wrn-pipe plan --paper-table 4 --row 'WRN-40-1' --dataset cifar10 --seeds 5" in text
    assert "The paper prints 6.85 and does not say of how many runs." in text
    said = r"if the number holds, 5 runs say reproduced in 6\d of 100 cases; if it is one margin \(0\.3 points\) off"
    assert re.search(said, text)
    assert "To the next look: 3 more comparable runs." in text
    power = "At depth 40 each step in width lowers the error on CIFAR-10. 5 seeds of each network show it in 9"
    assert power in text
    with chdir(finished.root):
        text = words(told("explain", "--paper-table", "9", "--row", "WRN-34-2"))
    assert "35.2" in text
    assert "To the next look" not in text, "nobody is sent to train what the tool does not have"


def test_explain_tells_what_stands_behind_a_cell(copy: Project) -> None:
    """The finished run, said to be of a network and a dataset that the paper has."""
    copy.edit(lambda params: params["comparison"]["margins"].pop("cifar10-tiny"))
    plain = re.sub(r"\n *cifar10-tiny: 0.3", "", Path("params.yaml").read_text())  # its margin: cifar10 has one
    text = plain.replace("cifar10-tiny-wrn", "run-wrn").replace("cifar10-tiny", "cifar10")
    Path("params.yaml").write_text(text.replace("network: WRN-10-1", "network: WRN-40-1"))
    run = RUN.replace("cifar10-tiny-wrn", "run-wrn")
    for top in ("models", "evaluations"):
        Path(top, RUN).rename(Path(top, run))
        for path in Path(top, run).glob("*.json"):
            told_here = path.read_text().replace("cifar10-tiny-wrn", "run-wrn").replace("cifar10-tiny", "cifar10")
            path.write_text(told_here.replace("WRN-10-1", "WRN-40-1"))
    arguments = ("explain", "--paper-table", "4", "--row", "WRN-40-1", "--dataset", "cifar10")
    story = told_json(*arguments)
    text = in_words(story)
    (cell,) = (each for each in story["cells"] if each["metric"] == "top1_error")
    assert cell["runs"] == [run]
    assert cell["verdict"] == "not comparable"
    assert cell["printed"] == "6.85"
    epochs = next(d for d in cell["deviations"] if d["text"] == "epochs: 2 instead of 200")
    assert (epochs["material"], epochs["source"]) == (True, "paper section 3")
    assert f"here (1 run: {run})" in text
    assert (
        "- epochs: 2 instead of 200 (material: length of training; its weight rests on: docs/reference/fast.md" in text
    )
    assert "; the paper's is from: paper section 3)" in text
    assert f"{run}: WRN-40-1 on CIFAR-10 Test error" in text
    shown = told_json("show", run)
    assert [claim["claim"] for claim in shown["claims"]] == ["4/cifar10/WRN-40-1/top1_error"]


def test_show_tells_all_of_a_run_that_is_out_of_date_and_whose_large_files_are_not_here(copy: Project) -> None:
    here = told_json("show", RUN)
    assert (here["absent"], here["to_have"]) == ([], None)
    weights, predictions = f"models/{RUN}/model.safetensors", f"evaluations/{RUN}/predictions.parquet"
    shutil.rmtree("data")
    for path in (weights, predictions):
        Path(path).unlink()
    copy.set_brief(learning_rate=0.2)
    story = told_json("show", RUN)
    text = in_words(story)
    assert story["metrics"] == here["metrics"]
    assert story["files"] == here["files"]
    assert sorted(story["absent"]) == sorted([weights, predictions])
    assert story["to_have"] == f"wrn-pipe repro {RUN}"
    assert f"To have them: wrn-pipe repro {RUN}" in text
    assert story["lock"][f"train@{RUN}"]["stale"] == ["params.yaml: protocols.brief edited"]
    assert story["lock"][f"evaluate@{RUN}"]["stale"] is None
    assert "dvc.lock out of date: " in text
    assert "with edits that are not committed" in text


def test_a_run_without_evaluation(copy: Project) -> None:
    Path("evaluations").rename("elsewhere")
    ran = CliRunner().invoke(app, ["show", RUN])
    assert isinstance(ran.exception, UserError)
    assert ran.exception.remedy == f"wrn-pipe repro {RUN}", "dvc pull fails where there is no remote"


def test_the_manifest_has_every_claim_with_its_verdict_and_nothing_of_the_checkout(finished: Project) -> None:
    """So that it is the same bytes at another commit, in another place, as wrn-pipe verify makes it again."""
    text = (finished.root / "results/manifest.json").read_text()
    told = json.loads(text)
    by_claim = {cell["claim"]: cell for cell in told["tables"]["4"]["cells"]}
    assert by_claim.keys() - {None} == {claim.id for claim in PAPER.chosen(["4"])}
    assert by_claim["4/cifar10/WRN-40-1/top1_error"]["verdict"] == "not run"
    assert by_claim["4/cifar10/WRN-40-1/top1_error"]["printed"] == "6.85"
    assert by_claim["4/cifar10/WRN-40-1/params_millions"]["verdict"] == "same count"
    assert set(told["runs"][RUN]["stages"]) <= {stage.name for stage in stages(finished.root)}
    assert str(finished.root) not in text
    assert finished.run("git", "rev-parse", "HEAD").stdout.strip() not in text


@pytest.mark.parametrize("content", ["[]", '{"data": {}}', None])
def test_broken_digests_are_named(copy: Project, content: str | None) -> None:
    path = Path("evaluations") / RUN / "digests.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=r"digests\.json") as refusal:
        manifest(planned(PAPER, load(), load_results(Path())), Path())
    assert refusal.value.remedy == f"it is written by: wrn-pipe repro evaluate@{RUN}"
