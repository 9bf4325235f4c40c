"""What pipeline.evidence.provenance_summary tells, in words for a terminal."""

import textwrap
from typing import Any

from pipeline.comparison.formats.cell_text import MEANINGS
from pipeline.comparison.orderings import SEEDS
from pipeline.publication.paper import Paper

_WIDTH = 100
_STATISTICS = {
    "median5": ", the median of 5 runs",
    "derived": ", from other numbers",
    "single": ", of a single run",
    "unstated": " and does not say of how many runs",
    "exact": ", a count",
    "quoted": ", quoted from other work",
}


def run(summary: dict[str, Any], paper: Paper) -> str:
    """`wrn-pipe show RUN`."""
    lines = [*_run(summary, summary["checkout"], paper), "", "What it says about the paper"]
    if not summary["claims"]:
        lines += _told("Nothing: no table of the paper has this network on this dataset.")
    for cell in summary["claims"]:
        lines += _told(f"{cell['title'].partition(':')[0]}, {_what(cell, paper)}: {_sentence(cell)}")
    return "\n".join([*lines, "", *_changes(summary)]) + "\n"


def claims(summary: dict[str, Any], paper: Paper) -> str:
    """`wrn-pipe explain`."""
    lines: list[str] = []
    for cell in summary["cells"]:
        lines += [*_cell(cell, paper), ""]
    for told in summary["runs"]:
        lines += [*_run(told, summary["checkout"], paper), "", *_changes(told), ""]
    return "\n".join(lines)


def _what(cell: dict[str, Any], paper: Paper) -> str:
    return f"{cell['network']}, {paper.datasets[cell['dataset']]}, {paper.metrics[cell['metric']]}"


def _cell(cell: dict[str, Any], paper: Paper) -> list[str]:
    lines = [*textwrap.wrap(f"{cell['title']}: {_what(cell, paper)}", _WIDTH), *_told(_sentence(cell))]
    if cell["printed"] is not None:
        recipe = f" Its recipe is {cell['protocol']}: wrn-pipe plan adds runs by it." if cell["protocol"] else ""
        lines += _told(f"The paper prints {cell['printed']}{_STATISTICS[cell['statistic']]}.{recipe}")
    for deviation in cell["deviations"]:
        weight = "material" if deviation["material"] else "minor"
        said = f"; its weight rests on: {deviation['evidence']}" if deviation["evidence"] else ""
        said += f"; the paper's is from: {deviation['source']}" if deviation["source"] else ""
        lines += _told(f"- {deviation['text']} ({weight}: {deviation['reason']}{said})")
    for number, text in cell["footnotes"].items():
        lines += _told(f"[{number}] {text}")
    if cell["runs_wanted"]:
        command = (
            f"wrn-pipe plan --paper-table {cell['table']} --row '{cell['network']}' --dataset {cell['dataset']} "
            f"--seeds {cell['seeds_to_plan']}, then wrn-pipe repro"
        )
        then = f". Then, {cell['outlook']['text']}." if cell["outlook"] else ""
        lines += _told(f"To the next look: {cell['runs_wanted']} more comparable runs. {command}{then}")
    for ordering in cell["orderings"]:
        power = f"{SEEDS} seeds of each network show it in {100 * ordering['power']:.0f} of 100 cases, if it is true"
        lines += _told(f"Ordering: {ordering['text']} {power}.")
    return lines


def _sentence(cell: dict[str, Any]) -> str:
    """Both numbers and what they add up to."""
    printed = cell["printed"] or "nothing"
    if cell["kind"] == "count":
        return f"{printed} in the paper, exactly {cell['count']:,} here: {cell['verdict']}"
    if cell["mean"] is None:
        return f"{printed} in the paper, {cell['verdict'] or cell['kind']}"
    runs = "1 run" if len(cell["runs"]) == 1 else f"the mean of {len(cell['runs'])} runs"
    ours = f"{printed} in the paper, {cell['mean']:.2f} here ({runs}: {', '.join(cell['runs'])})"
    if cell["difference"] is not None:
        ours += f", {cell['difference']:+.2f}"
    if cell["interval"] is not None:
        low, high = cell["interval"]
        ours += f" with an interval of {low:+.2f} to {high:+.2f} and a margin of {cell['margin']:g}"
    if cell["verdict"]:
        ours += f": {cell['verdict']} ({MEANINGS[cell['verdict']].partition(';')[0]})"
    return ours


