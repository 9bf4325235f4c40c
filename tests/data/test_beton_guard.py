"""The guard in front of FFCV: thousands of damaged .beton files and cards, none of which may get through."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import beton
from pipeline.data.convert_arrays import convert
from pipeline.data.readers import Splits
from pipeline.dataset_config import SPLITS

ROOT = Path(__file__).parents[2]

# In a child process, since what is tested for is also that it does not crash or hang.
# `guarded`: open_split and then the numpy reader, as the loader does. In half of the cases on damaged files the card is
# made to agree with the damage, so that not its sha256 but the checks of header and tables are what stands in the way.
FUZZ = """
import hashlib, json, sys
from collections import Counter
from pathlib import Path
import numpy as np
from pipeline.data.digest import split_digest
from pipeline.errors import UserError
from pipeline.data import beton

folder, cases, random = Path(sys.argv[1]), int(sys.argv[2]), np.random.default_rng(int(sys.argv[3]))
file, card = folder / "test.beton", folder / "card.json"
good, good_card = file.read_bytes(), card.read_text()
truth = split_digest(*beton.read(file))
image_bytes = beton.inspect(file).image_bytes
entry = json.loads(good_card)["splits"]["test"]
n = entry["images"]
table = beton._HEADER.itemsize + 2 * beton._FIELD.itemsize
table_end = table + (beton._RGB_SAMPLE if entry.get("dtype") is None else beton._ARRAY_SAMPLE).itemsize * n
allocations = int.from_bytes(good[16:24], "little")

def guarded():
    split = beton.open_split(folder, "test")
    images, labels = beton.read(split.path)
    assert len(images) == split.samples and images.nbytes <= len(good) + 4096
    return split_digest(images, labels)

def damage(kind):
    bad = bytearray(good)
    if kind == "truncate":
        del bad[random.integers(len(bad)):]
    elif kind == "extend":
        bad += random.bytes(int(random.integers(1, 5000)))
    elif kind == "bytes":
        for at in random.integers(0, len(bad), random.integers(1, 9)):
            bad[at] ^= random.integers(1, 256)
    elif kind == "cut":
        at = random.integers(len(bad))
        del bad[at : at + random.integers(1, 5000)]
    else:
        low, high = {"header": (0, 24), "fields": (24, table), "table": (table, table_end),
                     "allocations": (allocations, len(good))}[kind]
        width = int(random.choice([1, 2, 4, 8]))
        at = int(random.integers(low, max(low + 1, high - width)))
        extreme = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - image_bytes, len(good), int(random.integers(2**62))]
        bad[at : at + width] = extreme[random.integers(len(extreme))].to_bytes(8, "little")[:width]
    return bytes(bad)

def edit(value):
    "Change, drop or add something at a random place of the card."
    if isinstance(value, (dict, list)) and value and random.random() < 0.8:
        key = list(value)[random.integers(len(value))] if isinstance(value, dict) else int(random.integers(len(value)))
        if random.random() < 0.15:
            del value[key]
        else:
            value[key] = edit(value[key])
        return value
    other = [None, 0, -1, 1.5, 10**30, "", "float32", "0" * 64, [], {}, True, [1], {"a": 1}]
    return other[random.integers(len(other))]

