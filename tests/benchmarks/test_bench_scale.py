"""wrn-pipe bench scale: its file is one that the guard and both backends take, its numbers add up, nothing stays."""

import json
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.benchmarks.scale import BATCH, IMAGENET, write
from pipeline.data.beton_jpeg import open_jpegs
from pipeline.data.loader import Loader
from pipeline.data.quick_import import tables_only
from pipeline.data.resized_crop import RandomCrops
from pipeline.data.sampler import sample_order
from pipeline.errors import UserError
from pipeline.params import Backend

COMMAND = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "bench", "scale"]
BACKENDS: tuple[Backend, ...] = ("ffcv", "numpy")
LIMIT = 300
"""MB, of a sample 234 bytes: rows of three tables, its place in the order, its box and its draws."""


def measured(tmp_path: Path, *options: str) -> dict[str, Any]:
    ran = subprocess.run([*COMMAND, *options, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert not list((tmp_path / "scratch").iterdir())
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


@pytest.mark.soak
def test_both_backends_read_the_file(tmp_path: Path) -> None:
    n = 600
    size = write(tmp_path / "small-jpeg", n)
    beton = open_jpegs(tmp_path / "small-jpeg", "train")
    assert (beton.samples, beton.path.stat().st_size) == (n, size)
    assert (beton.heights.min(), beton.heights.max(), beton.widths.min(), beton.widths.max()) == (24, 48, 24, 48)
    order = sample_order(1, 0, n)
    over = [list(Loader(beton.path.parent, "train", 128, way).batches(order, RandomCrops(1, 0))) for way in BACKENDS]
    for ffcv, plain in zip(*over, strict=True):
        assert np.array_equal(ffcv.indices, plain.indices)
        assert np.array_equal(ffcv.labels, ffcv.indices % 1000)
        assert np.array_equal(plain.labels, ffcv.labels)
        assert np.abs(ffcv.images.astype(int) - plain.images).max() <= 8
    assert np.concatenate([batch.images for batch in over[1]]).std((1, 2)).min(axis=0).max() > 1, "they are pictures"


@pytest.mark.soak
def test_the_command_tells_seconds_and_memory_of_a_process(tmp_path: Path) -> None:
    result = measured(tmp_path, "--samples", "3000", "--repeats", "1", "--backends", "numpy")
    assert (result["samples"], result["batch"]) == (3000, BATCH)
    assert [start["backend"] for start in result["starts"]] == ["numpy"]  # the soak test below has both
    for start in result["starts"]:
        seconds = {part: value["median"] for part, value in start["seconds"].items()}
        assert sorted(seconds) == sorted(["import", "check", "open", "order", "first batch", "in all"])
        assert min(seconds.values()) >= 0
        assert seconds.pop("in all") == pytest.approx(sum(seconds.values()))
        memory = {part: value["median"] for part, value in start["megabytes"].items()}
        assert 20 < memory["imports"] < memory["own"] < memory["peak"]
        assert memory["mapped"] > 20  # the libraries alone


def test_no_python_object_stays_for_a_sample(tmp_path: Path) -> None:
    """FFCV's own memory manager keeps a dict entry, two sets and three numbers for each: 600 bytes."""
    import ffcv.loader.loader
    from ffcv.reader import Reader

    n = 20_000
    write(tmp_path / "small-jpeg", n)
    before = ffcv.loader.loader.OSCacheManager

    def bytes_of_a_sample() -> float:
        reader = Reader(str(tmp_path / "small-jpeg" / "train.beton"))
        tracemalloc.start()
        kept = ffcv.loader.loader.OSCacheManager(reader)
        size = tracemalloc.get_traced_memory()[0] / n
        tracemalloc.stop()
        assert len(kept.ptrs) == n
        return size

    with tables_only():
        assert bytes_of_a_sample() < 20
    assert ffcv.loader.loader.OSCacheManager is before
    assert bytes_of_a_sample() > 200


def test_a_stopped_measurement_leaves_no_file(tmp_path: Path) -> None:
    running = subprocess.Popen([*COMMAND, "--samples", "200000"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("scratch/*/all/card.json")) and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 143
    assert not list((tmp_path / "scratch").iterdir())


def test_a_disk_too_small_is_said_before_it_is_full(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the file takes [\d,]{9,} MB, and .* has"):
        write(tmp_path / "small-jpeg", 10**13)
    assert not list(tmp_path.iterdir())


def test_a_backend_nobody_knows(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, "--backends", "numpy,dali"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert "error: no backend 'dali'\n  fix: choose ffcv, numpy, or both" in ran.stderr


@pytest.mark.endurance
@pytest.mark.soak
def test_as_many_images_as_imagenet_has_fit_a_process(tmp_path: Path) -> None:
    result = measured(tmp_path, "--repeats", "1")
    assert result["samples"] == IMAGENET
    for start in result["starts"]:
        memory = {part: value["median"] for part, value in start["megabytes"].items()}
        assert 50 < memory["samples"] < LIMIT, start
