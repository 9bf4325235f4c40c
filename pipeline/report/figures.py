"""Figures as SVG for a page: drawn by matplotlib, coloured by the page's CSS, the same bytes each time."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.report.plotted import Finished, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def curves(name: str, runs: Sequence[Finished]) -> str:
    """Loss, error and learning rate by epoch of runs that differ in their seed; the final errors marked."""
    with _drawing(520) as figure:
        loss, error, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 4, 2])
        last = []
        for i, run in enumerate(runs):
            colour, dash = _SERIES_COLOURS[i % _SERIES], _DASHES[i // _SERIES % len(_DASHES)]
            epochs = [row.epoch for row in run.history]
            marker = "o" if len(epochs) <= 20 else ""
            style: dict[str, Any] = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 4}
            final, seed = run.result.top1_error, run.result.record.seed
            last.append(f"{run.error}, seed {seed}")
            loss.plot(epochs, [row.train_loss for row in run.history], **style)
            error.plot(epochs, [row.train_error for row in run.history], label=f"train, seed {seed}", **style)
            tested = [(row.epoch, row.test_error) for row in run.history if row.test_error is not None]
            if tested:
                error.plot(*zip(*tested, strict=True), label=f"test, seed {seed}", **{**style, "linewidth": 2.5})
            rate.plot(epochs, [row.learning_rate for row in run.history], **style)
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
        label = f"Train loss, train error and learning rate over {len(runs[0].history)} epochs; at the end: "
        return _svg(figure, name, label + "; ".join(last))


def scatter(name: str, dataset: str, axis: Literal["parameters", "multiply_adds"], points: Sequence[Point]) -> str:
    """Error against size or training compute, both logarithmic; published points by depth, ours as diamonds.

    Points without the axis' value are left out.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

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
def _drawing(height: int) -> "Iterator[Figure]":
    """An empty figure of this many units, whatever the user's own matplotlibrc says."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(Path(__file__).with_name("report.mplstyle"), after_reset=True):
        yield Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")  # an SVG has 72 units an inch


def _svg(figure: "Figure", name: str, label: str) -> str:
    """The figure as an element of an HTML page, with ids of its own and a text for those who do not see it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view, "matplotlib writes one"
    start = f'<svg role="img" aria-label="{escape(label)}" {view[0]}>'
    text = re.sub(r"<svg[^>]*>", lambda _: start, text, count=1)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"(font: [^;\"]*?\d+px)[^;\"]*", r"\1 sans-serif", text)
    for given, shown in _COLOURS.items():
        text = text.replace(given, shown)
    return re.sub(r"\n\s*\n", "\n", text).strip()
