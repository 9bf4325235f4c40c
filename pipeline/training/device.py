"""Where a training runs, and what of that place its result depends on."""

import ctypes
import mmap
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

# cuBLAS repeats only with a fixed workspace, and asks once: at its first product, which may be one that measures.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from pipeline.errors import UserError
from pipeline.progress import say
from pipeline.publish import json_text, new_file
from pipeline.training import device_choice as choices

_UNREPEATABLE = re.compile(r"(\S+) does not have a deterministic implementation")
"""Torch's warning of a kernel whose sums may differ from one time to another."""
_FIXED_WORKSPACES = (":4096:8", ":16:8")
"""With these cuBLAS repeats, by its manual; torch says nothing about others."""
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1
_HEAP = 1 << 30
"""Bytes; what does not fit has pages as Linux gives them."""
Setting = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
AS_FAST = 0.9
"""Of the fastest rate: above it the first device is taken, so that of equal GPUs noise does not pick one."""
_LONG, _LARGEST = 0.01, 8192
"""Matrices to measure with grow until a product takes so many seconds, or to that size."""
_BURST = 16
"""Products that a GPU is given before it is waited for: it takes thousands at once, and would be busy for a minute."""


@dataclass(frozen=True)
class Choice:
    """A device, and the FLOP a second that each candidate was measured at; none where there was one candidate."""

    device: torch.device
    rates: dict[str, float]

    def __str__(self) -> str:
        here = facts(self.device)
        name = f"{self.device} ({here['name']}, {here['threads']} threads)"
        return f"{name}, fastest of {self.measured}" if self.rates else name

    @property
    def measured(self) -> str:
        return choices.measured(self.rates)


@cache
def choose(setting: Setting, precision: Precision) -> Choice:
    """The fastest device that `setting` allows at matrix products of `precision`; once and for all in a process.

    Raises UserError where there is no GPU and one is asked for, or a GPU can not be used.
    """
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if setting == "cuda" and not gpus:
        raise UserError(
            "device: cuda, but torch sees no CUDA GPU", "set device: auto in params.yaml, or see wrn-pipe doctor"
        )
    candidates = {"auto": [*gpus, torch.device("cpu")], "cuda": gpus, "cpu": [torch.device("cpu")]}[setting]
    return fastest(candidates, lambda device: _probe(device, DTYPES[precision]))


def choose_once(scratch: Path, setting: Setting, precision: Precision) -> Choice:
    """As `choose`, but a training goes on where it was measured to be fastest, whatever a second measurement would say.

    What was measured is kept as a file in `scratch`, with the training's state. Raises as `choose` does.
    """
    if kept := choices.read(scratch):
        device = torch.device(kept["device"])
        here = device.type == "cpu" or (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count())
        if kept["setting"] == setting and here and facts(device) == kept["facts"]:
            return Choice(device, kept["rates"])
    choice = choose(setting, precision)
    if choice.rates:
        kept = {"setting": setting, "device": str(choice.device), "facts": facts(choice.device), "rates": choice.rates}
        new_file(scratch / choices.FILE, json_text(kept).encode())
    return choice


def fastest(candidates: Sequence[torch.device], rate: Callable[[torch.device], float]) -> Choice:
    """The first of `candidates` that is as fast as the fastest, but for a tenth. A single one is not measured.

    A GPU that can not be measured is left out, and said, where another one can; else UserError is raised.
    """
    if len(candidates) == 1:
        return Choice(candidates[0], {})
    rates: dict[str, float] = {}
    refused: list[UserError] = []
    for device in candidates:
        try:
            rates[str(device)] = rate(device)
        except UserError as error:
            refused.append(error)
    if refused and all(torch.device(name).type == "cpu" for name in rates):
        raise refused[0]
    for one in refused:
        say(f"{one.what}; it is left out")
    candidates = [device for device in candidates if str(device) in rates]
    enough = AS_FAST * max(rates.values())
    return Choice(next(device for device in candidates if rates[str(device)] >= enough), rates)


