"""Archives and packages as published, made of real images."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import photos
from PIL import Image

from pipeline.data import readers
from pipeline.data.readers import Splits

BATCHES = "cifar-10-batches-py"


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(photos.tar(members, "w:gz"))
    return path


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        files = [member for member in tar if member.isreg()]
        return {member.name: tar.extractfile(member).read() for member in files}  # type: ignore[union-attr]


def npm_members(splits: Splits) -> dict[str, bytes]:
    members = {}
    for split, parts in readers.LAYOUTS["cifar-python"].parts.items():
        images, labels = splits[split]
        for part, rows in zip(parts, np.split(images, len(parts)), strict=True):
            buffer = io.BytesIO()
            Image.fromarray(rows.reshape(len(rows), 1024, 3)).save(buffer, "PNG")
            members[f"package/{part}.png"] = buffer.getvalue()
        members[f"package/{split}_lables.json"] = json.dumps(labels.tolist()).encode()
    return members
