"""What `kernels` of params.yaml makes a network train with; and a training by torch.compile, stopped and resumed."""

import copy
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from project import RUN, Project
from safetensors.torch import load_file

from pipeline.artifacts import WEIGHTS
from pipeline.errors import UserError, WrnPipeError
from pipeline.kernels import build_kernels
from pipeline.kernels.apply import bn_relu, speed_up
from pipeline.kernels.build_kernels import built_with, compiler, instruction_set, library
from pipeline.models.resnet import ResNet, build
from pipeline.params import Kernels, Precision
from pipeline.training.device import explain_compile_errors

CPU = torch.device("cpu")
OF_BF16 = pytest.mark.skipif(not instruction_set(), reason="no instructions for bfloat16: trainings compute in fp32")
LIMIT: int = torch._dynamo.config.recompile_limit


def network(name: str = "WRN-10-1") -> torch.nn.Module:
    return build(name, 10, conv_init="fan_in", bn_init="uniform", seed=1).to(memory_format=torch.channels_last)


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
    assert speed_up(kernels, model, CPU) == said
    assert (model._compiled_call_impl is not None) == (kernels == "compiled")
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("name", "precision", "torchs_error"),
    [
        ("WRN-16-2", "fp32", 0.1),
        pytest.param("WRN-16-1-B(1,3,1)", "bf16", 0.5, marks=OF_BF16),
        pytest.param("pre-act-ResNet-164", "fp32", 0.1, marks=pytest.mark.soak),
    ],
)
def test_a_network_trains_as_with_torch_and_evaluates_the_same(
    name: str, precision: Precision, torchs_error: float
) -> None:
    torch.manual_seed(0)
    plain = network(name)
    fused, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    assert speed_up("fused", fused, CPU) == f"fused, {built_with()}"
    x, labels = (torch.randn(8, 3, 32, 32) * 2 + 0.5).to(memory_format=torch.channels_last), torch.arange(8)
    for model in (plain, fused):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(x)
        F.cross_entropy(logits.float(), labels).backward()
    F.cross_entropy(exact(x.double()), labels).backward()
    # Depth amplifies rounding, torch's as ours.
    gradients = [torch.cat([p.grad.double().flatten() for p in net.parameters()]) for net in (plain, fused, exact)]
    torchs, ours = ((gradient - gradients[2]).norm() / gradients[2].norm() for gradient in gradients[:2])
    assert torchs < torchs_error
    assert ours < (3 if precision == "fp32" else 1.2) * torchs, (ours, torchs)
    for (key, value), other in zip(plain.state_dict().items(), fused.state_dict().values(), strict=True):
        assert torch.allclose(value, other, rtol=1e-2, atol=1e-3 if precision == "fp32" else 0.1), key
    fused.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), fused.eval()(x))


def test_a_gpu_trains_with_torch_compile_or_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here Triton is installed and may have no GPU to work for."""
    model, gpu = network(), torch.device("cuda:0")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no Triton for cuda:0") as error:
            speed_up("fused", model, gpu)
        assert "kernels: torch" in error.value.remedy
        with pytest.raises(UserError, match="graphs needs a CUDA GPU"):
            speed_up("graphs", model, CPU)
        pytest.importorskip("triton", reason="Triton, which comes with CUDA's torch, is not here")
        monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    assert speed_up("graphs", network(), gpu).startswith("graphs, ")
    assert speed_up("fused", model, gpu).startswith("compiled, ")
    assert isinstance(model, ResNet)
    assert model._compiled_call_impl is not None
    assert not any(place.activate is bn_relu for place in (model, model.group1.block1))


def test_a_network_for_a_gpu_counts_its_steps_at_once_and_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, not compiled."""
    plain, model = network(), network()
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    speed_up("fused", model, torch.device("cuda:0"))
    model._compiled_call_impl = None
    x = torch.randn(4, 3, 32, 32)
    for _ in range(2):
        assert torch.equal(model(x), plain(x))
    expected = plain.state_dict()
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert expected["bn.num_batches_tracked"] == 2


@pytest.fixture
def rebuilt() -> Iterator[None]:
    """Nothing that was built or found before counts, nor does what the test finds."""
    caches = compiler, library, instruction_set
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("rebuilt")
def test_without_a_compiler_the_remedy_is_torchs_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_kernels, "COMPILE", ("no-such-compiler",))
    for kernels in ("fused", "compiled"):
        with pytest.raises(UserError, match="no-such-compiler not found") as error:
            speed_up(kernels, network(), CPU)
        assert "kernels: torch" in error.value.remedy
    assert speed_up("torch", network(), CPU) == "torch"


@pytest.mark.usefixtures("rebuilt")
def test_an_edited_source_is_built_again_and_a_broken_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "convolution.cpp"
    monkeypatch.setattr(build_kernels, "SOURCES", (source,))
    for text, files in (("", 1), ("\n", 2), ("}", 2)):
        source.write_text('extern "C" int multiplies(void) { return 0; }' + text)
        library.cache_clear()
        if text == "}":
            with pytest.raises(UserError, match=r"g\+\+ cannot build the kernels: .*convolution.cpp.*error"):
                library()
        else:
            library()
        assert len(list((tmp_path / "__pycache__").iterdir())) == files


class _Looking(torch.nn.Module):
    """The host looks at a value in it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x


def test_what_cannot_be_compiled_whole_is_an_error_of_one_line() -> None:
    model = _Looking()
    speed_up("compiled", model, CPU)
    with (
        pytest.raises(WrnPipeError, match=r"torch\.compile failed: Data-dependent branching\n") as error,
        explain_compile_errors(),
    ):
        model(torch.ones(3))
    assert "kernels: torch" in error.value.remedy


@pytest.mark.soak
def test_one_process_compiles_any_number_of_networks() -> None:
    """torch keeps what it compiles with a piece of code that all networks share, and refuses to keep more than 8."""
    for width in range(1, 2 * LIMIT):
        model = torch.nn.Linear(width, 1)
        speed_up("compiled", model, CPU)
        assert model(torch.ones(2, width)).shape == (2, 1)


@pytest.mark.soak
def test_a_compiled_training_killed_in_an_epoch_ends_with_the_same_bytes(project: Project, tmp_path: Path) -> None:
    """The last mini-batch of an epoch has another shape, and is the first or second that the next process meets."""
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    project.set_brief(epochs=3, batch_size=96, precision="fp32", dropout=0.3, drop_last=False)
    project.edit(lambda params: params.update(kernels="compiled"))
    project.edit(lambda params: params["runs"][RUN].update(network="WRN-10-1-dropout"))

    def trained() -> list[bytes]:
        assert project.train(**cache).wait() == 0, project.log.read_text()
        return project.published()

    expected = trained()
    assert b'"kernels": "compiled, torch ' in expected[2]
    shapes = {key: value.shape for key, value in network().state_dict().items()}
    weights = load_file(project.root / "models" / RUN / WEIGHTS)
    assert {key: value.shape for key, value in weights.items()} == shapes
    killed = project.train("--fresh", "--checkpoint-steps", "1", **cache)
    while killed.poll() is None and not list((project.root / "scratch").glob("*/epoch-0001-step-00000[12].*.saf*")):
        time.sleep(0.002)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, project.log.read_text()
    assert trained() == expected
    assert "resuming from scratch/" in project.log.read_text()
