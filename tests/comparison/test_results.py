"""Run records are read strictly; a broken one is named."""

import json

import pytest
from made_up_runs import result, write

from pipeline.comparison.results import load_results
from pipeline.errors import UserError


def test_reads_back_what_was_written(tmp_path) -> None:
    runs = [result(685, seed=2), result(690, seed=1)]
    write(runs, tmp_path)
    found = load_results(tmp_path)
    assert found == sorted(runs, key=lambda run: run.run)
    assert found[0].top1_error == 6.9
    assert load_results(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("metrics.json", {"errors": "685"}, "errors"),
        ("metrics.json", {"network": "WRN-40-2"}, "WRN-40-2"),
        ("metrics.json", {"run": "another"}, "another"),
        ("run.json", {"run": "another"}, "another"),
        ("run.json", {"epochs": None}, "epochs"),
        ("run.json", {"protocol": {"epochs": 3}}, "protocol"),
        ("run.json", None, "No such file"),
    ],
)
def test_a_broken_record_is_named(tmp_path, file, change, named) -> None:
    run = result(685)
    write([run], tmp_path)
    path = tmp_path / "evaluations" / run.run / file
    if change is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as caught:
        load_results(tmp_path)
    assert f"evaluations/{run.run}" in caught.value.what
    assert named in caught.value.what
    assert caught.value.remedy == f"it is written by: wrn-pipe repro evaluate@{run.run}"
