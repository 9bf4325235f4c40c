"""wrn-pipe export: a run's weights for other people's code."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from pipeline.cli.options import Run, To
from pipeline.cli.output import refuse_kept
from pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.names import Network

Layout = Literal["torchvision", "authors", "timm"]
"""torchvision, timm: the same names, of resnet18 ... wide_resnet50_2. authors: szagoruyko/wide-residual-networks,
pytorch/resnet.py, where parameters and running statistics share one dict: `group0.block0.conv0`, `fc.weight`."""


def export(
    run: Run,
    layout: Annotated[Layout, Option(help="Whose names: torchvision's, the authors' PyTorch release's, or timm's.")],
    to: To,
) -> None:
    """Write the weights of a trained run, as safetensors, under the names that another library gives them.

    torchvision and timm have ImageNet's post-activation ResNets and WRN-50-2-bottleneck, the authors' release has
    WRN-d-k with B(3,3). safetensors.torch.load_file(FILE) is the state dict; the file's metadata say which run it is,
    and how its images were preprocessed, in the words of params.yaml.
    """
    from safetensors.torch import load_file, save

    from pipeline.artifacts import MODELS, RECORD, WEIGHTS, read_record
    from pipeline.atomic_write import new_file
    from pipeline.models.names import parse
    from pipeline.runner.params_file import load

    load().run(run)
    folder, again = MODELS / run, f"wrn-pipe repro train@{run}, or dvc pull if a remote is set up"
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder / WEIGHTS} not found", again)
    refuse_kept(to, "--to")
    told = read_record(folder / RECORD, again, "network", "protocol")  # whatever params.yaml says by now
    tensors = in_layout(parse(told["network"]), load_file(folder / WEIGHTS), layout)
    about = {"run": run, "network": told["network"], "preprocessing": told["protocol"]["preprocessing"]}
    new_file(to, save(tensors, about | {"layout": layout}))
    typer.echo(f"{to}: {len(tensors)} tensors of {told['network']} under the names of {layout}")


def in_layout(network: "Network", state: "Mapping[str, Tensor]", layout: Layout) -> "dict[str, Tensor]":
    """A state dict of `network` in another layout. Raises UserError where that does not have such a network."""
    if layout == "authors":
        if network.family != "wrn" or network.kernels != (3, 3):
            raise UserError(
                f"{network.name} has no layout in the authors' PyTorch release",
                "theirs is for WRN-d-k with B(3,3), such as WRN-28-10",
            )
        # It has no batch counts: torch reads them for momentum None only.
        return {_authors_key(k): tensor for k, tensor in state.items() if not k.endswith(".num_batches_tracked")}
    if network.family not in ("imagenet-basic", "imagenet-bottleneck"):
        raise UserError(
            f"{network.name} has no {layout} layout",
            f"{layout}'s is for ImageNet's ResNet-50, WRN-50-2-bottleneck, WRN-18-1.0 and their like",
        )
    return {_torchvision_key(k): tensor for k, tensor in state.items()}


def _torchvision_key(key: str) -> str:
    key = re.sub(r"^group(\d+)\.block(\d+)\.", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.", key)
    return key.replace(".shortcut_conv.", ".downsample.0.").replace(".shortcut_bn.", ".downsample.1.")


def _authors_key(key: str) -> str:
    """Theirs count from 0, and a convolution is its weight."""
    if not re.match(r"group|conv1", key):
        return key
    key = re.sub(r"(group|block|conv|bn)(\d+)", lambda m: f"{m[1]}{int(m[2]) - 1}", key).replace("shortcut", "convdim")
    return re.sub(r"((?:^|\.)conv\w+)\.weight$", r"\1", key)
