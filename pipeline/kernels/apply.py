"""What a network trains with: `kernels` of params.yaml, made true on one device."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch
from torch import nn

from pipeline.errors import UserError, WrnPipeError
from pipeline.kernels.bn_relu import bn_relu
from pipeline.kernels.build_kernels import COMPILE, built_with, compiler
from pipeline.kernels.convolution import convolve, made_for
from pipeline.models.preact_resnet import PreActBlock, PreActResNet
from pipeline.params import Kernels, Precision


def use(kernels: Kernels, model: nn.Module, device: torch.device) -> str:
    """Let `model`, on `device` with channels_last weights, train with `kernels`; says what it trains with now.

    Names and weights stay as they are. On a CPU, fused is bn_relu.py and convolution.py; on a GPU it is compiled, since
    torch.compile makes one operation of BN and ReLU too. It compiles at the first step of each shape of mini-batch, in
    a minute or so, and keeps the result in its own cache. Another network of this process that is in use compiles again
    at its next step, unless it is of the same shape. Raises UserError when a compiler is not to be had.
    """
    if kernels == "torch":
        return "torch"
    if kernels == "fused" and device.type == "cpu":
        return _fuse(model)
    from torch import _dynamo
    from torch._inductor import config
    from torch.utils._triton import has_triton

    config.cpp.cxx = (None, COMPILE[0])  # whatever CXX says: the one that is recorded
    with_what = compiler()  # Triton needs it as well, for what calls its kernels
    if device.type == "cuda":
        if not has_triton():
            raise UserError(f"torch.compile has no Triton for {device}", "set kernels: torch in params.yaml")
        with_what = f"triton {version('triton')}"
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # would warn that a CPU has no CUDA
    # All compiled networks share one piece of torch's own code, and with it torch keeps 8 results, those for networks
    # that are gone among them: a ninth network in a process would be an error.
    _dynamo.reset()
    # Each shape is compiled for itself, so that bits do not depend on which one this process met first; and what can
    # not be compiled whole is an error, not a part that quietly runs as torch's.
    model.compile(dynamic=False, fullgraph=True)
    return f"compiled, torch {version('torch')} inductor, {with_what}"


def _fuse(model: nn.Module) -> str:
    """Post-activation networks have no place for it and stay with torch's; evaluation stays as it is in all."""
    places = [module for module in model.modules() if isinstance(module, PreActBlock | PreActResNet)]
    if not places:
        return "torch"
    with_what = built_with()
    for place in places:
        place.activate, place.convolve = bn_relu, convolve
    return f"fused, {with_what}"


def waits_in_openmp(model: nn.Module, precision: Precision) -> bool:
    """Whether a training step's threads wait for each other in OpenMP only, which lets them sleep. In the weight
    gradients that torch takes from oneDNN they do not, however long it takes."""
    ours = all(module.convolve is convolve for module in model.modules() if isinstance(module, PreActBlock))
    stem = isinstance(model, PreActResNet) and model.convolve is convolve
    every = (made_for(module) for module in model.modules() if isinstance(module, nn.Conv2d))
    return stem and ours and precision == "bf16" and all(every)


@contextmanager
def explain_no_compiling() -> Iterator[None]:
    """Turn torch.compile's errors into a WrnPipeError: they come with the first steps, from inside the network."""
    try:
        yield
    except Exception as error:
        if "torch._dynamo.exc" not in sys.modules:  # nothing was compiled, and to load it takes seconds
            raise
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        if not isinstance(error, TorchDynamoException | FailOnRecompileLimitHit):
            raise
        # The latter's own words are only "Hard failure due to fullgraph=True".
        told = error.__cause__ if isinstance(error, FailOnRecompileLimitHit) else error
        lines = [line.strip() for line in str(told).splitlines() if line.strip()]
        reasons = [line for line in lines[1:] if "error:" in line]
        raise WrnPipeError(
            f"torch.compile failed: {': '.join([lines[0], *reasons[:1]])}",
            "set TORCH_LOGS=+dynamo to see more, or kernels: torch in params.yaml (another run, from its start)",
        ) from error
