"""wrn-pipe data: states that something vouches for, files that are read again, and a picture of what training sees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
from PIL import Image
from project import Project, make_project, told
from typer.testing import CliRunner, Result

from pipeline.cli.data import app
from pipeline.data import image_sheet
from pipeline.data.augmentation import flips, offsets
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.dataset_config import SPLITS
from pipeline.errors import UserError

NAME = "cifar10-tiny"
RAW, BETON = Path("data/raw") / NAME, Path("data/beton") / f"{NAME}-rgb"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "TERM": "dumb"}, catch_exceptions=False)


def listed() -> dict[str, dict[str, Any]]:
    done = run("--json")
    assert done.exit_code == 0
    return {row["name"]: row for row in json.loads(done.stdout)}


def findings(*arguments: str) -> dict[str, tuple[str, str]]:
    """Path -> state, and why it is so with what helps."""
    done = run("verify", *arguments, "--json")
    found = {
        each["path"]: (each["state"], f"{each['why']}; {each['fix']}") for each in json.loads(done.stdout)["findings"]
    }
    assert done.exit_code == any(state == "wrong" for state, _ in found.values())
    return found


@pytest.fixture(scope="module")
def recorded(tiny_raw: Path, tiny_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose data is on record in dvc.lock, as after `wrn-pipe repro convert`."""
    root = tmp_path_factory.mktemp("data") / "project"
    root.mkdir()
    made = make_project(root)
    shutil.copytree(tiny_raw, root / RAW)
    shutil.copytree(tiny_beton, root / BETON)
    told(made.run("dvc", "commit", "--force", f"download@{NAME}", f"convert@{NAME}-rgb"))
    return root


