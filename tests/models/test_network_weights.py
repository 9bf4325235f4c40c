"""Weights in torchvision's layout and in that of the authors' PyTorch release."""

import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from pipeline.errors import UserError
from pipeline.models.build import build, skeleton
from pipeline.models.names import parse
from pipeline.models.weights import from_authors, from_torchvision, to_authors, to_torchvision

TORCHVISION = {
    "WRN-50-2-bottleneck": "wide_resnet50_2",
    "WRN-101-2-bottleneck": "wide_resnet101_2",
    "ResNet-50": "resnet50",
    "ResNet-101": "resnet101",
    "ResNet-152": "resnet152",
    "WRN-18-1.0": "resnet18",
    "WRN-34-1.0": "resnet34",
}


def trained(name: str, num_classes: int, seed: int = 0) -> torch.nn.Module:
    """A network whose running statistics are no longer 0 and 1, and whose BN biases are not 0."""
    model = build(name, num_classes, conv_init="fan_out", bn_init="uniform", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in model.state_dict().items():
        if key.endswith(("bias", "running_mean")):
            tensor.normal_(0, 0.1, generator=generator)
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
    return model.eval()


@pytest.mark.parametrize("name", ["WRN-50-2-bottleneck", "WRN-18-1.0"])
def test_equal_weights_give_torchvisions_outputs(name: str) -> None:
    ours, network = trained(name, 1000), parse(name)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(TORCHVISION[name])
    theirs.load_state_dict(to_torchvision(network, ours.state_dict()), strict=True, assign=True)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.eval()(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)
    back = from_torchvision(network, theirs.state_dict())
    assert list(back) == list(ours.state_dict())
    assert all(torch.equal(back[key], tensor) for key, tensor in ours.state_dict().items())


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_keys_and_shapes(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(TORCHVISION[name], num_classes=7).state_dict()
    ours = to_torchvision(parse(name), skeleton(parse(name), 7).state_dict())
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: tensor.shape for key, tensor in theirs.items()}


def from_the_paper(p: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    """WRN with B(3,3) written out with functions from Section 2, on the authors' dict: evaluation mode."""

    def bn_relu(y: Tensor, at: str) -> Tensor:
        stats = p[f"{at}.running_mean"], p[f"{at}.running_var"]
        return F.batch_norm(y, *stats, p[f"{at}.weight"], p[f"{at}.bias"]).clamp(min=0)

    x = F.conv2d(x, p["conv0"], padding=1)
    for group in range(3):
        for block in range(blocks):
            at, stride = f"group{group}.block{block}", 1 + (group > 0 and block == 0)
            active = bn_relu(x, f"{at}.bn0")
            inner = bn_relu(F.conv2d(active, p[f"{at}.conv0"], stride=stride, padding=1), f"{at}.bn1")
            shortcut = F.conv2d(active, p[f"{at}.convdim"], stride=stride) if f"{at}.convdim" in p else x
            x = F.conv2d(inner, p[f"{at}.conv1"], padding=1) + shortcut
    return F.linear(bn_relu(x, "bn").mean(dim=(2, 3)), p["fc.weight"], p["fc.bias"])


@pytest.mark.parametrize("name", ["WRN-16-1", "WRN-22-2", "WRN-16-4-dropout"])
def test_equal_weights_in_the_authors_layout_give_the_papers_function(name: str) -> None:
    network = parse(name)
    model = trained(name.removesuffix("-dropout"), 10)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    params = to_authors(network, model.state_dict())
    with torch.no_grad():
        expected = from_the_paper(params, images, network.blocks_per_group[0])
        assert expected.std() > 0.01
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    assert ("group0.block0.convdim" in params) == (name != "WRN-16-1")


# Keys as pytorch/resnet.py and pytorch/utils.py of the release name them.
AUTHORS_KEYS = {
    "conv0", "group0.block0.conv0", "group0.block0.bn0.running_mean", "group0.block1.conv1", "group1.block0.convdim",
    "group2.block1.bn1.weight", "group2.block1.bn1.running_var", "bn.bias", "bn.running_var", "fc.weight", "fc.bias",
}  # fmt: skip


@pytest.mark.parametrize("name", ["WRN-16-1", "WRN-28-2"])
def test_authors_layout_round_trip(name: str) -> None:
    network, state = parse(name), trained(name, 100).state_dict()
    theirs = to_authors(network, state)
    assert set(theirs) >= AUTHORS_KEYS
    form = r"conv0|fc\.(weight|bias)|(bn|group[012]\.block\d\.bn[01])\.(weight|bias|running_(mean|var))"
    form += r"|group[012]\.block\d\.(conv[01]|convdim)"
    assert all(re.fullmatch(form, key) for key in theirs)
    stats = {key: tensor for key, tensor in theirs.items() if "running" in key}
    params = {key: tensor for key, tensor in theirs.items() if "running" not in key}
    for checkpoint in (theirs, {"params": theirs, "epoch": 200}, {"params": params, "stats": stats, "epoch": 200}):
        back = from_authors(network, checkpoint)
        assert list(back) == list(state)
        assert all(torch.equal(back[key], state[key]) for key in state)
    fresh = build(name, 100, conv_init="fan_in", bn_init="uniform", seed=9)
    fresh.load_state_dict(back, strict=True)


def test_missing_unexpected_and_misshapen_keys_are_named() -> None:
    network, state = parse("WRN-16-2"), trained("WRN-16-2", 10).state_dict()
    theirs = to_authors(network, state)
    del theirs["group1.block0.convdim"]
    with pytest.raises(UserError, match=r"the authors' layout: group1\.block0\.convdim missing"):
        from_authors(network, theirs)
    with pytest.raises(UserError, match=r"group3\.block0\.conv0 unexpected"):
        from_authors(network, to_authors(network, state) | {"group3.block0.conv0": torch.zeros(1)})
    with pytest.raises(UserError, match=r"and \d+ more missing"):
        from_authors(parse("WRN-22-2"), to_authors(network, state))
    with pytest.raises(
        UserError, match=r"group1.block1.conv1.weight has shape \(32, 16, 3, 3\), expected \(64, 16, 3, 3\)"
    ):
        to_authors(parse("WRN-16-4"), state)
    with pytest.raises(UserError, match=r"conv1\.weight has shape"):
        from_torchvision(parse("ResNet-50"), _resnet50_of_width(parse("WRN-50-2-bottleneck").name))


def _resnet50_of_width(name: str) -> dict[str, Tensor]:
    return to_torchvision(parse(name), skeleton(parse(name), 1000).state_dict())


@pytest.mark.parametrize("name", ["WRN-40-2-B(3,1)", "pre-act-ResNet-164", "ResNet-50"])
def test_networks_without_an_authors_layout(name: str) -> None:
    for function in (to_authors, from_authors):
        with pytest.raises(UserError, match="has no layout in the authors' PyTorch release"):
            function(parse(name), {})


@pytest.mark.parametrize("name", ["WRN-40-2", "pre-act-ResNet-164", "pre-ResNet-200"])
def test_networks_without_a_torchvision_layout(name: str) -> None:
    for function in (to_torchvision, from_torchvision):
        with pytest.raises(UserError, match="has no torchvision layout"):
            function(parse(name), {})
