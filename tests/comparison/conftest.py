"""A small plan for comparisons."""

from collections.abc import Callable, Sequence

import pytest
from made_up_runs import BRIEF, plan_text

from pipeline.comparison.cells import Comparison
from pipeline.comparison.results import Result
from pipeline.params import PARAMS, Plan, Protocol, Run
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import parse_plan

Compared = Callable[[Sequence[Result]], Comparison]


@pytest.fixture(scope="session")
def base_plan() -> Plan:
    return parse_plan(plan_text([]), PARAMS, PAPER)


@pytest.fixture(scope="session")
def brief() -> Protocol:
    return BRIEF


@pytest.fixture(scope="session")
def compared(base_plan: Plan) -> Compared:
    """These results with the paper, by a plan that names them."""

    def comparison(results: Sequence[Result]) -> Comparison:
        same = {"dataset", "representation", "network", "seed"}
        runs = {r.run: Run(**r.record.model_dump(include=same), protocol="brief") for r in results}
        return Comparison(PAPER, base_plan.model_copy(update={"runs": runs}), results)

    return comparison
