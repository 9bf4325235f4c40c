"""A GPU made of cardboard: torch believes in it, so all that the host does for a GPU happens for real.

Dispatcher, caching allocator, pinned memory, streams, the mode that finds waiting, alerts of unrepeatable kernels,
Inductor, Triton and ptxas run as they would; kernels compute nothing, so values mean nothing. It says nothing of
numbers, cuDNN, NCCL, times or memory. runtime.c and driver.c are CUDA's two libraries as far as torch asks them; every
Python process that believes in it loads inside/.
"""

import re
import subprocess
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
TORCH = Path(sysconfig.get_path("purelib")) / "torch" / "lib"
TRITON = TORCH.parents[1] / "triton" / "backends" / "nvidia"
_BLAS = {
    r"cublasCreate_v2|cublasLt\w*Create": "int %s(void **p) { *p = calloc(1, 4096); return 0; }",
    r"cublasGetMathMode|cublasGetPointerMode_v2": "int %s(void *handle, int *mode) { *mode = 0; return 0; }",
    r"cublasLtMatmulAlgoGetHeuristic": "int %s(void *a, void *b, void *c, void *d, void *e, void *f, void *g, int n,"
    " void *r, int *found) { *found = 1; return 0; }",
}


def build(to: Path) -> dict[str, str]:
    """Compile it for the torch that is installed; the environment of a process that is to believe in it."""
    runtime, driver = (HERE / "runtime.c").read_text(), (HERE / "driver.c").read_text()
    of_torch = [TORCH / f"lib{name}.so" for name in ("c10_cuda", "torch_cuda", "torch_python", "torch_cpu")]
    asked = _undefined(*of_torch, TORCH / "libtorch_cuda_linalg.so")
    rest = [name for name in asked if re.match("_*cuda|cublas", name) and f"{name}(" not in runtime]
    (to / "rest.c").write_text("#include <stdlib.h>\n" + "\n".join(map(_function, rest)) + "\n")
    called = r"\bcu(?:Ctx|Device|Mem|Module|Func|Launch|Get|Driver|Pointer|Tensor|Occupancy|Init)[A-Za-z0-9_]*\b(?!_t)"
    drivers = {name for name in _undefined(TORCH / "libcaffe2_nvrtc.so") if name.startswith("cu")}
    drivers.update(*(re.findall(called, (TRITON / name).read_text()) for name in ("driver.c", "driver.py")))
    # Those that torch looks up by name when it needs them.
    drivers.update(word for word in _lines("strings", "-a", *of_torch[:2]) if re.fullmatch(called, word))
    known = [name for name in drivers if f"{name}(" not in driver and not re.search(r"_t$|[a-z]Handle$", name)]
    (to / "rest-of-driver.c").write_text("\n".join(map(_function, known)) + "\n")
    compiler = ["gcc", "-w", "-O1", "-fPIC", "-shared", f"-I{TRITON / 'include'}"]
    _lines(*compiler, "-o", to / "libstand-in.so", HERE / "runtime.c", to / "rest.c", "-lpthread")
    _lines(*compiler, "-Wl,-soname,libcuda.so.1", "-o", to / "libcuda.so.1", HERE / "driver.c", to / "rest-of-driver.c")
    return {
        "LD_PRELOAD": str(to / "libstand-in.so"),
        **dict.fromkeys(("LD_LIBRARY_PATH", "TRITON_LIBCUDA_PATH"), str(to)),
        # Caches of its own: what is compiled for it is of no use elsewhere, and the other way round.
        "TORCHINDUCTOR_CACHE_DIR": str(to / "inductor"),
        "TRITON_CACHE_DIR": str(to / "triton"),
        "PYTHONPATH": f"{HERE}:{HERE / 'inside'}",
        "CUDA_VISIBLE_DEVICES": "0",
        "DISABLE_ADDMM_CUDA_LT": "1",
    }


def _lines(*command: str | Path) -> list[str]:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def _undefined(*libraries: Path) -> set[str]:
    return {line.split()[-1].split("@")[0] for line in _lines("nm", "-D", "-u", *libraries) if line.startswith(" ")}


def _function(name: str) -> str:
    bodies = (body for pattern, body in _BLAS.items() if re.fullmatch(pattern, name))
    return next(bodies, "int %s() { return 0; }") % name