def _run(told: dict[str, Any], checkout: dict[str, Any], paper: Paper) -> list[str]:
    metrics, data, settings = told["metrics"], told["data"], told["settings"]
    devices = (
        f"{each['name']} ({each['type']}, {each['threads']} threads) from epoch {each.get('from_epoch', 1)} on"
        for each in told["devices"]
    )
    stale = {name: entry["stale"] for name, entry in told["lock"].items() if entry["stale"]}
    recorded = "no commit has these weights in its dvc.lock"
    if told["recorded_in"]:
        recorded = f"dvc.lock has these weights since commit {told['recorded_in'][:12]}"
    state = "with edits that are not committed" if checkout["dirty"] else "clean"
    of_plan = [("origin", told["origin"])]
    if told.get("weights_at"):
        of_plan.append(("weights", told["weights_at"]))
    if told["lock"]:
        of_plan = [
            ("commit", f"{recorded}; checked out is {checkout['commit'][:12]}, {state}"),
            ("dvc.lock", "out of date:" if stale else "up to date with the files and settings here"),
            *(("", f"{name}: {'; '.join(why)}") for name, why in stale.items()),
            ("bits", f"wrn-pipe verify --deeper {told['run']} trains it again and compares"),
        ]
    rows = [
        ("data", f"{data['name']}, content train {data['train'][:12]}, test {data['test'][:12]}"),
        ("training", f"{settings['epochs']} epochs of protocol {told['protocol']}, seed {told['seed']}, "
         f"{told['parameters']:,} parameters, loader {told['loader']}, kernels {told['kernels']}"),
        ("machine", "; then ".join(devices)),
        ("versions", ", ".join(f"{name} {version}" for name, version in told["versions"].items())),
        ("fingerprint", f"{told['fingerprint']}, of settings, code, environment and data"),
        *(("file", f"{path}, sha256 {digest[:12]}") for path, digest in told["files"].items()),
        *([("not here", f"{', '.join(told['absent'])}. To have them: {told['to_have']}")] if told["absent"] else []),
        *of_plan,
        ("again", told["command"]),
    ]  # fmt: skip
    error = (
        f"Test error {metrics['top1_error']:.2f} %: {metrics['errors']} of {metrics['n']} images wrong, "
        f"standard error {metrics['standard_error']:.2f}."
    )
    lines = [
        f"{told['run']}: {told['network']} on {paper.datasets.get(told['dataset'], told['dataset'])}",
        *_told(error),
    ]
    for name, text in rows:
        lines += _told(text, f"  {name:<12}", " " * 14)
    return lines


def _changes(told: dict[str, Any]) -> list[str]:
    """What would make it another number."""
    if not told["lock"]:
        return _told("Nothing here changes it: it is bound to the commit that it was trained at.", "", "")
    used = {name: entry for name, entry in told["lock"].items() if name.startswith(("train@", "evaluate@"))}
    settings = dict.fromkeys(setting for entry in used.values() for setting in entry["settings"])
    inputs = dict.fromkeys(path for entry in used.values() for path in entry["inputs"])
    code = [path for path in inputs if path.startswith(("pipeline/", "stages/"))]
    others = [path for path in inputs if path not in code and not path.startswith(("models/", "evaluations/"))]
    return [
        "What would change it",
        *_told(f"- in params.yaml: {', '.join(settings)}"),
        *_told(f"- the data and the environment: {', '.join(others)}"),
        *_told(f"- code: {', '.join(code)}"),
        *_told("- another kind of processor, number of threads or compiler: sums round otherwise"),
    ]


def _told(text: str, first: str = "  ", further: str = "    ") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=further, break_on_hyphens=False)
