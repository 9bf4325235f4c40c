"""The choice of a device, what of it a result depends on, and how a training's process uses it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from project import ROOT

from pipeline.errors import UserError, WrnPipeError
from pipeline.params import Device
from pipeline.runner.interruptions import explain_no_memory
from pipeline.training import device as devices
from pipeline.training.processes import POLICY, USERS_OWN, wait_briefly

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("setting", "gpus", "rank", "size", "device"),
    [
        *(("auto", 2, 0, 1, GPU), ("cuda", 2, 0, 1, GPU), ("cpu", 2, 0, 1, CPU), ("auto", 0, 0, 1, CPU)),
        *(("auto", 2, 1, 2, torch.device("cuda", 1)), ("auto", 0, 1, 2, CPU), ("cpu", 1, 1, 2, CPU)),
        ("cuda", 0, 0, 1, "torch sees no CUDA GPU"),
        ("cuda", 0, 0, 2, "2 processes need a GPU each, but torch sees 0"),
        ("auto", 1, 0, 2, "2 processes need a GPU each, but torch sees 1"),
    ],
)
def test_a_process_takes_a_gpu_of_its_own_unless_the_setting_says_cpu_or_there_are_too_few(
    setting: Device, gpus: int, rank: int, size: int, device: torch.device | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(devices, "unusable_gpu", lambda: "")
    if isinstance(device, torch.device):
        assert devices.choose(setting, rank, size) == device
        return
    with pytest.raises(UserError, match=device):
        devices.choose(setting, rank, size)


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


FRESH = """
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
heaps = Path("/proc/self/smaps").read_text().split("[heap]")[1:]
found = [re.search(r"Size: *(\\d+) kB\\n.*?VmFlags:(.*)", part, re.S).groups() for part in heaps]
print(max((int(size) for size, flags in found if " hg" in flags.split("\\n")[0]), default=0))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other ways")
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="Linux has no huge pages here")
def test_freed_memory_stays_in_a_process_that_trains_on_huge_pages() -> None:
    """150 MB are 38,400 pages."""
    said = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    faults, heap_kb = map(int, said.stdout.split())
    assert faults < 400
    assert heap_kb > 1_000_000


def test_the_train_stage_says_how_threads_wait_before_openmp_is_loaded(tmp_path: Path) -> None:
    """Of the stage as DVC calls it, in a folder without data. OpenMP itself tells, when it is loaded, what it reads."""
    for name in ("params.yaml", "dvc.yaml", "stages", "pipeline", "environment"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    environment["OMP_DISPLAY_ENV"] = "verbose"
    command = [sys.executable, "-m", "stages.train", "cifar10-wrn-40-1-quick-s1"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert f"GOMP_SPINCOUNT = '{POLICY['GOMP_SPINCOUNT']}'" in ended.stderr


def test_how_the_user_lets_threads_wait_stays_and_cublas_has_a_workspace_before_torch_asks() -> None:
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    for environment in ({name: "of the user's own"} for name in USERS_OWN):
        wait_briefly(environment)
        assert list(environment.values()) == ["of the user's own"]


@pytest.mark.parametrize("said", ["CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"])
def test_what_a_gpus_libraries_say_of_short_memory_is_explained(said: str) -> None:
    with pytest.raises(WrnPipeError, match="out of memory in epoch 1"), explain_no_memory("r", lambda: "in epoch 1"):
        raise RuntimeError(f"cu error: {said} when calling `cublasCreate(handle)`")
