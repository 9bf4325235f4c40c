"""What `kernels` of params.yaml makes a network train with; the compiled way itself is in test_compiled.py."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F

from pipeline.errors import UserError, WrnPipeError
from pipeline.kernels import build_kernels
from pipeline.kernels.apply import explain_no_compiling, use, waits_in_openmp
from pipeline.kernels.bn_relu import bn_relu
from pipeline.kernels.build_kernels import built_with, compiler, library, multiplies
from pipeline.models.build import build
from pipeline.models.preact_resnet import PreActResNet
from pipeline.params import Kernels

CPU = torch.device("cpu")
OF_BF16 = pytest.mark.skipif(not multiplies(), reason="no instructions for bfloat16: trainings compute in fp32 here")
LIMIT: int = torch._dynamo.config.recompile_limit


def network(name: str = "WRN-10-1") -> torch.nn.Module:
    return build(name, 10, conv_init="fan_in", bn_init="ones", seed=1).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("kernels", "name", "said"),
    [
        ("fused", "WRN-10-1", f"fused, {built_with()}"),
        ("fused", "ResNet-50", "torch"),
        ("torch", "WRN-10-1", "torch"),
        ("compiled", "WRN-10-1", f"compiled, torch {torch.__version__.split('+')[0]} inductor, {compiler()}"),
    ],
)
def test_what_a_cpu_trains_with_is_said(kernels: Kernels, name: str, said: str) -> None:
    model = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert use(kernels, model, CPU) == said
    assert (model._compiled_call_impl is not None) == (kernels == "compiled")
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert {key for key, _ in model.named_parameters()} <= set(before)


@pytest.mark.parametrize(
    ("name", "precision", "torchs_error"),
    [
        ("WRN-16-2", "fp32", 0.1),
        ("WRN-16-1-B(1,3,1)", "fp32", 0.1),
        ("pre-act-ResNet-164", "fp32", 0.1),
        pytest.param("WRN-16-1-B(1,3,1)", "bf16", 0.5, marks=OF_BF16),
    ],
)
def test_a_network_trains_as_with_torch_and_evaluates_the_same(name: str, precision: str, torchs_error: float) -> None:
    torch.manual_seed(0)
    plain = build(name, 10, conv_init="fan_in", bn_init="uniform", seed=1).to(memory_format=torch.channels_last)
    fused = copy.deepcopy(plain)
    assert use("fused", fused, CPU) == f"fused, {built_with()}"
    exact = copy.deepcopy(plain).double()
    x, labels = (torch.randn(8, 3, 32, 32) * 2 + 0.5).to(memory_format=torch.channels_last), torch.arange(8)
    for network in (plain, fused):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(x)
        F.cross_entropy(logits.float(), labels).backward()
    F.cross_entropy(exact(x.double()), labels).backward()
    assert list(plain.state_dict()) == list(fused.state_dict())
    # Depth amplifies rounding, torch's as ours.
    gradients = [torch.cat([p.grad.double().flatten() for p in net.parameters()]) for net in (plain, fused, exact)]
    torchs, ours = ((gradient - gradients[2]).norm() / gradients[2].norm() for gradient in gradients[:2])
    assert torchs < torchs_error
    assert ours < (3 if precision == "fp32" else 1.2) * torchs, (ours, torchs)
    for (key, value), other in zip(plain.state_dict().items(), fused.state_dict().values(), strict=True):
        assert torch.allclose(value, other, rtol=1e-2, atol=1e-3 if precision == "fp32" else 0.1), key
    fused.load_state_dict(plain.state_dict())
    plain.eval()
    fused.eval()
    with torch.no_grad():
        assert torch.equal(plain(x), fused(x))


VERBOSE = """
import sys, torch
from pipeline.models.build import build
from pipeline.kernels.apply import use, waits_in_openmp
name, precision, kernels, size = sys.argv[1:]
model = build(name, 10, conv_init="fan_in", bn_init="uniform", seed=1).to(memory_format=torch.channels_last)
use(kernels, model, torch.device("cpu"))
with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
    model(torch.randn(4, 3, int(size), int(size)).to(memory_format=torch.channels_last)).sum().backward()
