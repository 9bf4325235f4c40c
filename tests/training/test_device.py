"""The choice of a device, and what of it a result depends on."""

import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError, WrnPipeError
from pipeline.params import Device
from pipeline.runner.interruptions import explain_no_memory
from pipeline.training import device as devices
from pipeline.training.device import note_unrepeatable

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("setting", "gpus", "device"),
    [("auto", 2, GPU), ("cuda", 2, GPU), ("cpu", 2, CPU), ("auto", 0, CPU), ("cpu", 0, CPU)],
)
def test_the_first_gpu_is_taken_unless_the_setting_says_cpu(
    setting: Device, gpus: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as torch's own words go."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    assert devices.choose(setting) == device


def test_a_gpu_that_is_asked_for_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA GPU") as error:
        devices.choose("cuda")
    assert "device: auto" in error.value.remedy


@pytest.mark.parametrize(
    ("capability", "flags", "native"),
    [
        ("AVX512", "fma avx512f avx512_bf16 amx_bf16", "AMX"),
        ("AVX512", "fma avx512f avx512_bf16", "AVX512_BF16"),
        ("AVX512", "fma avx512f", "no native bf16"),
        ("AVX2", "fma avx512f avx512_bf16 amx_bf16", "no native bf16"),
    ],
)
def test_bf16_is_computed_in_fp32_where_a_cpu_has_no_instructions_for_it(
    capability: str, flags: str, native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr(devices, "_processor", lambda: ("a CPU", flags.split()))
    assert devices.facts(CPU)["capability"] == f"{capability}, {native}"
    assert devices.computed_in("bf16", CPU) == ("fp32" if native == "no native bf16" else "bf16")
    assert devices.computed_in("fp32", CPU) == "fp32"


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_is_asked_for_bf16_that_is_not_emulated(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: including_emulation or native)
    assert devices.computed_in("bf16", GPU) == ("bf16" if native else "fp32")


def test_cublas_has_its_workspace_before_it_is_used() -> None:
    """It asks for the variable once, at its first product."""
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    asked = "import os, pipeline.training.device\nprint(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
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


def test_a_gpus_libraries_are_part_of_what_bits_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92400)
    found = devices.facts(GPU)
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
