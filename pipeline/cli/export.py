"""wrn-pipe export: a run's weights for other people's code."""

from typing import Annotated

import typer
from typer import Option

from pipeline.cli.options import Run, To
from pipeline.cli.output import refuse_kept
from pipeline.errors import UserError
from pipeline.models.weights import Layout


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
    from pipeline.models.weights import in_layout
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
