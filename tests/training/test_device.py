"""The choice of a device: what is measured, what is taken, what is said."""

import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.publish import json_text, new_file
from pipeline.training import choice as choices
from pipeline.training import device as devices
from pipeline.training.device import (
    AS_FAST,
    Choice,
    choose,
    choose_once,
    fastest,
    matrix_rate,
    note_unrepeatable,
)
from pipeline.training.holder import discard

CPU = torch.device("cpu")
GPUS = [torch.device("cuda", i) for i in range(4)]


def unasked(device: torch.device) -> float:
    raise AssertionError(f"{device} was measured")


@pytest.mark.parametrize("device", [CPU, GPUS[0]])
def test_a_single_candidate_is_not_measured(device: torch.device) -> None:
    assert fastest([device], unasked) == Choice(device, {})


@given(st.lists(st.floats(1e6, 1e15), min_size=5, max_size=5))
def test_the_fastest_is_taken_and_of_about_equal_ones_the_first(rates: list[float]) -> None:
    candidates = [*GPUS, CPU]
    measured = dict(zip(candidates, rates, strict=True))
    choice = fastest(candidates, measured.__getitem__)
    assert choice.rates == {str(device): rate for device, rate in measured.items()}
    assert measured[choice.device] >= AS_FAST * max(rates)
    earlier = candidates[: candidates.index(choice.device)]
    assert all(measured[device] < AS_FAST * max(rates) for device in earlier)


def test_the_rates_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = fastest([GPUS[0], CPU], {GPUS[0]: 512e12, CPU: 409.4e9}.__getitem__)
    assert choice.measured == "cuda:0 512,000 GFLOP/s, cpu 409 GFLOP/s"
    monkeypatch.setattr(devices, "facts", lambda device: {"name": f"a GPU called {device}", "threads": 2})
    assert str(choice) == f"cuda:0 (a GPU called cuda:0, 2 threads), fastest of {choice.measured}"


@pytest.mark.parametrize("setting", ["auto", "cpu", "cuda"])
def test_the_candidates_are_those_that_the_setting_allows(
    setting: devices.Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs, as far as torch's own words go; the second is the fastest, the CPU the slowest."""
    asked: list[tuple[torch.device, torch.dtype]] = []

    def probe(device: torch.device, dtype: torch.dtype) -> float:
        asked.append((device, dtype))
        return {"cuda:0": 50.0, "cuda:1": 100.0, "cpu": 1.0}[str(device)]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "_probe", probe)
    choice = choose.__wrapped__(setting, "bf16")
    expected = {"auto": [*GPUS[:2], CPU], "cuda": GPUS[:2], "cpu": []}[setting]
    assert asked == [(device, torch.bfloat16) for device in expected]
    assert choice.device == (CPU if setting == "cpu" else GPUS[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_is_the_cpu_unmeasured_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_probe", unasked)
    assert choose.__wrapped__("auto", "fp32") == Choice(CPU, {})
    with pytest.raises(UserError, match="no CUDA GPU") as error:
        choose.__wrapped__("cuda", "fp32")
    assert "device: auto" in error.value.remedy


def test_a_process_chooses_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto", "fp32") is choose("auto", "fp32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU can be measured")
def test_a_gpu_that_can_not_be_measured_is_named_with_a_remedy() -> None:
    """A real failure of torch's: this machine has no such device."""
    with pytest.raises(UserError, match="device cuda:0 can not be measured: ") as error:
        devices._probe(GPUS[0], torch.float32)
    assert "CUDA_VISIBLE_DEVICES" in error.value.remedy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_probe_measures_growing_products_until_one_takes_long(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def measured(device: torch.device, dtype: torch.dtype, size: int, at_least: float) -> float:
        sizes.append(size)
        return 1e12 if size > 2048 else 4e12

    with monkeypatch.context() as patch:
        patch.setattr(devices, "matrix_rate", measured)
        assert devices._probe(CPU, dtype) == 4e12
    assert sizes == [1024, 2048, 4096]
    assert matrix_rate(CPU, dtype, 64, 0.001) > 0


def test_a_training_goes_on_where_it_was_measured_to_be_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Choice(CPU, {"cuda:0": 1e9, "cpu": 2e9})
    monkeypatch.setattr(devices, "choose", lambda setting, precision: measured)
    assert choose_once(tmp_path, "auto", "bf16") == measured
    kept = choices.read(tmp_path)
    assert kept
    assert choices.tags(kept["rates"]) == {"device.measured": "cpu 2 GFLOP/s, cuda:0 1 GFLOP/s"}

    other = Choice(CPU, {"cuda:0": 1e9, "cpu": 3e9})
    monkeypatch.setattr(devices, "choose", lambda setting, precision: other)
    assert choose_once(tmp_path, "auto", "bf16") == measured
    assert choose_once(tmp_path, "cpu", "bf16") == other  # the user says otherwise now
    new_file(tmp_path / choices.FILE, json_text({**kept, "device": "cuda:7"}).encode())
    assert choose_once(tmp_path, "auto", "bf16") == other  # that GPU is not here
    new_file(tmp_path / choices.FILE, json_text({**kept, "facts": {**kept["facts"], "threads": 99}}).encode())
    assert choose_once(tmp_path, "auto", "bf16") == other  # nor is that machine
    discard(tmp_path)
    assert not tmp_path.exists()


def test_a_single_candidate_leaves_no_file(tmp_path: Path) -> None:
    assert choose_once(tmp_path, "cpu", "fp32") == Choice(CPU, {})
    assert not list(tmp_path.iterdir())


def test_cublas_has_its_workspace_before_anything_is_measured() -> None:
    """It asks for the variable once, at its first product."""
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    asked = (
        "import os, pipeline.training.device as d\n"
        "d.matrix_rate = lambda *_: print(os.environ['CUBLAS_WORKSPACE_CONFIG']) or 1.0\n"
        "d._probe(d.torch.device('cpu'), d.torch.float32)"
    )
    said = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == ":4096:8\n"


def test_both_of_torchs_warnings_name_their_kernel() -> None:
    names: list[str] = []
    with note_unrepeatable(names):
        warnings.warn("index_add_cuda_ does not have a deterministic implementation, but you set ...", stacklevel=1)
        warnings.warn(
            "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or "
            "`at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic because it uses "
            "CuBLAS and you have CUDA >= 10.2.",
            stacklevel=1,
        )
    assert names == ["CuBLAS", "index_add_cuda_"]


MEMORY = """
import re, resource
from pathlib import Path
import torch
from pipeline.training.device import prepare

def work():
    kept = [torch.full((megabytes, 1 << 18), 1.0) for megabytes in 10 * [1, 2, 3, 4, 5]]

prepare(torch.device("cpu"))
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
for part in Path("/proc/self/smaps").read_text().split("[heap]")[1:]:
    size, flags = re.search(r"Size: *(\\d+) kB\\n.*?VmFlags:(.*)", part, re.S).groups()
    if " hg" in flags.split("\\n")[0]:
        print(size)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other ways")
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="Linux has no huge pages here")
def test_freed_memory_stays_in_the_process_and_linux_is_asked_for_huge_pages() -> None:
    """150 MB are 38,400 pages."""
    told = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout.split()
    assert int(told[0]) < 400
    assert int(told[1]) > 1_000_000  # kB of the heap
