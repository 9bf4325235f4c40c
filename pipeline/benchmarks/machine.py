"""What a measurement was made on, for whoever reads it elsewhere."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import version

import torch

from pipeline.training import device as devices


def machine(device: torch.device) -> dict[str, str]:
    """Device, driver, versions and settings of this process, in words."""
    here = {key: str(value) for key, value in devices.facts(device).items()}
    here |= {"system": platform.platform(terse=True), "cores": str(os.cpu_count()), "torch": torch.__version__}
    if device.type == "cuda":
        of = torch.cuda.get_device_properties(device)
        here |= {
            "memory": f"{of.total_memory / 2**30:.0f} GiB",
            "compute capability": f"{of.major}.{of.minor}",
            "multiprocessors": str(of.multi_processor_count),
            "driver": _driver(),
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
            "triton": version("triton"),
            "TF32 of convolutions": _on(torch.backends.cudnn.allow_tf32),
            "TF32 of products": _on(torch.backends.cuda.matmul.allow_tf32),
            "cuDNN benchmark": _on(torch.backends.cudnn.benchmark),
        }
    here["deterministic"] = _on(torch.are_deterministic_algorithms_enabled())
    names = ("OMP_", "GOMP_", "KMP_", "PYTORCH_", "TORCH", "THP_", "CUBLAS_", "CUDA_", "MALLOC_", "LD_PRELOAD")
    here["environment"] = " ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(names)) or "none"
    return here


def _driver() -> str:
    """Version of NVIDIA's driver, which torch does not tell."""
    if not (query := shutil.which("nvidia-smi")):
        return "unknown: there is no nvidia-smi"
    command = [query, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else f"unknown: {done.stderr.strip()}"


def _on(value: bool) -> str:
    return "on" if value else "off"