def of_rank(setting: Setting, rank: int, size: int) -> torch.device:
    """Process `rank`'s of `size` that train together: a GPU each, or the CPU for all where there is no GPU.

    Not measured, so that all come to the same. Raises UserError where there are GPUs, or are to be, but too few.
    """
    gpus = torch.cuda.device_count() if setting != "cpu" and torch.cuda.is_available() else 0
    if gpus >= size:
        return torch.device("cuda", rank)
    if gpus or setting == "cuda":
        raise UserError(
            f"{size} processes need a GPU each, but torch sees {gpus}",
            "set device: cpu in params.yaml, or a smaller number of processes in the protocol",
        )
    return torch.device("cpu")


def _probe(device: torch.device, dtype: torch.dtype) -> float:
    """The best `matrix_rate` of growing sizes: a GPU shows what it can do at large ones, which take a CPU too long."""
    size, best = 1024, 0.0
    try:
        while True:
            best = max(best, rate := matrix_rate(device, dtype, size, 0.1))
            if 2 * size**3 / rate > _LONG or size == _LARGEST:
                break
            size *= 2
    except RuntimeError as error:  # torch's errors of a GPU: no memory left, in use by one process only, broken
        if not (best and isinstance(error, torch.OutOfMemoryError)):  # but for the larger matrices only
            raise UserError(
                f"device {device} can not be measured: {str(error).splitlines()[0]}",
                "free it, hide it with CUDA_VISIBLE_DEVICES, or set device: cpu in params.yaml",
            ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the matrices took on a GPU that others may be using
    return best


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int, at_least: float) -> float:
    """FLOP a second (2 for each multiply-add) of square products, repeated for `at_least` seconds."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    wait(device)
    burst = _BURST if device.type == "cuda" else 1
    products, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < at_least:
        for _ in range(burst):
            torch.mm(left, right)
        wait(device)
        products += burst
    return 2 * size**3 * products / elapsed


def wait(device: torch.device) -> None:
    """Until it has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def prepare(device: torch.device) -> None:
    """Ask for repeatable kernels, and keep freed memory in the process: page faults cost a tenth of a step on a CPU."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else each new tensor is first filled with NaN: a tenth of a step. Nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # else a GPU's convolutions in fp32 round their inputs to 10 bits
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        _keep_memory()


def _keep_memory() -> None:
    """Of glibc: what is freed stays in the process, and its pages are huge where Linux has such. It has none for what
    grows bit by bit, as a heap does, unless asked to: so the heap is made large once, without writing to it."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(_M_MMAP_MAX, 0)  # all in the heap, for what is mapped by itself goes back to the system when freed
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
    heap = libc.malloc(_HEAP)
    if heap is not None:
        libc.madvise(-(-heap // mmap.PAGESIZE) * mmap.PAGESIZE, _HEAP - mmap.PAGESIZE, mmap.MADV_HUGEPAGE)
        libc.free(heap)


def facts(device: torch.device) -> dict[str, str | int]:
    """Kind of processor and number of threads, and of a GPU the libraries: with the same of all, the same bits."""
    if device.type == "cuda":
        cudnn: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        libraries = {"cuda": str(torch.version.cuda), "cudnn": str(cudnn)}
        name = torch.cuda.get_device_name(device)
        return {"type": "cuda", "name": name, "threads": torch.get_num_threads(), **libraries}
    name, flags = _processor()
    matrix = "AMX" if "amx_bf16" in flags else "AVX512_BF16" if "avx512_bf16" in flags else "no native bf16"
    capability = f"{torch.backends.cpu.get_cpu_capability()}, {matrix}"
    return {"type": "cpu", "name": name, "capability": capability, "threads": torch.get_num_threads()}


@contextmanager
def note_unrepeatable(names: list[str]) -> Iterator[None]:
    """Add to `names` each kernel that the block runs although torch has no deterministic one. `prepare` comes first."""
    show = warnings.showwarning

    def add(name: str) -> None:
        if name not in names:
            names.append(name)
            names.sort()

    def note(message: Warning | str, *where: Any, **more: Any) -> None:
        if found := _UNREPEATABLE.match(str(message)):
            add(found[1])
        else:
            show(message, *where, **more)

    on_gpu: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if on_gpu and os.environ["CUBLAS_WORKSPACE_CONFIG"] not in _FIXED_WORKSPACES:
        add("cuBLAS")

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
