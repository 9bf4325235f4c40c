"""`wrn-pipe estimate`: which runs it counts, and what follows from the measured rate."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.models.formula import parameters
from pipeline.models.names import parse

ROOT = Path(__file__).resolve().parents[2]
RUN = "cifar10-wrn-40-1-quick-s1"


@pytest.mark.soak
def test_hours_follow_from_the_rate_and_a_finished_run_is_known(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "evaluations" / RUN).mkdir(parents=True)
    (tmp_path / "evaluations" / RUN / "metrics.json").write_text("{}")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "estimate", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)
    assert (run["run"], run["done"]) == (RUN, True)
    assert run["hours"] == pytest.approx((4 * 50_000 + 10_000 / 3) / run["images_per_s"] / 3600)
    assert run["megabytes"] == pytest.approx(4e-6 * parameters(parse("WRN-40-1"), 10))


@pytest.mark.parametrize("table", ["1", "40"])
def test_a_table_without_trainings_is_a_mistake(
    table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["wrn-pipe", "estimate", "--paper-table", table])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "table" in capsys.readouterr().err
