"""A GPU made of cardboard: torch believes in it, so all that the host does for a GPU happens for real.

Dispatcher, caching allocator, pinned memory, streams, the mode that finds waiting, alerts of unrepeatable kernels,
Inductor, Triton and ptxas run as they would; kernels compute nothing, so values mean nothing. It says nothing of
numbers, cuDNN, NCCL, times or memory. runtime.c and driver.c are CUDA's two libraries as far as torch asks them.

    python tests/gpu/stand_in.py FOLDER         # builds it there, and prints the environment that it takes
"""

import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = Path(sysconfig.get_path("purelib"))
TORCH = PACKAGES / "torch" / "lib"
TRITON = PACKAGES / "triton" / "backends" / "nvidia"
RUNTIME, DRIVER = "libstand-in.so", "libcuda.so.1"
_BLAS = {
    r"cublasCreate_v2|cublasLt\w*Create": "int %s(void **p) { *p = calloc(1, 4096); return 0; }",
    r"cublasGetMathMode|cublasGetPointerMode_v2": "int %s(void *handle, int *mode) { *mode = 0; return 0; }",
    r"cublasLtMatmulAlgoGetHeuristic": (
        "int %s(void *a, void *b, void *c, void *d, void *e, void *f, void *g, int n, void *r, int *found)"
        " { *found = 1; return 0; }"
    ),
}


def build(to: Path) -> dict[str, str]:
    """Compile it for the torch that is installed; the environment of a process that is to believe in it."""
    to.mkdir(parents=True, exist_ok=True)
    runtime, driver = (HERE / "runtime.c").read_text(), (HERE / "driver.c").read_text()
    of_torch = [TORCH / f"lib{name}.so" for name in ("c10_cuda", "torch_cuda", "torch_python", "torch_cpu")]
    asked = _undefined([*of_torch, TORCH / "libtorch_cuda_linalg.so"])
    rest = [_succeeds(name) for name in sorted(asked) if re.match("_*cuda", name) and f"{name}(" not in runtime]
    rest += [_blas(name) for name in sorted(asked) if name.startswith("cublas")]
    (to / "rest.c").write_text("#include <stdlib.h>\n" + "\n".join(rest) + "\n")
    drivers = {name for name in _undefined([TORCH / "libcaffe2_nvrtc.so"]) if name.startswith("cu")}
    called = r"\bcu(?:Ctx|Device|Mem|Module|Func|Launch|Get|Driver|Pointer|Tensor|Occupancy|Init)[A-Za-z0-9_]*\b(?!_t)"
    for name in ("driver.c", "driver.py"):
        drivers |= set(re.findall(called, (TRITON / name).read_text()))
    # Those that torch looks up by name when it needs them.
    for library in of_torch[:2]:
        words = subprocess.run(
            ["strings", "-a", library], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        drivers |= {word for word in words if re.fullmatch(called, word)}
    known = [name for name in sorted(drivers) if f"{name}(" not in driver and not re.search(r"_t$|[a-z]Handle$", name)]
    (to / "rest-of-driver.c").write_text("\n".join(map(_succeeds, known)) + "\n")
    compiler = ["gcc", "-w", "-O1", "-fPIC", "-shared", f"-I{TRITON / 'include'}"]
    subprocess.run([*compiler, "-o", to / RUNTIME, HERE / "runtime.c", to / "rest.c", "-lpthread"], check=True)
    options = [f"-Wl,-soname,{DRIVER}", "-o", to / DRIVER]
    subprocess.run([*compiler, *options, HERE / "driver.c", to / "rest-of-driver.c"], check=True)
    (to / "libcuda.so").unlink(missing_ok=True)
    (to / "libcuda.so").symlink_to(DRIVER)
    return {
        "LD_PRELOAD": str(to / RUNTIME),
        "LD_LIBRARY_PATH": str(to),
        "TRITON_LIBCUDA_PATH": str(to),
        # Caches of its own: what is compiled for it is of no use elsewhere, and the other way round.
        "TORCHINDUCTOR_CACHE_DIR": str(to / "inductor"),
        "TRITON_CACHE_DIR": str(to / "triton"),
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTHONPATH": str(HERE),
        "DISABLE_ADDMM_CUDA_LT": "1",
    }


def _undefined(libraries: Iterable[Path]) -> set[str]:
    found = subprocess.run(["nm", "-D", "--undefined-only", *libraries], capture_output=True, text=True, check=True)
    return {line.split()[-1].split("@")[0] for line in found.stdout.splitlines() if line.startswith(" ")}


def _succeeds(name: str) -> str:
    return f"int {name}() {{ return 0; }}"


def _blas(name: str) -> str:
    for pattern, body in _BLAS.items():
        if re.fullmatch(pattern, name):
            return body % name
    return _succeeds(name)


if __name__ == "__main__":
    print("\n".join(f"export {name}={value}" for name, value in build(Path(sys.argv[1])).items()))
