"""Weights under the names of torchvision and of the authors' PyTorch release, and the command that writes them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from paper_networks import TORCHVISION
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.cli import main as command_line
from pipeline.cli.export import Layout, in_layout
from pipeline.errors import UserError
from pipeline.models.names import parse
from pipeline.models.resnet import build, skeleton

ROOT = Path(__file__).resolve().parents[2]
RUN = "cifar10-wrn-40-1-quick-s1"


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


@pytest.mark.parametrize("name", ["ResNet-50", "ResNet-18"])
def test_equal_weights_give_torchvisions_outputs(name: str) -> None:
    ours, network = trained(name, 1000), parse(name)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(TORCHVISION[name])
    theirs.load_state_dict(in_layout(network, ours.state_dict(), "torchvision"), strict=True, assign=True)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.eval()(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_keys_and_shapes_which_are_timms_as_well(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(TORCHVISION[name], num_classes=7).state_dict()
    ours, timms = (in_layout(parse(name), skeleton(parse(name), 7).state_dict(), it) for it in ("torchvision", "timm"))
    assert timms.keys() == ours.keys()
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


@pytest.mark.parametrize("name", ["WRN-16-1", "WRN-22-2"])
def test_equal_weights_in_the_authors_layout_give_the_papers_function(name: str) -> None:
    network = parse(name)
    model = trained(name, 10)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    params = in_layout(network, model.state_dict(), "authors")
    with torch.no_grad():
        expected = from_the_paper(params, images, network.blocks_per_group[0])
        assert expected.std() > 0.01
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    assert ("group0.block0.convdim" in params) == (name != "WRN-16-1")


@pytest.mark.parametrize(
    ("name", "layout", "what"),
    [
        ("WRN-40-2-B(3,1)", "authors", "has no layout in the authors' PyTorch release"),
        ("WRN-40-2", "torchvision", "has no torchvision layout"),
    ],
)
def test_networks_that_a_layout_does_not_have(name: str, layout: Layout, what: str) -> None:
    with pytest.raises(UserError, match=what):
        in_layout(parse(name), {}, layout)


def test_the_command_writes_a_run_s_weights_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the network is, is told by the run's record and not by what params.yaml says of the run now."""

    def export(layout: str, to: str = "out.safetensors") -> tuple[object, list[str]]:
        monkeypatch.setattr("sys.argv", ["wrn-pipe", "export", RUN, "--layout", layout, "--to", to])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        return ended.value.code, capsys.readouterr().err.splitlines()

    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    code, said = export("authors")
    assert (code, said[1]) == (2, f"  fix: wrn-pipe repro train@{RUN}, or dvc pull if a remote is set up")
    folder = tmp_path / "models" / RUN
    folder.mkdir(parents=True)
    state = trained("WRN-16-1", 10).state_dict()
    save_file(state, folder / "model.safetensors")
    record = {"network": "WRN-16-1", "protocol": {"preprocessing": "meanstd"}}
    (folder / "run.json").write_text(json.dumps(record))
    assert export("timm")[0] == 2
    assert export("authors", "no/out.safetensors")[0] == 2
    assert not Path("out.safetensors").exists()
    assert export("authors") == (0, [])
    assert torch.equal(load_file("out.safetensors")["group0.block0.conv0"], state["group1.block1.conv1.weight"])
    with safe_open("out.safetensors", "pt") as file:
        assert file.metadata() == {"run": RUN, "network": "WRN-16-1", "preprocessing": "meanstd", "layout": "authors"}
