"""The stories of pipeline.evidence.provenance_summary in words, for a terminal."""

import textwrap
from typing import Any

from pipeline.comparison.formats.cell_text import DATASETS, MEANINGS, METRICS

_WIDTH = 100
_STATISTICS = {
    "median5": ", the median of 5 runs",
    "derived": ", from other numbers",
    "single": ", of a single run",
    "unstated": " and does not say of how many runs",
    "exact": ", a count",
    "quoted": ", quoted from other work",
}


def run(story: dict[str, Any]) -> str:
    """`wrn-pipe show RUN`."""
    lines = _run(story, story["checkout"])
    lines += ["", "What it says about the paper"]
    if not story["claims"]:
        lines += _told("Nothing: no table of the paper has this network on this dataset.")
    for cell in story["claims"]:
        place = f"Table {cell['table']}" if cell["table"].isdigit() else cell["title"]
        where = f"{place}, {cell['network']}, {DATASETS[cell['dataset']]}, {METRICS[cell['metric']]}"
        lines += _told(f"{where}: {_sentence(cell)}")
    return "\n".join([*lines, "", *_changes(story)]) + "\n"


def claims(story: dict[str, Any]) -> str:
    """`wrn-pipe explain`."""
    lines: list[str] = []
    for cell in story["cells"]:
        lines += [*_cell(cell), ""]
    for told in story["runs"]:
        lines += [*_run(told, story["checkout"]), "", *_changes(told), ""]
    return "\n".join(lines)


def _cell(cell: dict[str, Any]) -> list[str]:
    head = f"{cell['title']}: {cell['network']}, {DATASETS[cell['dataset']]}, {METRICS[cell['metric']]}"
    lines = textwrap.wrap(head, _WIDTH)
    lines += _told(_sentence(cell))
    if cell["printed"] is not None:
        source = f"The paper prints {cell['printed']}{_STATISTICS[cell['statistic']]}."
        if cell["protocol"]:
            source += f" Its recipe is {cell['protocol']}: wrn-pipe plan adds runs by it."
        lines += _told(source)
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
        if cell["outlook"]:
            lines += _told(f"For a verdict: comparable runs. {command}. Then, {cell['outlook']['text']}.")
        else:
            lines += _told(f"For a verdict: {cell['runs_wanted']} more comparable runs. {command}")
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


def _run(told: dict[str, Any], checkout: dict[str, Any]) -> list[str]:
    metrics, data, versions = told["metrics"], told["data"], told["versions"]
    devices = "; then ".join(
        f"{device['name']} ({device['type']}, {device['threads']} threads)" for device in told["devices"]
    )
    stale = {name: entry["stale"] for name, entry in told["lock"].items() if entry["stale"]}
    recorded = (
        f"dvc.lock has these weights since commit {told['recorded_in'][:12]}"
        if told["recorded_in"]
        else ("no commit has these weights in its dvc.lock")
    )
    state = "with edits that are not committed" if checkout["dirty"] else "clean"
    rows = [
        ("data", f"{data['name']}, content train {data['train'][:12]}, test {data['test'][:12]}"),
        ("training", f"{told['settings']['epochs']} epochs of protocol {told['protocol']}, seed {told['seed']}, "
         f"{told['parameters']:,} parameters, loader {told['loader']}, kernels {told['kernels']}"),
        ("machine", devices),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("fingerprint", f"{told['fingerprint']}, of settings, code, environment and data"),
    ]  # fmt: skip
    rows += [("file", f"{path}, sha256 {digest[:12]}") for path, digest in told["files"].items()]
    if told["absent"]:
        rows.append(("not here", f"{', '.join(told['absent'])}. To have them: {told['to_have']}"))
    rows += [
        ("commit", f"{recorded}; checked out is {checkout['commit'][:12]}, {state}"),
        ("dvc.lock", "up to date with the files and settings here" if not stale else "out of date:"),
        *(("", f"{name}: {'; '.join(why)}") for name, why in stale.items()),
        ("again", f"{told['command']}; wrn-pipe verify --deeper {told['run']} compares the bits"),
    ]
    head = f"{told['run']}: {told['network']} on {DATASETS.get(told['dataset'], told['dataset'])}"
    error = (
        f"Test error {metrics['top1_error']:.2f} %: {metrics['errors']} of {metrics['n']} images wrong, "
        f"standard error {metrics['standard_error']:.2f}."
    )
    lines = [head, *_told(error)]
    for name, text in rows:
        lines += textwrap.wrap(
            text, _WIDTH, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14, break_on_hyphens=False
        )
    return lines


def _changes(told: dict[str, Any]) -> list[str]:
    """What would make it another number."""
    used = {name: entry for name, entry in told["lock"].items() if name.startswith(("train@", "evaluate@"))}
    settings = dict.fromkeys(setting for entry in used.values() for setting in entry["settings"])
    inputs = dict.fromkeys(path for entry in used.values() for path in entry["inputs"])
    code = [path for path in inputs if path.startswith(("pipeline/", "stages/"))]
    made = ("models/", "evaluations/")
    others = [path for path in inputs if path not in code and not path.startswith(made)]
    return [
        "What would change it",
        *_told(f"- in params.yaml: {', '.join(settings)}"),
        *_told(f"- the data and the environment: {', '.join(others)}"),
        *_told(f"- {len(code)} files of code, as dvc.yaml lists them for {' and '.join(used)}"),
        *_told("- another kind of processor, number of threads or compiler: sums round otherwise"),
    ]


def _told(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
