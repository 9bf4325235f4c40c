"""The guard in front of FFCV for files of JPEGs: thousands of damaged files, none of which may get through."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import photos
import pytest

from pipeline.data import beton
from pipeline.data.beton_jpeg import holds_jpegs, inspect_jpegs, open_jpegs
from pipeline.errors import UserError

ROOT = Path(__file__).parents[2]
TABLE = beton._HEADER.itemsize + 2 * beton._FIELD.itemsize
RECORD = beton._RGB_SAMPLE.itemsize
N = 6

# In a child process, since what is tested for is also that it does not crash or hang. In half of the cases the card is
# made to agree with the damage, so that not its sha256 but the checks of header and tables stand in the way.
FUZZ = """
import hashlib, json, sys
from collections import Counter
from pathlib import Path
import numpy as np
from pipeline.errors import UserError
from pipeline.data.beton_jpeg import holds_jpegs, open_jpegs

folder, cases, random = Path(sys.argv[1]), int(sys.argv[2]), np.random.default_rng(int(sys.argv[3]))
table, table_end = int(sys.argv[4]), int(sys.argv[5])
file, card = folder / "test.beton", folder / "card.json"
good, good_card = file.read_bytes(), card.read_text()
entry = json.loads(good_card)["splits"]["test"]
allocations = int.from_bytes(good[16:24], "little")

def damage(kind):
    bad = bytearray(good)
    if kind == "truncate":
        del bad[random.integers(len(bad)):]
    elif kind == "extend":
        bad += random.bytes(int(random.integers(1, 5000)))
    elif kind == "bytes":
        for at in random.integers(0, len(bad), random.integers(1, 9)):
            bad[at] ^= random.integers(1, 256)
    else:
        low, high = {"header": (0, 24), "fields": (24, table), "table": (table, table_end),
                     "allocations": (allocations, len(good))}[kind]
        width = int(random.choice([1, 2, 4, 8]))
        at = int(random.integers(low, max(low + 1, high - width)))
        extreme = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, len(good), int(random.integers(2**62))]
        bad[at : at + width] = extreme[random.integers(len(extreme))].to_bytes(8, "little")[:width]
    return bytes(bad)

kinds = ["bytes", "truncate", "extend", "header", "fields", "table", "allocations"]
tally = Counter()
for case in range(cases):
    kind, agreed = kinds[case % 7], bool(case // 7 % 2)
    bad = good
    while bad == good:
        bad = damage(kind)
    changed = json.loads(good_card)
    if agreed:
        changed["splits"]["test"]["beton"]["sha256"] = hashlib.sha256(bad).hexdigest()
    file.write_bytes(bad)
    card.write_text(json.dumps(changed))
    name = f"{kind}{' agreed' if agreed else ''}"
    try:
        assert holds_jpegs(folder)
        found = open_jpegs(folder, "test")
    except UserError as error:
        assert str(error).count("\\n") == 1, error
        tally[f"{name}: refused"] += 1
        continue
    assert agreed, f"case {case}, {name}: another file got through"
    # What FFCV would then do with it is safe: all reading is inside the file, all writing in what it allocates.
    assert (found.pointers >= table_end).all() and (found.pointers + found.sizes <= allocations).all()
    assert found.heights.max() == entry["height"]["largest"] and found.widths.max() == entry["width"]["largest"]
    assert found.samples == entry["images"]
    tally[f"{name}: read"] += 1
print(json.dumps(tally))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = [photos.cutting(n, np.random.default_rng(n), 60) for n in range(N)]
    return photos.make_beton(tmp_path / "photos-jpeg", "test", images, np.arange(N) % 3)


def test_a_file_made_by_hand_is_read(folder: Path) -> None:
    """Which shows that photos.make_beton lays a file out as inspect_jpegs reads it; FFCV's own are in test_jpeg."""
    assert holds_jpegs(folder)
    found = open_jpegs(folder, "test")
    content = found.path.read_bytes()
    for n in range(N):
        expected = photos.jpeg(photos.cutting(n, np.random.default_rng(n), 60))
        assert content[found.pointers[n] :][: found.sizes[n]] == expected
        assert (found.widths[n], found.heights[n]) == photos.cutting(n, np.random.default_rng(n), 60).size
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_no_damage_gets_through_or_brings_the_guard_down(folder: Path) -> None:
    (folder.parent / "ffcv.py").write_text("raise SystemExit('FFCV was reached')")
    numbers = [str(n) for n in (1400, 7, TABLE, TABLE + N * RECORD)]
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(folder), *numbers],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": f"{folder.parent}:{ROOT}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tally = json.loads(done.stdout)
    for kind in ("bytes", "truncate", "extend", "header", "fields", "table", "allocations"):
        assert tally[f"{kind}: refused"] == 100, tally
        assert tally.get(f"{kind} agreed: refused", 0) + tally.get(f"{kind} agreed: read", 0) == 100, tally
    for kind in ("truncate", "extend"):
        assert f"{kind} agreed: read" not in tally, tally
    # A length that is too small passes: libjpeg-turbo refuses the rest, and the loader with it.
    assert tally["allocations agreed: refused"] >= 60, tally
    assert tally["table agreed: refused"] >= 30, tally


