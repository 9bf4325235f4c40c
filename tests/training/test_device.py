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
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.errors import UserError, WrnPipeError
from pipeline.publish import json_text, new_file
from pipeline.runner.run_lock import discard
from pipeline.runner.training_interruptions import explain_no_memory
from pipeline.training import device as devices
from pipeline.training import device_choice as choices
from pipeline.training.device import (
    AS_FAST,
    Choice,
    choose,
    choose_once,
    fastest,
    matrix_rate,
    note_unrepeatable,
)
from pipeline.training.train_run import _bear_emulation

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


def test_torchs_warning_names_its_kernel() -> None:
    names: list[str] = []
    with note_unrepeatable(names):
        warnings.warn("index_add_cuda_ does not have a deterministic implementation, but you set ...", stacklevel=1)
    assert names == ["index_add_cuda_"]


@pytest.mark.parametrize(
    ("workspace", "on_gpu", "noted"), [(":4096:8", True, []), (":0:0", True, ["cuBLAS"]), (":0:0", False, [])]
)
def test_a_workspace_of_the_users_with_which_cublas_does_not_repeat_is_noted(
    workspace: str, on_gpu: bool, noted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: on_gpu)
    names: list[str] = []
    with note_unrepeatable(names):
        pass
    assert names == noted


def test_a_gpu_that_can_not_be_measured_is_left_out_where_another_can(capsys: pytest.CaptureFixture[str]) -> None:
    def rate(device: torch.device) -> float:
        if device == GPUS[0]:
            raise UserError("device cuda:0 can not be measured: out of memory", "free it")
        return {GPUS[1]: 50.0, CPU: 1.0}[device]

    choice = fastest([*GPUS[:2], CPU], rate)
    assert choice == Choice(GPUS[1], {"cuda:1": 50.0, "cpu": 1.0})
    assert "cuda:0 can not be measured: out of memory; it is left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="cuda:0 can not be measured"):
        fastest([GPUS[0], CPU], rate)


def test_a_gpu_without_memory_for_larger_matrices_has_the_rate_of_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(device: torch.device, dtype: torch.dtype, size: int, at_least: float) -> float:
        if size > 2048:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 9e15

    monkeypatch.setattr(devices, "matrix_rate", measured)
    assert devices._probe(GPUS[0], torch.float32) == 9e15


def test_a_gpu_is_not_given_products_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed: FakeTensorMode has GPUs everywhere, and what they are given they take at once."""
    given = waited = most = 0
    multiply = torch.mm

    def mm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        nonlocal given, most
        given += 1
        most = max(most, given - waited)
        return multiply(left, right)

    def wait(device: torch.device) -> None:
        nonlocal waited
        waited = given

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(devices, "wait", wait)
    with FakeTensorMode():
        assert matrix_rate(GPUS[0], torch.bfloat16, 8192, 0.05) > 0
    assert most == 16


def test_a_gpus_libraries_are_part_of_what_bits_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92400)
    found = devices.facts(GPUS[0])
    assert (found["type"], found["name"], found["cudnn"]) == ("cuda", "a GPU", "92400")
    assert found["cuda"] == str(torch.version.cuda)


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


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_what_a_gpus_libraries_say_of_short_memory_is_explained(said: str) -> None:
    with (
        pytest.raises(WrnPipeError, match="run r: out of memory in epoch 1"),
        explain_no_memory("r", lambda: "in epoch 1"),
    ):
        raise RuntimeError(said)


def test_bfloat16_where_there_is_none_is_said_and_refused_where_it_can_not_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match=r"r: this cuda has no instructions for bfloat16, and torch"):
        _bear_emulation("r", "compiled, torch 2.14.1 inductor", GPUS[0], leads=True)
    for device, kernels, words in (
        (GPUS[0], "torch", "precision: fp32\n"),
        (CPU, "torch", "kernels: fused has its own"),
    ):
        _bear_emulation("r", kernels, device, leads=False)
        assert capsys.readouterr().err == ""
        _bear_emulation("r", kernels, device, leads=True)
        assert words in capsys.readouterr().err
