"""Where a training runs, and what of that place its result depends on."""

import ctypes
import mmap
import os
import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

# cuBLAS repeats only with a fixed workspace, and asks once: at its first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from pipeline.errors import UserError, WrnPipeError
from pipeline.params import Device, Precision
from pipeline.progress import say

_UNREPEATABLE = re.compile(
    r"(\S+) does not have a deterministic implementation|Deterministic behavior was .*? because it uses (\w+)"
)
_NATIVE_BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512_BF16", "bf16": "BF16"}
"""Linux's name of a CPU's instructions -> ours. The last one is ARM's."""


def choose(setting: Device, rank: int = 0, size: int = 1) -> torch.device:
    """What process `rank` of `size` trains on: a visible CUDA GPU of its own, or the CPU where there is none.

    Raises UserError where there are GPUs, or are to be, but too few, or none that this torch can use.
    """
    if setting != "cpu" and (why := unusable_gpu()):
        if setting == "cuda":
            raise UserError(f"device: cuda, but {why}", "see wrn-pipe doctor, or set device: auto in params.yaml")
        say(f"device: auto takes the CPU: {why}")
        setting = "cpu"
    gpus = torch.cuda.device_count() if setting != "cpu" and torch.cuda.is_available() else 0
    if gpus >= size:
        return torch.device("cuda", rank)
    if not gpus and setting != "cuda":
        return torch.device("cpu")
    if size > 1:
        remedy = "set device: cpu in params.yaml, or a smaller number of processes in the protocol"
        raise UserError(f"{size} processes need a GPU each, but torch sees {gpus}", remedy)
    remedy = "set device: auto in params.yaml, or see wrn-pipe doctor"
    raise UserError("device: cuda, but torch sees no CUDA GPU", remedy)


def unusable_gpu() -> str:
    """Why this torch cannot use the NVIDIA GPU or driver that is here, with the versions; empty otherwise."""
    if not torch.version.cuda:
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns in ten lines
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # none is here, or it is too old for torch
            version = re.search(r"too old \(found version (\d+)\)", str(error))
            of = f"{int(version[1]) // 1000}.{int(version[1]) % 1000 // 10}" if version else ""
            driver = f"the NVIDIA driver is for CUDA {of}, this torch for {torch.version.cuda}: install a newer driver"
            return driver if version else ""
        major, minor = torch.cuda.get_device_capability(0)
    oldest = min(int(digits) for digits in re.findall(r"\bsm_(\d+)", " ".join(torch.cuda.get_arch_list())))
    if 10 * major + minor >= oldest:
        return ""
    of = f"{torch.cuda.get_device_name(0)} has compute capability {major}.{minor}"
    return f"{of}, and this torch kernels from {oldest / 10} on: a torch built for an older CUDA may have them"


def prepare(device: torch.device) -> None:
    """Ask for repeatable kernels, and keep freed memory in the process: page faults cost a tenth of a step on a CPU."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else each new tensor is first filled with NaN: a tenth of a step. Nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # Else a GPU's convolutions and products in fp32 round their inputs to 10 bits, or do where a container asks for it.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif platform.libc_ver()[0] == "glibc":
        _keep_memory()


def _keep_memory() -> None:
    """Of glibc: what is freed stays in the process, on huge pages. Linux gives none to what grows bit by bit, as a heap
    does, unless asked to: so the heap is made large once, without writing to it."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(-4, 0)  # M_MMAP_MAX: all in the heap, for what is mapped by itself goes back to the system when freed
    libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
    size = 1 << 30  # what does not fit has pages as Linux gives them
    if heap := libc.malloc(size):
        libc.madvise(-(-heap // mmap.PAGESIZE) * mmap.PAGESIZE, size - mmap.PAGESIZE, mmap.MADV_HUGEPAGE)
        libc.free(heap)


def facts(device: torch.device) -> dict[str, str | int]:
    """Kind of GPU and its libraries, or kind of CPU and number of threads: with the same of all, the same bits."""
    if device.type == "cuda":
        cudnn = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        name = torch.cuda.get_device_name(device)
        return {"type": "cuda", "name": name, "cuda": str(torch.version.cuda), "cudnn": cudnn}
    capability = f"{torch.backends.cpu.get_cpu_capability()}, {_native_bf16() or 'no native bf16'}"
    name, threads = _processor()[0], torch.get_num_threads()
    return {"type": device.type, "name": name, "capability": capability, "threads": threads}


def computed_in(precision: Precision, device: torch.device) -> Precision:
    """What a training of this precision computes in: always fp32 where the device has no instructions for bfloat16,
    since torch's emulation takes many times as long."""
    on_gpu = device.type == "cuda"
    native = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _native_bf16()
    return precision if native else "fp32"


def _native_bf16() -> str:
    """The fastest instructions for bfloat16 that this CPU has and torch uses; none on others."""
    if torch.backends.cpu.get_cpu_capability() == "AVX2":  # by ATEN_CPU_CAPABILITY on any CPU
        return ""
    flags = _processor()[1]
    return next((name for flag, name in _NATIVE_BF16.items() if flag in flags), "")


@contextmanager
def note_unrepeatable(names: list[str]) -> Iterator[None]:
    """Add to `names` each kernel that the block runs although torch has no deterministic one. `prepare` comes first."""
    show = warnings.showwarning

    def note(message: Warning | str, *where: Any, **more: Any) -> None:
        if found := _UNREPEATABLE.match(str(message)):
            names[:] = sorted({*names, found[1] or found[2]})
        else:
            show(message, *where, **more)

    with warnings.catch_warnings():
        warnings.filterwarnings("default", _UNREPEATABLE.pattern)
        warnings.showwarning = note
        yield


@contextmanager
def explain_compile_errors() -> Iterator[None]:
    """Turn torch.compile's errors into a WrnPipeError: they come with the first steps, from inside the network."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reasons = [line for line in lines[1:] if "error:" in line]
        raise WrnPipeError(
            f"torch.compile failed: {': '.join([lines[0], *reasons[:1]])}",
            "set TORCH_LOGS=+dynamo to see more, or kernels: torch in params.yaml (another run, from its start)",
        ) from error


@cache
def _processor() -> tuple[str, list[str]]:
    """Model name and feature flags."""
    path = Path("/proc/cpuinfo")
    first_core = path.read_text().split("\n\n")[0] if path.is_file() else ""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first_core.splitlines())}
    name = fields.get("model name", platform.processor() or platform.machine())
    return name, fields.get("flags", fields.get("Features", "")).split()