@pytest.mark.parametrize(
    ("name", "row", "value", "said"),
    [
        ("mode", 3, 1, "its images are not all JPEGs"),
        ("height", 2, 0, "an image has no size"),
        ("width", 2, 0, "an image has no size"),
        ("width", 2, 65535, "largest sides"),
        ("height", 2, 65535, "largest sides"),
        ("data_ptr", 2, 0, "its two tables disagree"),
    ],
)
def test_a_table_that_lies_is_refused_although_its_digest_is_pinned(
    folder: Path, name: str, row: int, value: int, said: str
) -> None:
    content = bytearray((folder / "test.beton").read_bytes())
    samples = np.frombuffer(content, beton._RGB_SAMPLE, N, TABLE)
    samples["image"][name][row] = value
    _pin(folder, bytes(content))
    with pytest.raises(UserError, match=said):
        open_jpegs(folder, "test")


@pytest.mark.parametrize(
    ("row", "field", "change", "said"),
    [
        (2, "size", 1, "an image lies in another"),
        (5, "size", 1, "an image lies in another"),
        (2, "size", -(10**9), "an image lies in another"),
        (3, "ptr", 10**9, "an image lies outside"),
        (5, "ptr", 10**9, "an image lies outside"),
        (0, "ptr", -1, "an image lies outside"),
        (3, "ptr", -(10**6), "an image lies outside"),
    ],
)
def test_two_tables_that_agree_on_a_lie_are_refused(folder: Path, row: int, field: str, change: int, said: str) -> None:
    content = bytearray((folder / "test.beton").read_bytes())
    at = int.from_bytes(content[16:24], "little")
    allocations = np.frombuffer(content, beton._ALLOCATION, N, at)
    samples = np.frombuffer(content, beton._RGB_SAMPLE, N, TABLE)
    allocations[field][row] += np.array(change).astype(np.uint64)
    if field == "ptr":
        samples["image"]["data_ptr"][row] = allocations["ptr"][row]
    _pin(folder, bytes(content))
    with pytest.raises(UserError, match=said):
        inspect_jpegs(folder / "test.beton")


def _pin(folder: Path, content: bytes) -> None:
    (folder / "test.beton").write_bytes(content)
    card = json.loads((folder / "card.json").read_text())
    card["splits"]["test"]["beton"]["sha256"] = beton.sha256(folder / "test.beton")
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize("card", ["{}", "[]", "null", '{"splits": []}', '{"kind": "jpeg", "splits": {"test": 1}}'])
def test_a_card_that_says_nothing_of_the_split_is_refused(folder: Path, card: str) -> None:
    (folder / "card.json").write_text(card)
    assert holds_jpegs(folder) == ("jpeg" in card)
    with pytest.raises(UserError, match="does not describe test"):
        open_jpegs(folder, "test")


def test_raw_images_are_no_jpegs(folder: Path, tiny_beton: Path) -> None:
    assert not holds_jpegs(tiny_beton)
    with pytest.raises(UserError, match="not all JPEGs"):
        inspect_jpegs(tiny_beton / "test.beton")
    with pytest.raises(UserError, match="not all raw"):
        beton.inspect(folder / "test.beton")
