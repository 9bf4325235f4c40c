"""dvc.lock, written by DVC for plans of hundreds of runs.

DVC 3.67 parses all of dvc.lock and writes all of it anew after every stage, in pure Python: 40 s with 400 runs. Here
the text of the stages that are written is replaced, and the text of all others stays. What is in the file then is the
same, byte for byte: tests/runner/test_dvc_patches.py. Where the text is not plainly what DVC writes, DVC writes it.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dvc.dvcfile import Lockfile
from dvc.stage import PipelineStage
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml

from pipeline.publish import new_file

_slow = Lockfile.dump_stages
_TOP = "schema: '2.0'\nstages:\n"
_STAGE = re.compile(r"^  [\w@.-]+:\n", re.MULTILINE)
_NOT_PLAIN = re.compile(r"^\S|#|[&*]id[0-9]|\t|^ {2}[^ ](?![\w@.-]*:$)", re.MULTILINE)
"""Another key of the file, a comment, a value that is named to be repeated, or what may be the middle of a string."""


def dump_stages(file: Lockfile, stages: Iterable[PipelineStage], **options: Any) -> None:
    """In place of Lockfile.dump_stages."""
    stages = list(stages)
    path = Path(file.path)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    written = {stage.name: entry(to_lockfile(stage, **options)) for stage in stages}
    after = spliced(before, written)
    if after is None:
        _slow(file, stages, **options)
    elif after != before:
        new_file(path, after.encode())
        file.repo.scm_context.track_file(file.relpath)


def entry(stage: dict[str, Any]) -> str:
    """The lines that DVC writes for one stage, name -> what is recorded of it."""
    text: str = dumps_yaml({"stages": stage})
    return text.removeprefix("stages:\n")


def spliced(text: str, stages: dict[str, str]) -> str | None:
    """`text`, a dvc.lock, with `stages`, name -> the lines of its entry; None where that is not plainly possible."""
    if not text.startswith(_TOP) or not text.endswith("\n"):
        return None
    body = text[len(_TOP) :]
    if any(_NOT_PLAIN.search(part) for part in (body, *stages.values())):
        return None
    starts = [match.start() for match in _STAGE.finditer(body)]
    entries = {
        body[start : body.index(":", start)].strip(): body[start:end]
        for start, end in zip(starts, [*starts[1:], len(body)], strict=True)
    }
    if starts[:1] != [0] or len(entries) != len(starts):
        return None
    return _TOP + "".join((entries | stages).values())