print("in OpenMP" if waits_in_openmp(model, precision) else "elsewhere")
"""


@OF_BF16
@pytest.mark.parametrize(
    ("name", "precision", "kernels", "where"),
    [
        ("WRN-16-2", "bf16", "fused", "in OpenMP"),
        ("WRN-16-1", "bf16", "torch", "elsewhere"),
        *(
            pytest.param(*case, marks=pytest.mark.soak)
            for case in (
                ("WRN-10-10", "bf16", "fused", "in OpenMP"),
                ("pre-act-ResNet-164", "bf16", "fused", "in OpenMP"),
                ("WRN-16-1", "fp32", "fused", "elsewhere"),
                ("WRN-50-2-bottleneck", "bf16", "fused", "elsewhere"),
            )
        ),
    ],
)
def test_where_no_weight_gradient_is_onednns_threads_wait_in_openmp(
    name: str, precision: str, kernels: str, where: str
) -> None:
    size = "32" if where == "in OpenMP" or "-16-" in name else "64"
    ran = subprocess.run(
        [sys.executable, "-c", VERBOSE, name, precision, kernels, size],
        env={**os.environ, "ONEDNN_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    *told, found = ran.stdout.splitlines()
    assert found == where
    assert any(",convolution," in line and ",backward_data," in line for line in told)
    assert any(",backward_weights," in line for line in told) == (where == "elsewhere")


@pytest.mark.parametrize("kernels", ["fused", "compiled"])
def test_a_gpu_trains_with_torch_compile_or_says_what_is_missing(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here Triton is installed and has no GPU to work for."""
    model = network()
    if torch.cuda.is_available():
        assert use(kernels, model, torch.device("cuda:0")).startswith("compiled, ")
    else:
        with pytest.raises(UserError, match="no Triton for cuda:0") as error:
            use(kernels, model, torch.device("cuda:0"))
        assert "kernels: torch" in error.value.remedy
        monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
        assert ", triton " in use(kernels, model, torch.device("cuda:0"))
    assert isinstance(model, PreActResNet)
    assert model._compiled_call_impl is not None
    assert not any(place.activate is bn_relu for place in (model, model.group1.block1))


@pytest.mark.parametrize("kernels", ["fused", "compiled"])
def test_without_a_compiler_the_remedy_is_to_compile_nothing(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_kernels, "COMPILE", ("no-such-compiler",))
    compiler.cache_clear()
    library.cache_clear()
    try:
        with pytest.raises(UserError, match="no-such-compiler is not to be had") as error:
            use(kernels, network(), CPU)
        assert "kernels: torch" in error.value.remedy
    finally:
        compiler.cache_clear()
        library.cache_clear()


def test_torchs_own_kernels_need_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_kernels, "COMPILE", ("no-such-compiler",))
    for kept in (compiler, library, multiplies):
        kept.cache_clear()
    try:
        model = network()
        assert use("torch", model, CPU) == "torch"
        assert not waits_in_openmp(model, "bf16")
    finally:
        for kept in (compiler, library, multiplies):
            kept.cache_clear()


def test_what_can_not_be_compiled_whole_is_an_error_of_one_line() -> None:
    """A value that the host looks at, in the network."""

    class Looking(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x

    model = Looking()
    use("compiled", model, CPU)
    with (
        pytest.raises(WrnPipeError, match=r"torch\.compile failed: Data-dependent branching\n") as error,
        explain_no_compiling(),
    ):
        model(torch.ones(3))
    assert "kernels: torch" in error.value.remedy
    with pytest.raises(RuntimeError, match=r"^another$"), explain_no_compiling():
        raise RuntimeError("another")


def test_one_process_compiles_as_many_networks_as_there_are() -> None:
    """torch keeps what it compiles with a piece of code that all networks share, and refuses to keep more than 8."""
    for width in range(1, 2 * LIMIT):
        model = torch.nn.Linear(width, 1)
        use("compiled", model, CPU)
        assert model(torch.ones(2, width)).shape == (2, 1)


def test_more_shapes_than_torch_keeps_are_an_error_of_one_line() -> None:
    model = torch.nn.Linear(1, 1)
    use("compiled", model, CPU)
    for images in range(2, 2 + LIMIT):
        model(torch.ones(images, 1))
    with (
        pytest.raises(WrnPipeError, match=r"torch\.compile failed: Dynamo recompile limit exceeded\n") as error,
        explain_no_compiling(),
    ):
        model(torch.ones(2 + LIMIT, 1))
    assert "kernels: torch" in error.value.remedy


def test_an_error_of_a_process_that_compiles_nothing_does_not_load_the_compiler() -> None:
    """Which takes seconds: after Ctrl-C, say, nobody waits for it."""
    code = """
import sys
from pipeline.kernels.apply import explain_no_compiling
try:
    with explain_no_compiling():
        raise ValueError("another")
except ValueError:
    print("torch._dynamo.exc" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
