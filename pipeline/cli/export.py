"""wrn-pipe export: a run's weights for other people's code."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import completion
from pipeline.models.weights import Layout

EPILOG = "Example: wrn-pipe export cifar10-wrn-40-1-quick-s1 --layout authors --to wrn-40-1.safetensors"


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id.", autocompletion=completion.runs)],
    layout: Annotated[
        Layout, typer.Option(help="Whose names: torchvision's, the authors' PyTorch release's, or timm's.")
    ],
    to: Annotated[Path, typer.Option(metavar="FILE", help="The safetensors file to write.")],
) -> None:
    """Write the weights of a trained run under the names that another library gives them.

    torchvision and timm have ImageNet's post-activation ResNets and WRN-50-2-bottleneck, the authors' release has
    WRN-d-k with B(3,3). safetensors.torch.load_file(FILE) is the state dict; the file's metadata say which run it is,
    and how its images were preprocessed, in the words of params.yaml.
    """
    from pipeline.artifacts import read_record
    from pipeline.cli.outputs import refuse_kept
    from pipeline.errors import UserError
    from pipeline.runner.params_file import load

    load().run(run)
    again = f"wrn-pipe repro train@{run}, or dvc pull if a remote is set up"
    weights = Path("models") / run / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"{weights} not found", again)
    told = read_record(weights.with_name("run.json"), again, "network", "protocol")  # whatever params.yaml says by now
    if not to.parent.is_dir():
        raise UserError(f"--to {to}: no folder {to.parent}", "name a file in a folder that exists")
    refuse_kept(to, "--to")
    from safetensors.torch import load_file, save

    from pipeline.atomic_write import new_file
    from pipeline.models.names import parse
    from pipeline.models.weights import in_layout

    tensors = in_layout(parse(told["network"]), load_file(weights), layout)
    about = {"run": run, "network": told["network"], "preprocessing": told["protocol"]["preprocessing"]}
    new_file(to, save(tensors, about | {"layout": layout}))
    typer.echo(f"{to}: {len(tensors)} tensors of {told['network']} under the names of {layout}")
