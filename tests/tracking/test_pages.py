"""MLflow's pages in a real browser: the list of runs, the curves of one, and what it says about the paper."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tracking.conftest import FIRST, Place, copy
from tracking.servers import free_port, wait_for

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="there is no chromium on PATH"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1500,2600"
)
Open = Callable[..., str]


@pytest.fixture(scope="module")
def pages(synced: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, str]]:
    """A place whose `wrn-pipe ui` is running, and the address that it says."""
    to, port = tmp_path_factory.mktemp("pages"), free_port()
    with pytest.MonkeyPatch.context() as patch:
        place = copy(synced[0], to / "checkout", patch)
        command = "from pipeline.cli.main import main; main()"
        with (to / "log").open("w") as log:
            running = subprocess.Popen(
                [sys.executable, "-c", command, "ui", "--port", str(port)],
                cwd=place.root,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
            )
        try:
            wait_for(f"http://127.0.0.1:{port}", running)
            # The server may answer before the command, which asks it now and then, has seen that and says where.
            while not (said := re.search(r"^(http://\S+) - Ctrl-C stops it$", (to / "log").read_text(), re.MULTILINE)):
                assert running.poll() is None, (to / "log").read_text()
                time.sleep(0.05)
            yield place, said[1]
        finally:
            running.send_signal(signal.SIGINT)
            assert running.wait(60) == 0


@pytest.fixture
def text_of(tmp_path: Path) -> Open:
    """What the page at an address holds once its scripts have run and it shows enough, or after five attempts.

    The browser's virtual time passes without waiting for answers of a busy server.
    """

    def opened(address: str, enough: Callable[[str], bool]) -> str:
        # Charts are drawn when they come into view, and into view comes only what is drawn for a picture.
        files = (f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}")
        flags = (*FLAGS.split(), *files, "--virtual-time-budget=60000", "--dump-dom")
        command = [str(CHROMIUM), *flags, address]
        for _ in range(5):
            shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
            if enough(shown):
                break
        return shown

    return opened


def test_the_list_has_each_run_with_its_error_and_verdict(pages: tuple[Place, str], text_of: Open) -> None:
    place, address = pages
    shown = text_of(address, lambda shown: shown.count(">not comparable<") == 2)
    for name, run in place.runs().items():
        assert f">{name}<" in shown
        # MLflow shows as many digits as there are.
        assert f">{run.data.metrics['test_top1_error']:.6f}"[:9].rstrip("0") in shown
    for column in ("test_top1_error", "verdict", "tables"):
        assert column in shown
    assert shown.count(">not comparable<") == 2


def test_the_curves_of_a_run(pages: tuple[Place, str], text_of: Open) -> None:
    place, address = pages
    run = place.runs()[FIRST].info.run_id
    shown = text_of(f"{address.split('?')[0]}/{run}/model-metrics", lambda shown: shown.count('class="js-line') >= 4)
    for metric in ("train_loss", "train_error", "learning_rate", "images_per_second", "test_top1_error"):
        assert metric in shown
    assert shown.count('class="js-line') >= 4, "curves are drawn"


def test_a_run_tells_its_story(pages: tuple[Place, str], text_of: Open) -> None:
    place, address = pages
    run = place.runs()[FIRST].info.run_id
    shown = told(text_of(f"{address.split('?')[0]}/{run}", lambda shown: f"wrn-pipe repro {FIRST}" in told(shown)))
    assert "not comparable - Table 4, WRN-40-1 on CIFAR-10" in shown
    assert "epochs: 2 instead of 200 (length of training)" in shown
    assert f"wrn-pipe repro {FIRST}" in shown


def told(page: str) -> str:
    """Its text, without tags."""
    return re.sub(r"<[^>]+>", "", page)
