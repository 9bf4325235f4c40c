"""Built networks: seeds, strides, gradients, and their weights under other people's names, also by `wrn-pipe export`.

What they compute, and from which weights, tests/reference holds.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from project import ROOT, WrnPipe
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.cli.export import in_layout
from pipeline.errors import UserError
from pipeline.models.names import parse
from pipeline.models.resnet import build, initialise, skeleton

RUN = "cifar10-wrn-40-1-quick-s1"


def make(name: str = "WRN-16-2", num_classes: int = 10, **changes: Any) -> nn.Module:
    arguments: dict[str, Any] = {"conv_init": "fan_in", "bn_init": "uniform", "dropout": 0.0, "seed": 0} | changes
    return build(name, num_classes, **arguments)


def test_layers_of_other_networks_start_from_something_or_are_refused() -> None:
    """A network of an adopter's, whose parameters would otherwise be what lay in memory."""
    own = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.fill_(torch.nan)
    initialise(own, conv_init="fan_in", bn_init="ones", seed=1)
    for name, parameter in own.named_parameters():
        assert parameter.isfinite().all()
        assert parameter.any() != name.endswith("bias")
    with pytest.raises(TypeError, match="nothing sets the parameters of a GroupNorm"):
        initialise(nn.Sequential(nn.GroupNorm(2, 8)), conv_init="fan_in", bn_init="ones", seed=1)


def test_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = make("WRN-16-2-dropout", dropout=0.3, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    # Fill the memory that a forgotten buffer would reuse with something else than zeros.
    rubbish = [torch.full_like(tensor, 77) for tensor in one.values()]
    del rubbish
    again = make("WRN-16-2", seed=3).state_dict()
    assert list(one) == list(again)
    assert all(torch.equal(one[key], again[key]) for key in one)
    other = make("WRN-16-2", seed=4).state_dict()
    assert not any(torch.equal(one[key], other[key]) for key in one if key.endswith("weight"))


@pytest.mark.parametrize(
    "name",
    [
        *("WRN-16-2-dropout", "WRN-16-1-B(1,3,1)", "WRN-16-1-B(3)", "WRN-22-1-B(3,3,3)", "pre-act-ResNet-110"),
        *("pre-act-ResNet-164", "WRN-18-0.25", "ResNet-50", "pre-ResNet-200"),
    ],
)
def test_a_network_takes_a_step_forward_and_back(name: str) -> None:
    """One of each form: depth and width only repeat them."""
    network = parse(name)
    model = make(name, 5, dropout=0.3 if network.dropout else 0.0, bn_init="ones", conv_init="fan_out")
    size = 64 if network.is_imagenet else 16
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = model(images)
    assert logits.shape == (2, 5)
    F.cross_entropy(logits, torch.tensor([0, 3])).backward()  # type: ignore[no-untyped-call]
    for key, parameter in [("images", images), *model.named_parameters()]:
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("dropout", [0.0, 1.0, float("nan")])
def test_a_dropout_rate_must_fit_the_name(dropout: float) -> None:
    with pytest.raises(UserError, match=f"dropout rate {dropout} is not between 0 and 1"):
        make("WRN-16-2-dropout", dropout=dropout)


def test_strides() -> None:
    """On a block's first convolution for CIFAR; on the first 3x3 one for ImageNet, as in fb.resnet.torch."""
    cifar = {"WRN-22-2-B(3,1,3)": (2, 1, 1), "WRN-40-2-B(1,3)": (2, 1), "pre-act-ResNet-164": (2, 1, 1)}
    imagenet = {"WRN-18-1.0": (2, 1), "ResNet-50": (1, 2, 1), "pre-ResNet-200": (1, 2, 1)}
    for name, expected in {**cifar, **imagenet}.items():
        group = skeleton(parse(name), 10).get_submodule("group2")
        for block, strides in (("block1", expected), ("block2", (1,) * len(expected))):
            convolutions = [group.get_submodule(f"{block}.conv{i + 1}") for i in range(len(expected))]
            assert tuple(conv.stride[0] for conv in convolutions) == strides, name


def trained(name: str, num_classes: int) -> nn.Module:
    """A network whose running statistics are no longer 0 and 1, and whose BN biases are not 0."""
    model = make(name, num_classes)
    generator = torch.Generator().manual_seed(0)
    for key, tensor in model.state_dict().items():
        if key.endswith(("bias", "running_mean")):
            tensor.normal_(0, 0.1, generator=generator)
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "model"),
    [("ResNet-18", "resnet18"), ("ResNet-50", "resnet50"), ("WRN-50-2-bottleneck", "wide_resnet50_2")],
)
def test_equal_weights_give_torchvisions_outputs_and_have_timms_names_as_well(name: str, model: str) -> None:
    ours, network = trained(name, 7), parse(name)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(model, num_classes=7)
    named = in_layout(network, ours.state_dict(), "torchvision")
    assert in_layout(network, ours.state_dict(), "timm").keys() == named.keys()
    theirs.load_state_dict(named, strict=True, assign=True)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.eval()(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["WRN-16-1", "WRN-22-2"])
def test_the_authors_layout_has_every_tensor_by_its_own_name(name: str) -> None:
    """Counted from 0, and without the word weight for a convolution."""

    def ours(key: str) -> str:
        key = re.sub(r"\d+", lambda number: str(int(number[0]) + 1), key).replace("convdim", "shortcut")
        return key if re.search(r"(bn\d?|fc)\.", key) else f"{key}.weight"

    state = {key: each for key, each in trained(name, 10).state_dict().items() if "num_batches" not in key}
    found = {ours(key): each for key, each in in_layout(parse(name), state, "authors").items()}
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_networks_that_a_layout_does_not_have() -> None:
    with pytest.raises(UserError, match="has no layout in the authors' PyTorch release"):
        in_layout(parse("WRN-40-2-B(3,1)"), {}, "authors")
    with pytest.raises(UserError, match="has no torchvision layout"):
        in_layout(parse("WRN-40-2"), {}, "torchvision")


def test_the_command_writes_a_run_s_weights_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrn_pipe: WrnPipe
) -> None:
    """What the network is, is told by the run's record and not by what params.yaml says of the run now."""

    def export(layout: str, to: str = "out.safetensors") -> tuple[int, str]:
        ended = wrn_pipe("export", RUN, "--layout", layout, "--to", to)
        return ended.returncode, ended.stderr

    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    code, said = export("authors")
    assert code == 2
    assert f"\n  fix: wrn-pipe repro train@{RUN}, or dvc pull if a remote is set up" in said
    folder = tmp_path / "models" / RUN
    folder.mkdir(parents=True)
    state = trained("WRN-16-1", 10).state_dict()
    save_file(state, folder / "model.safetensors")
    record = {"network": "WRN-16-1", "protocol": {"preprocessing": "meanstd"}}
    (folder / "run.json").write_text(json.dumps(record))
    assert export("timm")[0] == 2
    assert export("authors", "no/out.safetensors")[0] == 2
    assert not Path("out.safetensors").exists()
    assert export("authors") == (0, "")
    assert torch.equal(load_file("out.safetensors")["group0.block0.conv0"], state["group1.block1.conv1.weight"])
    with safe_open("out.safetensors", "pt") as file:
        assert file.metadata() == {"run": RUN, "network": "WRN-16-1", "preprocessing": "meanstd", "layout": "authors"}
