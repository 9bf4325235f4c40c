"""The dataset of most tests: 260 training and 104 test images of CIFAR-10, the first of each class in each batch."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.data.digest import record_digests, split_digest
from pipeline.data.readers import CIFAR10, Splits, read_archive
from pipeline.dataset_config import SPLITS, Dataset

ARCHIVE = Path(__file__).parent / "data" / "cifar-10-tiny.tar.gz"
"""In the published layout."""
IN_ITS_FOLDER = {"WRN_PIPE_DATA_DIR": str(ARCHIVE.parent)}
"""What tells the download stage of a plan whose sources are a folder's where it lies."""


@cache
def images() -> Splits:
    """{split: (images uint8 [N, 32, 32, 3], labels int64 [N])}; read-only arrays."""
    described = Dataset.model_validate({**_described("http://127.0.0.1/x"), "digests": None, "record_digests": None})
    splits = read_archive(ARCHIVE, described)
    for pixels, labels in splits.values():
        pixels.flags.writeable = labels.flags.writeable = False
    return splits


def entry(url: str = f"http://127.0.0.1:9/{ARCHIVE.name}") -> dict[str, Any]:
    """The entry of params.yaml (`datasets: {cifar10-tiny: ...}`) whose one source is `url`, which leads nowhere."""
    digests = {split: split_digest(*images()[split]) for split in SPLITS}
    records = {split: record_digests(*images()[split], len(CIFAR10[split])) for split in SPLITS}
    return {**_described(url), "digests": digests, "record_digests": records}


def _described(url: str) -> dict[str, Any]:
    content = ARCHIVE.read_bytes()
    return {
        "title": "364 images of CIFAR-10",
        "reader": "cifar-python",
        "classes": 10,
        "shape": [32, 32, 3],
        "splits": {"train": 260, "test": 104},
        "sources": [{"archive": url, "md5": hashlib.md5(content).hexdigest(), "bytes": len(content)}],
        "homepage": "https://www.cs.toronto.edu/~kriz/cifar.html",
        "licence": "none stated",
        "citation": "Alex Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009",
    }
