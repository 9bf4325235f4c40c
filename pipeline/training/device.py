"""Where a training runs, and what of that place its result depends on."""

import ctypes
import os
import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.errors import UserError

_UNREPEATABLE = re.compile(r"(\S+) does not have a deterministic implementation")
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1


def choose(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """auto is CUDA where there is a GPU, else the CPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device: cuda, but torch sees no CUDA GPU", "set device: auto in params.yaml, or see wrn-pipe doctor"
        )
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def prepare(device: torch.device) -> None:
    """Ask for repeatable kernels, and keep freed memory in the process: page faults cost a tenth of a step on a CPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats only with a fixed workspace
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else each new tensor is first filled with NaN: a tenth of a step. Nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            libc.mallopt(option, 1 << 30)


def facts(device: torch.device) -> dict[str, str | int]:
    """Kind of processor and number of threads: with the same of both, the same bits."""
    if device.type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(device), "threads": torch.get_num_threads()}
    name, flags = _processor()
    matrix = "AMX" if "amx_bf16" in flags else "AVX512_BF16" if "avx512_bf16" in flags else "no native bf16"
    capability = f"{torch.backends.cpu.get_cpu_capability()}, {matrix}"
    return {"type": "cpu", "name": name, "capability": capability, "threads": torch.get_num_threads()}


@contextmanager
def note_unrepeatable(names: list[str]) -> Iterator[None]:
    """Add to `names` each kernel that the block runs although torch has no deterministic one. `prepare` comes first."""
    show = warnings.showwarning

    def note(message: Warning | str, *where: Any, **more: Any) -> None:
        if not (found := _UNREPEATABLE.match(str(message))):
            show(message, *where, **more)
        elif found[1] not in names:
            names.append(found[1])
            names.sort()

    with warnings.catch_warnings():
        warnings.filterwarnings("default", _UNREPEATABLE.pattern)
        warnings.showwarning = note
        yield


def _processor() -> tuple[str, list[str]]:
    """Model name and feature flags."""
    path = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", platform.processor() or platform.machine()), fields.get("flags", "").split()