kinds = ["bytes", "truncate", "extend", "cut", "header", "fields", "table", "allocations", "card", "card text"]
tally = Counter()
for case in range(cases):
    kind = kinds[case % 10]
    bad, text = good, good_card
    agreed = False
    if kind == "card":
        text = json.dumps(edit(json.loads(good_card)))
    elif kind == "card text":
        raw = bytearray(good_card.encode())
        for at in random.integers(0, len(raw), random.integers(1, 4)):
            raw[at] = random.integers(256)
        text = None
    else:
        while bad == good:
            bad = damage(kind)
        agreed = bool(case // 10 % 2)
        if agreed:
            changed = json.loads(good_card)
            changed["splits"]["test"]["beton"] = {"bytes": len(bad), "sha256": hashlib.sha256(bad).hexdigest()}
            text = json.dumps(changed)
    file.write_bytes(bad)
    card.write_bytes(bytes(raw) if text is None else text.encode())
    name = f"{kind}{' agreed' if agreed else ''}"
    try:
        found = guarded()
    except UserError as error:
        assert str(error).count("\\n") == 1, error
        tally[f"{name}: refused"] += 1
        continue
    if agreed:
        # Someone wrote this damage's own checksum into the card: readable to the end, but nobody can call it wrong.
        tally[f"{name}: read"] += 1
    else:
        assert found == truth, f"case {case}, {name}: other content got through"
        assert bad == good, f"case {case}, {name}: another file got through"  # so only the card was touched
        tally[f"{name}: same"] += 1
print(json.dumps(tally))
"""


def pack(folder: Path) -> None:
    """Rewrite test.beton without the gaps that FFCV's pages of 8 MB leave, so that thousands of copies take seconds."""
    path, card_path = folder / "test.beton", folder / "card.json"
    layout, content = beton.inspect(path), path.read_bytes()
    table = beton._HEADER.itemsize + 2 * beton._FIELD.itemsize
    record = beton._RGB_SAMPLE if layout.dtype == np.uint8 else beton._ARRAY_SAMPLE
    n, length = len(layout.labels), layout.image_bytes
    start = table + n * record.itemsize
    pointers = (start + np.arange(n) * length).astype(np.uint64)
    head = np.frombuffer(content[:table], np.uint8).copy()
    head[: beton._HEADER.itemsize].view(beton._HEADER)["alloc_table_ptr"] = start + n * length
    samples = np.frombuffer(content[table:start], record).copy()
    if layout.dtype == np.uint8:
        samples["image"]["data_ptr"] = pointers
    else:
        samples["image"] = pointers
    allocations = np.zeros(n, beton._ALLOCATION)
    allocations["sample_id"], allocations["ptr"], allocations["size"] = np.arange(n), pointers, length
    images, labels = beton.read(path)
    path.write_bytes(head.tobytes() + samples.tobytes() + images.tobytes() + allocations.tobytes())
    again = beton.read(path)
    assert np.array_equal(again[0], images)
    assert np.array_equal(again[1], labels)
    card = json.loads(card_path.read_text())
    card["splits"]["test"]["beton"] = {"bytes": path.stat().st_size, "sha256": beton.sha256(path)}
    card_path.write_text(json.dumps(card))


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["rgb", "zca"])
def test_no_damage_gets_through_or_brings_the_guard_down(kind: str, tiny_images: Splits, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for split, (images, labels) in tiny_images.items():
        np.save(raw / f"{split}_images.npy", images[:, 12:18, 12:20])
        np.save(raw / f"{split}_labels.npy", labels)
    folder = tmp_path / f"tiny-{kind}"
    convert(raw, folder, list(SPLITS), 10, kind)
    pack(folder)
    # FFCV is not there for this process: had the guard needed it, it would not start.
    (tmp_path / "ffcv.py").write_text("raise SystemExit('FFCV was reached')")
    arguments = [sys.executable, "-c", FUZZ, str(folder), "1500", "7"]
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=600, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tally = json.loads(done.stdout)
    assert sum(tally.values()) == 1500
    damaged = {"bytes", "truncate", "extend", "cut", "header", "fields", "table", "allocations"}
    for what in damaged:
        assert tally[f"{what}: refused"] == 75, tally
        assert tally.get(f"{what} agreed: refused", 0) + tally.get(f"{what} agreed: read", 0) == 75, tally
    # What ends elsewhere, and every changed pointer or length, is seen in the file itself.
    for what in ("truncate", "extend", "cut"):
        assert f"{what} agreed: read" not in tally, tally
    assert tally["allocations agreed: refused"] >= 60, tally
    assert tally["card: refused"] >= 20, tally
    assert tally["card text: refused"] >= 20, tally
