"""wrn-pipe bundle: all that stands behind the tables, in one file for somebody else."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from pipeline.cli.options import Json, Runs
from pipeline.cli.output import print_json, refuse_kept
from pipeline.cli.verify import run_stage
from pipeline.errors import UserError
from pipeline.publication.wide_resnet import PAPER


def bundle(
    to: Annotated[Path, Option(metavar="FILE", help="The archive to write.")] = Path("wrn-pipe.zip"),
    run: Runs = None,
    json: Json = False,
) -> None:
    """Write tables, predictions, weights, settings, code, lock files, manifest and licence notes into one archive.

    It is a ZIP, described by an ro-crate-metadata.json (RO-Crate 1.2); the same files and commit give the same bytes.
    The images are left out; their digests are in it. With --run so are the weights and predictions of all other runs;
    wrn-pipe compare --bundle takes the chosen ones. What wrn-pipe verify finds wrong is not bundled: exit code 1.
    """
    from pipeline.data.beton import sha256
    from pipeline.evidence.bundling import bundle, is_bundle
    from pipeline.runner.params_file import load

    plan = load()
    for run_id in run or ():
        plan.run(run_id)
    refuse_kept(to, "--to")
    if to.exists() and not is_bundle(to):
        raise UserError(f"--to {to} is not an archive of this command", "write it under another name: --to FILE")
    files, made_at = bundle(PAPER, plan, to, run_stage, run or ())
    size, digest = to.stat().st_size, sha256(to)
    if json:
        told = {"archive": str(to), "files": files, "bytes": size, "sha256": digest}
        print_json({**told, "commit": made_at.commit, "dirty": made_at.dirty})
        return
    typer.echo(
        f"{to}: {files} files, {size / 1e6:.1f} MB, sha256 {digest}\nMade at {made_at}.\n"
        f"Whoever has wrn-pipe checks it anywhere, offline: wrn-pipe verify --bundle {to.name}"
    )
