"""download: the sources in params.yaml -> data/raw/<dataset>/{train,test}_{images,labels}.npy, or a jpeg_store."""

from pathlib import Path

from pipeline.data.dataset_download import acquire
from pipeline.dvc_lock import need_first_content
from pipeline.errors import UserError, run_stage
from pipeline.params import PARAMS, load, nearest


def main(name: str) -> None:
    """Fetch dataset `name` of params.yaml from the first of its sources that has the pinned bytes."""
    datasets = load().datasets
    if name not in datasets:
        raise UserError(f"{PARAMS} has no dataset {name!r}", nearest(name, datasets, "dataset"))
    to = Path("data/raw") / name
    acquire(name, datasets[name], to)
    if datasets[name].digests is None:
        need_first_content(f"download@{name}", to)


if __name__ == "__main__":
    run_stage(main)