@pytest.fixture
def project(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy to spoil; the working directory is in it."""
    shutil.copytree(recorded, tmp_path / "project", ignore=shutil.ignore_patterns("pipeline", "stages"))
    for folder in ("pipeline", "stages"):
        (tmp_path / "project" / folder).symlink_to(recorded / folder)
    monkeypatch.chdir(tmp_path / "project")
    return Project(tmp_path / "project")


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.unlink()  # DVC may have linked it to its cache
    path.write_bytes(content)


def test_a_dataset_goes_from_missing_to_converted_with_evidence_for_each_step(project: Project) -> None:
    row = listed()[NAME]
    assert (row["state"], row["representations"]) == ("converted", {"rgb": "converted"})
    assert row["bytes_here"] == sum(p.stat().st_size for f in (RAW, BETON) for p in f.iterdir())

    shutil.move(BETON, "aside")
    row = listed()[NAME]
    assert (row["state"], row["representations"]) == ("verified", {"rgb": "missing"})

    shutil.move("aside", BETON)
    content = project.root.joinpath("params.yaml").read_text()
    project.edit(lambda params: params["datasets"][NAME]["digests"].update(test="0" * 64))
    row = listed()[NAME]
    assert (row["state"], row["representations"]) == ("fetched", {"rgb": "unverified"}), "checked against other digests"
    project.root.joinpath("params.yaml").write_text(content)

    flip(BETON / "train.beton")
    flip(RAW / "train_images.npy")
    row = listed()[NAME]
    assert (row["state"], row["representations"]) == ("fetched", {"rgb": "unverified"})

    Path("dvc.lock").unlink()
    assert listed()[NAME]["state"] == "fetched"
    (RAW / "test_labels.npy").unlink()
    assert listed()[NAME]["state"] == "missing"


def test_the_list_is_whole_on_a_narrow_terminal_and_names_what_params_does_not_have(project: Project) -> None:
    long = "cifar10-as-somebody-else-has-cropped-it"

    def add(params: Any) -> None:
        params["datasets"][long] = params["datasets"][NAME]
        params["representations"][f"{long}-rgb"] = {"dataset": long, "kind": "rgb"}

    project.edit(add)
    lines = run().stdout.splitlines()
    assert long in "".join(line[2:].split("  ")[0] for line in lines if line.startswith("  "))
    assert "…" not in "".join(lines)
    absent = [line.split()[0] for line in lines if "not in" in line]
    assert absent == ["cifar10", "cifar100", "svhn", "imagenet"]
    (line,) = [line for line in lines if line.startswith("  svhn ")]
    assert f"({(604_388 + 26_032) * (3072 + 8) / 1e9:.1f} GB)" in line


def test_verify_reads_everything_and_finds_it_right(project: Project) -> None:
    found = findings()
    arrays = [RAW / f"{split}_{what}.npy" for split in SPLITS for what in ("images", "labels")]
    assert set(found) == {*map(str, arrays), *(str(BETON / f"{split}.beton") for split in SPLITS), str(RAW), str(BETON)}
    assert {state for state, _ in found.values()} == {"right"}
    assert run("verify", NAME).stdout.splitlines()[-1] == "8 right, 0 wrong, 0 not checked."
    (RAW / "more.npy").write_bytes(b"x")
    assert findings()[str(RAW)][0] == "wrong", "a file that does not belong there"


def retitle(card: Path) -> None:
    """File and card fit each other, but not the plan: as after a conversion of other arrays."""
    content = json.loads(card.read_text())
    content["splits"]["test"]["digest"] = "0" * 64
    card.unlink()
    card.write_text(json.dumps(content))


DAMAGES: list[tuple[Path, Callable[[Path], object], str]] = [  # file, damage, what is said
    (RAW / "train_images.npy", flip, "digest of images and labels is "),
    (RAW / "test_labels.npy", flip, "test: labels 0..72057594037927"),
    (RAW / "test_images.npy", lambda path: path.write_bytes(b""), "not as params.yaml says: "),
    (RAW / "train_labels.npy", Path.unlink, "not found; wrn-pipe repro download@cifar10-tiny"),
    (BETON / "test.beton", lambda path: flip(path, 5000), "is not the file that"),
    (BETON / "test.beton", Path.unlink, "not found; wrn-pipe repro convert@cifar10-tiny-rgb"),
    (BETON / "card.json", retitle, "its card says content 0"),
    (BETON / "card.json", lambda path: path.write_text("{"), "card.json: "),
]


@pytest.mark.parametrize(("path", "spoil", "why"), DAMAGES)
def test_verify_names_the_file_that_is_not_right(
    project: Project, path: Path, spoil: Callable[[Path], object], why: str
) -> None:
    spoil(path)
    found = findings(NAME)
    blamed = BETON / "test.beton" if path.name == "card.json" else path
    assert found[str(blamed)][0] == "wrong"
    assert why in found[str(blamed)][1]
    # The folder as a whole is another one than dvc.lock records, the other folder is right.
    assert found[str(path.parent)][0] == "wrong"
    assert found[str(BETON if path.parent == RAW else RAW)][0] == "right"


def test_without_a_pinned_digest_the_card_is_compared_and_without_a_card_nothing_is_claimed(project: Project) -> None:
    def unpin(params: Any) -> None:
        params["datasets"][NAME].update(digests=None, record_digests=None)

    project.edit(unpin)
    images = str(RAW / "train_images.npy")
    assert "as in data/beton/cifar10-tiny-rgb/card.json" in findings()[images][1]
    flip(RAW / "train_labels.npy", -8)
    assert findings()[images][0] == "wrong"
    flip(RAW / "train_labels.npy", -8)
    shutil.rmtree(BETON)
    Path("dvc.lock").unlink()
    found = findings()
    assert {state for state, _ in found.values()} == {"unchecked"}
    assert "pin it in params.yaml" in found[images][1]


@pytest.mark.parametrize(
    ("arguments", "what", "remedy"),
    [
        (["verify", "svhn"], "svhn is not in params.yaml", "wrn-pipe plan --paper-table all --dataset svhn adds it"),
        (["show", NAME, "--out", "no/x.png"], "cannot write no/x.png: ", "choose another place"),
        (["show", NAME, "--out", "x.picture"], "cannot write x.picture: unknown file ext", "choose another place"),
        (["verify", NAME], f"{NAME} is not in data/raw/{NAME} or data/beton/", f"wrn-pipe repro download@{NAME}"),
        (["show", NAME], f"{NAME} is not in data/raw/{NAME}", f"wrn-pipe repro download@{NAME}"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(project: Project, arguments: list[str], what: str, remedy: str) -> None:
    if "is not in data/raw" in what:
        shutil.rmtree("data")
        assert "not here" in findings()[str(RAW)][1]
    with pytest.raises(UserError) as caught:
        run(*arguments)
    assert caught.value.what.startswith(what)
    assert caught.value.remedy.startswith(remedy)


def cells(picture: Image.Image, line: int, n: int) -> np.ndarray:
    """Images uint8 [n, 32, 32, 3] of one row of the picture's first block, found by the enlargement and the gaps."""
    pixels = np.asarray(picture)
    top = 2 * image_sheet.LINE + line * 36 * 3
    band = pixels[top : top + 36 * 3 : 3, ::3]
    return np.stack([band[2:-2, i * 36 + 2 : i * 36 + 34] for i in range(n)])


def test_the_picture_shows_what_a_training_sees_first(project: Project, tiny_images: Splits) -> None:
    arguments = ("show", NAME, "--augmented", "--seed", "3", "--epoch", "2", "--count", "14", "--out", "seen.png")
    assert run(*arguments).stdout == "seen.png: 14 images, as published, flipped, cropped\n"
    images, _ = tiny_images["train"]
    order = sample_order(3, 2, len(images))[:10]
    picture = Image.open("seen.png")
    assert np.array_equal(cells(picture, 0, 10), images[order])
    moved = photos.moved(images[order], flips("per-image", 3, 2, order), *offsets("per-image", 3, 2, order, 0))
    assert not np.array_equal(moved, images[order])
    assert np.array_equal(cells(picture, 1, 10), moved)
    assert picture.height == image_sheet.LINE + 2 * (image_sheet.LINE + 2 * 36 * 3)
    run("show", NAME, "--count", "3")
    assert np.array_equal(cells(Image.open(f"{NAME}.png"), 0, 3), images[sample_order(1, 0, 260)[:3]])
