"""The paper that is reproduced: its title page and its tables. Help, pages, archives and MLflow name it by these."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paper:
    """What a citation of it needs."""

    title: str
    authors: tuple[str, ...]
    venue: str
    version: str
    url: str

    @property
    def slug(self) -> str:
        """The title as a name for machines: wide-residual-networks."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @property
    def citation(self) -> str:
        """In one line."""
        return f"{' and '.join(self.authors)}: {self.title}. {self.venue}."


PAPER = Paper(
    title="Wide Residual Networks",
    authors=("Sergey Zagoruyko", "Nikos Komodakis"),
    venue="Proceedings of the British Machine Vision Conference (BMVC), 2016",
    version="arXiv 1605.07146v4, June 2017",
    url="https://arxiv.org/abs/1605.07146v4",
)

TITLES = {
    "2": "Table 2: block types, CIFAR-10",
    "3": "Table 3: convolutions per block (l), CIFAR-10",
    "4": "Table 4: depth and width, CIFAR-10 and CIFAR-100",
    "5": "Table 5: against other networks, CIFAR-10 and CIFAR-100",
    "6": "Table 6: dropout, CIFAR-10, CIFAR-100 and SVHN",
    "7": "Table 7: width, ImageNet",
    "8": "Table 8: bottlenecks, ImageNet",
    "9": "Table 9: best results",
    "figure-4": "Figure 4: time of a training step",
    "text": "Text: SVHN without dropout, gains and speed-ups",
}
"""Every table of claims.csv, in the paper's order, with a title."""

KNOWN_DATASETS = Path(__file__).with_name("datasets.yaml")
"""Entries of all datasets of the paper, ready to be copied into params.yaml."""

ONE_TABLE = f"{', '.join(TITLES)}."
TABLES = f"{', '.join(TITLES)}, or all."
"""For the help of a command's --paper-table."""
