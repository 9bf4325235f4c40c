"""The networks of the paper's tables that are built here."""

import csv

from pipeline.errors import UserError
from pipeline.models.names import parse
from pipeline.publication.claims import CLAIMS


def _is_built(name: str) -> bool:
    try:
        parse(name)
    except UserError:
        return False
    return True


with CLAIMS.open() as _file:
    CLAIMED = list(csv.DictReader(_file))
"""The rows of claims.csv."""
NAMES = [name for name in dict.fromkeys(row["model"] for row in CLAIMED) if _is_built(name)]
