"""Figures as SVG for a page: drawn by matplotlib, coloured by the page's CSS, the same bytes each time."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipeline.artifacts import EpochRecord
from pipeline.comparison.cells import Comparison, comparable_runs
from pipeline.comparison.results import Result
from pipeline.comparison.training_cost import training_multiply_adds
from pipeline.errors import UserError
from pipeline.models.names import parameters, parse
from pipeline.publication.claims import Claim
from pipeline.publication.paper import Paper

_SERIES = 6
_COLOURS = {
    f"#a0000{digit}": f"var(--{name})"
    for digit, name in enumerate(["ink", "faint", "line", "paper", *(f"series-{i}" for i in range(_SERIES))])
}
"""What matplotlib is given -> what the page colours it with, so that one drawing serves light, dark and print.
report.mplstyle has the same."""
_INK, _FAINT, _LINE, _PAPER, *_SERIES_COLOURS = _COLOURS
_MARKERS = ("o", "s", "^", "v", "P", "X")
_DASHES = ("-", "--", ":", "-.")
_WIDTH = 420
"""Units of an SVG, which are CSS pixels where it is shown at that width: text of 11 units stays legible on a phone."""


@dataclass(frozen=True)
class Finished:
    """A run with all that git has of it, so that a clone without weights and predictions writes the same page."""

    result: Result
    history: list[EpochRecord]
    digests: dict[str, str]
    """File, relative to the root -> sha256, as digests.json has it."""

    @property
    def error(self) -> str:
        """With what it is one of: the test split, or training images that were held out."""
        name = "test error" if self.result.metrics.split == "test" else "held-out error"
        return f"{name} {self.result.top1_error:.2f} %"


@dataclass(frozen=True)
class Point:
    """One error of one network on one dataset."""

    network: str
    source: str
    """The paper's table, or the protocol and the number of our runs."""
    error: float
    """Top-1, percent; the mean over seeds of ours."""
    parameters: int
    """Exact, by formula; as printed where the network can not be built here."""
    multiply_adds: int | None
    """Of its whole training, forward and backward; None where the length of training is not known here."""
    group: str
    """Points that look alike: the paper's by series, ours by whether they may be set beside some number of it."""


def points_of(dataset: str, of: Comparison) -> list[Point]:
    """The paper's top-1 errors on `dataset` in its order, where the network's size is known, then ours: a point for
    the seeds of one network by one protocol, without held-out errors."""
    paper, points = of.paper, []
    for claim in (each for each in paper.claims if (each.dataset, each.metric) == (dataset, "top1_error")):
        if (size := _size(claim, paper)) is None:
            continue
        recipe, work = paper.protocol_of(claim), None
        if recipe is not None:
            work = training_multiply_adds(claim.network, paper.images(dataset, "train"), recipe.protocol.epochs)
        source = paper.tables[claim.table].partition(":")[0] + (", quoted" if claim.kind == "quoted" else "")
        series = re.match(paper.series, claim.model)
        group = f"paper, {series[0] if series else 'others'}"
        points.append(Point(claim.model, source, claim.value, size, work, group))
    counted = {run.run for claim in paper.claims if claim.kind == "runnable" for run in comparable_runs(claim, of)}
    alike: dict[tuple[str, str, str], list[Result]] = {}
    for result in of.results:
        if (result.record.dataset, result.metrics.split) == (dataset, "test"):
            group = "ours" if result.run in counted else "ours, not comparable"
            alike.setdefault((result.network, result.record.protocol_name, group), []).append(result)
    known = of.plan.datasets.get(dataset)
    images = known.splits["train"] if known else paper.images(dataset, "train")
    for (network, protocol, group), results in alike.items():
        record, error = results[0].record, fmean(result.top1_error for result in results)
        work = training_multiply_adds(network, images, record.epochs)
        source = group.replace("ours", f"ours, {protocol}, n={len(results)}")
        points.append(Point(network, source, error, record.parameters, work, group))
    return points


def _size(claim: Claim, paper: Paper) -> int | None:
    try:
        return parameters(parse(claim.network), paper.classes(claim.dataset))
    except UserError:  # another system's network, of which the paper may print the size
        printed = (c.value for c in paper.claims if (c.model, c.metric) == (claim.model, "params_millions"))
        return next((round(millions * 1e6) for millions in printed), None)


