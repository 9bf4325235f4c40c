"""How a training's threads wait: set before OpenMP is loaded, and only where the user has not set it."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.training.processes import POLICY, USERS_OWN, wait_briefly

ROOT = Path(__file__).resolve().parents[2]
RUN = "cifar10-wrn-40-1-quick-s1"


def test_the_train_stage_sets_it_before_openmp_is_loaded(tmp_path: Path) -> None:
    """Of the stage as DVC calls it, in a folder without data. OpenMP itself tells, when it is loaded, what it reads."""
    for name in ("params.yaml", "dvc.yaml", "stages", "pipeline", "environment"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    ended = subprocess.run(
        [sys.executable, "-m", "stages.train", RUN],
        cwd=tmp_path,
        env={**environment, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert f"GOMP_SPINCOUNT = '{POLICY['GOMP_SPINCOUNT']}'" in ended.stderr


def test_what_the_user_has_set_stays() -> None:
    for name in USERS_OWN:
        environment = {name: "of the user's own"}
        wait_briefly(environment)
        assert environment == {name: "of the user's own"}
