"""What `wrn-pipe bench scale` measures: `python -m pipeline.benchmarks.first_batches FOLDER BACKEND STARTED`.

A training process up to its first batches, on the CPU. Imports are measured too, so this module does few by itself.
"""

import json
import sys
import time
from pathlib import Path

STATUS = Path("/proc/self/status")
BATCH = 256
BATCHES = 8
"""Delivered before the memory is read: FFCV has filled its ring by then."""


def memory() -> dict[str, float]:
    """MB of this process as Linux tells it: own, mapped, peak. See scale.Start."""
    lines = (line.split() for line in STATUS.read_text().splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1] == "kB"}
    mb = {name: 1024 * amount / 1e6 for name, amount in kib.items()}
    return {"own": mb["RssAnon"], "mapped": mb["RssFile"] + mb["RssShmem"], "peak": mb["VmHWM"]}


def main(folder: Path, backend: str, started: float) -> None:
    """Print one line of JSON: seconds of each part since the monotonic clock said `started`, and megabytes."""
    seconds: dict[str, float] = {}

    def lap(part: str) -> None:
        seconds[part] = time.monotonic() - started - sum(seconds.values())

    import torch

    from pipeline.data.batches import Inputs
    from pipeline.data.loader import Loader, checked
    from pipeline.data.preprocessing import Preprocessing
    from pipeline.data.sampler import sample_order

    lap("import")
    imports = memory()["own"]
    beton = checked(folder, "train")
    lap("check")
    loader = Loader(folder, "train", BATCH, "ffcv" if backend == "ffcv" else "numpy", beton=beton)
    lap("open")
    order = sample_order(1, 0, loader.samples)
    lap("order")
    meanstd, cpu = Preprocessing("meanstd"), torch.device("cpu")
    batches = Inputs(loader, meanstd, "per-image", "random-resized", 1, torch.float32, cpu).batches(0, order)
    delivered = 0
    for number, batch in enumerate(batches):
        delivered += len(batch.labels)
        if number == 0:
            lap("first batch")
        if number == BATCHES - 1:
            break
    told = {"imports": imports, **memory()}
    assert delivered == min(BATCH * BATCHES, len(order)), f"{delivered} images delivered"
    print(json.dumps({"seconds": {**seconds, "in all": sum(seconds.values())}, "megabytes": told}))


if __name__ == "__main__":
    from pipeline.errors import exit_on_error

    with exit_on_error():
        main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
