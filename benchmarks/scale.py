"""How soon a training process has its first batch, of as many images as ImageNet has or of --data, and in what memory.

The former are small JPEGs, written into scratch/ (0.6 GB) and deleted afterwards. What grows with their number is
measured as it is: tables, order, boxes; the check of the file's digest, which grows with their bytes, on few.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np

IMAGENET, CLASSES, BATCH, BATCHES = 1_281_167, 1000, 256, 8
"""After 8 batches FFCV has filled its ring."""


def write(folder: Path, samples: int) -> None:
    """Write `folder`/train.beton and its card.json: 251 JPEGs of 24 to 48 pixels a side again and again."""
    from PIL import Image

    from pipeline.data import beton
    from pipeline.data.conversion import describe_jpegs

    random = np.random.default_rng(0)
    sides, jpegs = random.integers(24, 49, (251, 2)), []
    for width, height in sides:
        down, across = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
        pixels = 128 + down * random.uniform(-60, 60, 3) + across * random.uniform(-60, 60, 3)
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=75, optimize=True)
        jpegs.append(buffer.getvalue())
    folder.mkdir()
    path, which = folder / "train.beton", np.arange(samples) % len(jpegs)
    beton.write(path, "jpeg", sides[which], np.arange(samples) % CLASSES, islice(cycle(jpegs), samples))
    pinned = {"bytes": path.stat().st_size, "sha256": beton.sha256(path)}
    entry = {**describe_jpegs(beton.inspect(path), CLASSES), "beton": pinned}
    (folder / "card.json").write_text(json.dumps({"name": folder.name, "kind": "jpeg", "splits": {"train": entry}}))


def start(folder: Path, backend: str, started: float) -> None:
    """In a process of its own: print seconds since the monotonic clock said `started`, and megabytes of memory."""
    import torch

    from pipeline.data.batches import Inputs
    from pipeline.data.loader import Loader
    from pipeline.data.preprocessing import Preprocessing
    from pipeline.data.sampler import sample_order
    from pipeline.params import Crop

    measured = {"imports, s": time.monotonic() - started}
    loader = Loader(folder, "train", BATCH, "ffcv" if backend == "ffcv" else "numpy")
    measured["digest checked and open, s"] = time.monotonic() - started
    order = sample_order(1, 0, loader.samples)
    meanstd, cpu = Preprocessing("meanstd"), torch.device("cpu")
    crop: Crop = "random-resized" if loader.beton.kind == "jpeg" else "per-image"
    batches = Inputs(loader, meanstd, "per-image", crop, 1, torch.float32, cpu).batches(0, order)
    for number, _ in enumerate(batches):
        if number == 0:
            measured["first batch, s"] = time.monotonic() - started
        if number == BATCHES - 1:
            break
    status = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    mb = {words[0].rstrip(":"): 1024 * int(words[1]) / 1e6 for words in status if words[-1] == "kB"}
    print(json.dumps({**measured, "own memory, MB": mb["RssAnon"], "peak with shared files, MB": mb["VmHWM"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=IMAGENET)
    parser.add_argument("--data", type=Path, help="a folder of data/beton, instead of JPEGs that are written first")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--start", nargs=3, metavar=("FOLDER", "BACKEND", "STARTED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        start(Path(options.start[0]), options.start[1], float(options.start[2]))
        return
    from pipeline.benchmarks.measuring import spread

    measured: dict[str, dict[str, list[float]]] = {}
    Path("scratch").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-scale-", dir="scratch") as scratch:
        folder = options.data or Path(scratch) / "jpegs"
        if not options.data:
            write(folder, options.samples)
        for _ in range(options.repeats):
            for backend in ("ffcv", "numpy"):
                command = [sys.executable, __file__, "--start", str(folder), backend, str(time.monotonic())]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                for name, value in json.loads(done.stdout).items():
                    measured.setdefault(name, {}).setdefault(backend, []).append(value)
    print(
        f"| {options.data or f'{options.samples:,} JPEGs'}, one process | over FFCV | over numpy |\n| --- | --- | --- |"
    )
    for name, values in measured.items():
        print(f"| {name} | {spread(values['ffcv'])} | {spread(values['numpy'])} |")


if __name__ == "__main__":
    main()