def curves(name: str, runs: Sequence[Finished]) -> str:
    """Loss, error and learning rate by epoch of runs that differ in their seed; the final errors marked."""
    with _drawing(520) as figure:
        loss, error, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 4, 2])
        for i, run in enumerate(runs):
            colour, dash = _SERIES_COLOURS[i % _SERIES], _DASHES[i // _SERIES % len(_DASHES)]
            epochs = [row.epoch for row in run.history]
            marker = "o" if len(epochs) <= 20 else ""
            style: dict[str, Any] = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 4}
            final, seed = run.result.top1_error, run.result.record.seed
            for axes, field in ((loss, "train_loss"), (error, "train_error"), (rate, "learning_rate")):
                axes.plot(epochs, [getattr(row, field) for row in run.history], label=f"train, seed {seed}", **style)
            tested = [(row.epoch, row.test_error) for row in run.history if row.test_error is not None]
            if tested:
                error.plot(*zip(*tested, strict=True), label=f"test, seed {seed}", **{**style, "linewidth": 2.5})
            label = f"{run.result.metrics.split} at the end, seed {seed}"
            error.plot(epochs[-1:], [final], "D", color=colour, mec=_INK, ms=8, label=label)
        for axes, label in ((loss, "train loss"), (error, "error, %"), (rate, "learning rate")):
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
        rate.set_xlabel("epoch")
        rate.xaxis.get_major_locator().set_params(integer=True)
        figure.align_ylabels()
        if len(runs) <= _SERIES:
            error.legend(loc="upper right")
        ends = "; ".join(f"{run.error}, seed {run.result.record.seed}" for run in runs)
        trained = f"Train loss, train error and learning rate over {len(runs[0].history)} epochs"
        return _svg(figure, name, f"{trained}; at the end: {ends}")


def scatter(name: str, dataset: str, axis: Literal["parameters", "multiply_adds"], points: Sequence[Point]) -> str:
    """Error against size or training compute, both logarithmic, where known; published by depth, ours as diamonds."""
    unit, words, what = 1e6, "parameters, millions", "parameters"
    if axis == "multiply_adds":
        unit, words, what = 1e15, "multiply-adds of the whole training, 10¹⁵", "training compute"
    drawn = [point for point in points if getattr(point, axis) is not None]
    ours = [point for point in drawn if point.group.startswith("ours")]
    # The paper's groups first, so that one of them has one colour with and without ours.
    names = sorted({point.group for point in drawn}, key=lambda group: (group.startswith("ours"), group))
    with _drawing(380) as figure:
        axes = figure.subplots()
        for number, group in enumerate(names):
            members = [point for point in drawn if point.group == group]
            sizes, errors = [getattr(p, axis) / unit for p in members], [p.error for p in members]
            marker, colour = _MARKERS[number % _SERIES], _SERIES_COLOURS[number % _SERIES]
            style: dict[str, Any] = {"marker": marker, "ms": 6, "mec": _PAPER, "mew": 0.5, "mfc": colour}
            if members[0] in ours:
                face = _INK if group == "ours" else _PAPER
                style = {"marker": "D", "ms": 10, "mec": _INK, "mew": 1.5, "mfc": face, "zorder": 3}
            axes.plot(sizes, errors, label=group, linestyle="", **style)
        axes.set(xscale="log", yscale="log", xlabel=words, ylabel="test error, %")
        for one, steps in ((axes.xaxis, (1, 2, 5)), (axes.yaxis, (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8))):
            one.set_major_locator(LogLocator(subs=steps))
            one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            one.set_minor_formatter(NullFormatter())
        figure.legend(loc="outside lower center", ncols=3)
        count = f"{len(drawn) - len(ours)} published points and {len(ours)} of ours"
        return _svg(figure, name, f"{dataset}: error against {what}: {count}")


@contextmanager
def _drawing(height: int) -> Iterator[Figure]:
    """An empty figure of this many units, whatever the user's own matplotlibrc says."""
    with matplotlib.style.context(Path(__file__).with_name("report.mplstyle"), after_reset=True):
        yield Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")  # an SVG has 72 units an inch


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an element of an HTML page, with ids of its own and a text for those who do not see it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", file.getvalue(), flags=re.DOTALL)
    width, height = (72 * inches for inches in figure.get_size_inches())
    start = f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width:g} {height:g}">'
    text = start + text.partition("<svg")[2].partition(">")[2].replace("xlink:href", "href")
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"(font: [^;\"]*?\d+px)[^;\"]*", r"\1 sans-serif", text)
    for given, shown in _COLOURS.items():
        text = text.replace(given, shown)
    return re.sub(r"\n\s*\n", "\n", text).strip()
