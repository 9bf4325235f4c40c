"""The one function of this folder. A training without it is slower, and all else works."""

import logging
from importlib.metadata import version

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.kernels.bn_relu import bn_relu
from pipeline.kernels.build_kernels import COMPILE, built_with, compiler
from pipeline.kernels.convolution import convolve
from pipeline.models.resnet import PreActBlock, ResNet
from pipeline.params import Kernels


def speed_up(kernels: Kernels, model: nn.Module, device: torch.device) -> str:
    """Let `model`, on `device` with channels_last weights, train with `kernels`; says with what, for run.json.

    Names, weights and evaluation stay as they are. Raises UserError when a compiler is missing.
    """
    if kernels == "torch":
        return "torch"
    if kernels == "compiled" or device.type != "cpu":
        return _compile(model, device)
    modules = list(model.modules())
    if not any(isinstance(module, PreActBlock) for module in modules):  # a post-activation network
        return "torch"
    with_what = built_with()
    for module in modules:
        if isinstance(module, PreActBlock | ResNet):
            module.activate, module.convolve = bn_relu, convolve
    return f"fused, {with_what}"


def _compile(model: nn.Module, device: torch.device) -> str:
    """At the first step of each shape of mini-batch, in a minute or so; torch keeps the result in its own cache.

    Another network of this process that is in use compiles again at its next step, unless it is of the same shape.
    """
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
