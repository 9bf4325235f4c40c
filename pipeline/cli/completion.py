"""What the shell offers at Tab: words of params.yaml and of the paper. It prints nothing when params.yaml is broken."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer
from typer import _completion_shared
from typer._completion_classes import BashComplete

if TYPE_CHECKING:
    from pipeline.params import Plan

STAGES = ("download", "convert", "train", "evaluate", "summarize", "tabulate", "manifest", "report")

BASH = r"""
%(complete_func)s() {
    # Bash cuts words at the @ of train@RUN too. Here they are whole, up to the cursor, as the line has them.
    local line=${COMP_LINE:0:COMP_POINT} words=() piece value IFS=$'\n'
    for piece in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        [[ ${#words[@]} -gt 0 && $line == [![:space:]]* ]] || words+=("")
        line=${line#"${line%%%%[![:space:]]*}"}
        piece=${piece:0:${#line}}
        line=${line:${#piece}}
        words[-1]+=$piece
    done
    # Only $2, the end of the word, is replaced: what stands before it is taken off each answer.
    local before=${words[-1]%%"$2"} option= quoted=
    [[ ${words[-1]} != -*=* ]] || option=${words[-1]%%%%=*}=
    [[ $before != *[\'\"] ]] || quoted=yes before=${before%%?}
    COMPREPLY=()
    while read -r value; do
        value=$option$value
        [[ $value == "$before"?* ]] || continue
        value=${value#"$before"}
        if [[ ! $quoted ]]; then
            printf -v value %%q "$value"
            value=${value//\\,/,}  # it means no more than itself, since %%q escapes braces
        fi
        COMPREPLY+=("$value")
    done < <(env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) %(autocomplete_var)s=complete_bash "$1")
}

complete -o default -F %(complete_func)s %(prog_name)s
"""
"""Asks as typer's own script does, whose answers bash inserts wrongly where a word has an @, = or parenthesis."""
_completion_shared._completion_scripts["bash"] = BASH  # --show-completion and --install-completion: typer has no option
BashComplete.source_template = BASH


def _plan() -> "Plan | None":
    from pipeline.errors import UserError
    from pipeline.runner.params_file import load

    try:
        return load()
    except UserError:  # whatever command is being typed will say what is wrong
        return None


def _fitting(words: Iterable[str], start: str) -> list[str]:
    return [word for word in dict.fromkeys(words) if word.startswith(start)]


def runs(incomplete: str) -> list[str]:
    plan = _plan()
    return _fitting(plan.runs if plan else (), incomplete)


def protocols(incomplete: str) -> list[str]:
    from pipeline.publication.protocols import paper_protocols

    plan = _plan()
    return _fitting([*(plan.protocols if plan else ()), *paper_protocols()], incomplete)


def planned_datasets(incomplete: str) -> list[str]:
    plan = _plan()
    return _fitting(plan.datasets if plan else (), incomplete)


def datasets(incomplete: str) -> list[str]:
    """Of the paper's tables."""
    return _fitting((row["dataset"] for row in _claims()), incomplete)


def networks(incomplete: str) -> list[str]:
    """As the paper prints them."""
    return _fitting((row["model"] for row in _claims()), incomplete)


def single_tables(incomplete: str) -> list[str]:
    from pipeline.publication.paper import TITLES

    return _fitting(TITLES, incomplete)


def tables(incomplete: str) -> list[str]:
    return [*single_tables(incomplete), *_fitting(["all"], incomplete)]


def targets(incomplete: str) -> list[str]:
    """What `wrn-pipe repro` takes: run ids, kinds of stages, and once one is begun, the stages."""
    from pipeline.runner.dag import read_dag

    plan = _plan()
    if plan is None:
        return []
    stages = read_dag(plan)
    return _fitting(
        [*plan.runs, *(stage.kind for stage in stages.values()), *(stages if "@" in incomplete else ())], incomplete
    )


def stages(incomplete: str) -> list[str]:
    return _fitting(STAGES, incomplete)


def stage_keys(context: typer.Context, incomplete: str) -> list[str]:
    """What the stage that was typed before can work on."""
    from pipeline.runner.dag import read_dag

    plan = _plan()
    kind = context.params.get("name")
    return _fitting((stage.key for stage in read_dag(plan).values() if stage.kind == kind) if plan else (), incomplete)


def _claims() -> list[dict[str, str]]:
    """The rows of claims.csv, unchecked: checking them takes a second."""
    import csv

    from pipeline.publication.claims import CLAIMS

    with CLAIMS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
