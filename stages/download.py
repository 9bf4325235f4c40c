"""download: the sources in params.yaml -> data/raw/<dataset>/{train,test}_{images,labels}.npy, or a jpeg_store."""

from pathlib import Path

from pipeline.data.dataset_download import DOWNLOADS, acquire
from pipeline.dvc_lock import need_first_content
from pipeline.params import entry
from pipeline.runner.attempts import run_stage
from pipeline.runner.interruptions import NOTHING_HALF_DONE
from pipeline.runner.params_file import load


def main(name: str) -> None:
    """Fetch dataset `name` of params.yaml from the first of its sources that has the pinned bytes."""
    dataset, to = entry(load().datasets, name, "dataset"), Path("data/raw") / name
    acquire(name, dataset, to)
    if dataset.digests is None:
        need_first_content(f"download@{name}", to)


def kept(name: str) -> str:
    """What a stopped download of `name` leaves behind."""
    size = sum(path.stat().st_size for path in (DOWNLOADS / name).glob("*") if path.is_file())
    if not size:
        return NOTHING_HALF_DONE
    return f"{size / 1e6:.1f} MB have arrived in {DOWNLOADS / name} and are not fetched again"


if __name__ == "__main__":
    run_stage(main, kept)
