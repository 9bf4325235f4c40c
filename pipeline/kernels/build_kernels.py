"""Our own kernels for the CPU: compiled by g++ from the .cpp and .h files beside this, on first use."""

import ctypes
import os
import platform
import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pipeline.atomic_write import sync
from pipeline.errors import UserError

SOURCES = tuple(sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".cpp", ".h")))
COMPILE = ("g++", "-std=gnu++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")
_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "i": ctypes.c_int, "d": ctypes.c_double, "-": None}
_SIGNATURES = {
    "bn_relu_forward": ("pplllppppddppii", "-"),
    "bn_relu_backward": ("pppplllppppii", "-"),
    "packed_words": ("pllli", "l"),
    "weight_gradient": ("pppplllippi", "-"),
    "multiplies": ("", "i"),
}
"""Name -> types of the arguments and of the result: p a pointer, l int64_t, i int, d double, - nothing."""


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels; built on first use, in two seconds, beside Python's own compiled files.

    torch is loaded before, so its libgomp serves this library too and there is one pool of threads.
    Raises UserError when they cannot be built.
    """
    texts = [source.read_text(encoding="utf-8") for source in SOURCES]
    key = sha256("\0".join([*texts, *COMPILE, compiler(), _processor()]).encode())
    built = SOURCES[0].parent / "__pycache__" / f"kernels-{key.hexdigest()[:16]}.so"
    if not built.is_file():
        part = built.with_suffix(f".{os.getpid()}.part")
        try:
            built.parent.mkdir(exist_ok=True)
            _run(*COMPILE, "-o", str(part), *(str(source) for source in SOURCES if source.suffix == ".cpp"))
            sync(part)  # of a library that a power loss has cut short the linker says little
            os.replace(part, built)
        except OSError as error:
            raise UserError(f"cannot write {built}: {error.strerror}", "make the folder writable") from None
        finally:
            part.unlink(missing_ok=True)
    kernels = ctypes.CDLL(str(built))
    for name, (arguments, result) in _SIGNATURES.items():
        if hasattr(kernels, name):  # which there are depends on the processor
            function = getattr(kernels, name)
            function.argtypes, function.restype = [_TYPES[letter] for letter in arguments], _TYPES[result]
    return kernels


@cache
def instruction_set() -> Literal["", "AVX512_BF16", "AMX"]:
    """Which of the processor's instructions for bfloat16 the library's convolutions use; none on others.

    Raises UserError as `library`.
    """
    return ("", "AVX512_BF16", "AMX")[library().multiplies()]


@cache
def compiler() -> str:
    """Name and version of the compiler. Raises UserError when there is none."""
    return _run(COMPILE[0], "--version").splitlines()[0]


def built_with() -> str:
    """The compiler and, where it matters to results, what the processor has. Raises UserError as `library`."""
    return ", ".join(filter(None, (compiler(), instruction_set())))


def _run(*command: str) -> str:
    remedy = "install g++ (see wrn-pipe doctor), or set kernels: torch in params.yaml, which is slower on a CPU"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise UserError(f"{command[0]} not found: {error.strerror}", remedy) from None
    if done.returncode:
        words = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        raise UserError(f"{command[0]} cannot build the kernels: {words[0]}", remedy)
    return done.stdout


def _processor() -> str:
    """What -march=native looks at: a library built elsewhere may hold instructions that this processor lacks."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else [platform.processor()]
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
