"""Record many finished stages in dvc.lock at once: `python -m pipeline.runner.record_stages < names`.

DVC's own commands write dvc.lock anew after every stage: 2 s a stage with 80 runs, so the time of all grows with the
square of their number. This does what `dvc commit --force` does for each stage, in the order in which `dvc repro` runs
them, and writes once: the same bytes that running them gives (tests/runner/test_dvc_patches.py).
"""

import sys
from collections.abc import Iterable

from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import plan_repro

from pipeline.runner.dvc_patches import hasten


def record(names: Iterable[str]) -> None:
    """Take the outputs of these stages, as they lie here, for what their command makes of the present inputs.

    Waits for DVC's lock. Raises dvc.exceptions.DvcException for an output that is not there, and KeyError for a name
    that is no stage; nothing is recorded then.
    """
    hasten()
    wanted = set(names)
    with Repo(_wait_for_lock=True) as repo, lock_repo(repo), repo.scm_context:
        stages = [stage for stage in plan_repro(repo.index.graph) if stage.addressing in wanted]
        if unknown := wanted - {stage.addressing for stage in stages}:
            raise KeyError(", ".join(sorted(unknown)))
        for stage in stages:
            stage.save()
        for stage in stages:
            stage.commit()
        if stages:
            stages[0].dvcfile.dump_stages(stages, update_pipeline=False)


if __name__ == "__main__":
    record(sys.stdin.read().split())
