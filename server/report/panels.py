"""Small multiples: one panel a hospital on common axes, so that seven of them can be told apart."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator

from server.report.figures import _STYLE, GRID, INK, MUTED, _draw, _inline, _log_axis
from server.report.sections import Figure, Panels, Series

_SIZES = {1: (4.8, 2.7), 2: (2.31, 2.2)}
"""Width and height of a panel where there is one column, or two: a page shows such a drawing half as wide."""
_SIZE, _GAP_X, _GAP_Y = (1.9, 1.65), 0.22, 0.42
_LEFT, _BOTTOM, _TOP, _RIGHT = 0.66, 0.5, 0.28, 0.1
MOST_COLUMNS = 4


@dataclass(frozen=True)
class _Limits:
    """Ranges and scale that all panels share."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_log: bool


def panels_svg(figure: Panels, *, sites: Sequence[str] = (), prefix: str = "f") -> str:
    """Draw small multiples as one ``<svg>`` element; see :func:`server.report.figures.figure_svg`."""
    rows = max(1, math.ceil(len(figure.panels) / MOST_COLUMNS))
    columns = max(1, math.ceil(len(figure.panels) / rows))
    wide, high = _SIZES.get(columns, _SIZE)
    width = _LEFT + columns * wide + (columns - 1) * _GAP_X + _RIGHT
    height = _TOP + rows * high + (rows - 1) * _GAP_Y + _BOTTOM
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": prefix}):
        canvas = Canvas(figsize=(width, height), facecolor="none")
        FigureCanvasSVG(canvas)
        limits = _limits(figure, sites)
        for i, (heading, series) in enumerate(figure.panels):
            column, row = i % columns, i // columns
            left = _LEFT + column * (wide + _GAP_X)
            top = _TOP + row * (high + _GAP_Y)
            box = (left / width, 1 - (top + high) / height, wide / width, high / height)
            axes = canvas.add_axes(box)
            _draw(axes, _alone(figure, series), tuple(sites))
            if limits is not None:
                # A panel where every value is withheld has no scale of its own.
                if limits.x_log and axes.get_xscale() != "log":
                    _log_axis(axes)
                axes.set_xlim(*limits.x)
                axes.set_ylim(*limits.y)
                if limits.x_log and limits.x[1] / limits.x[0] < 40:
                    # Powers of ten alone would leave hardly a tick.
                    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            if figure.reference == "diagonal":
                axes.axline((0, 0), slope=1, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=2)
            axes.set_title(
                textwrap.shorten(heading, width=34, placeholder=" …"), fontsize=9, loc="left", color=INK, pad=4
            )
            axes.set_xlabel("")
            axes.set_ylabel("")
            axes.tick_params(labelsize=7.5)
            axes.grid(True, color=GRID, linewidth=0.7)
            if column:
                axes.tick_params(labelleft=False)
            if i + columns < len(figure.panels):
                axes.tick_params(labelbottom=False)
        canvas.supxlabel(figure.x_label, fontsize=9.5, color=INK, y=0.02)
        canvas.supylabel(figure.y_label, fontsize=9.5, color=INK, x=0.012)
        drawing = io.StringIO()
        canvas.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(drawing.getvalue(), prefix)


def _alone(figure: Panels, series: Sequence[Series]) -> Figure:
    reference = None if figure.reference == "diagonal" else figure.reference
    return Figure(
        figure.title,
        series,
        "",
        "",
        figure.x_range,
        figure.y_range,
        figure.x_log,
        reference,
    )


def _limits(figure: Panels, sites: Sequence[str]) -> _Limits | None:
    """Return the ranges that hold every panel's series; None where no panel has a number."""
    every = [one for _, series in figure.panels for one in series]
    if not every:
        return None
    # Drawn together once, where nobody sees it: the ranges are then those of a single chart.
    canvas = Canvas()
    FigureCanvasSVG(canvas)
    axes = canvas.add_subplot()
    _draw(axes, _alone(figure, every), tuple(sites))
    x, y, x_log = axes.get_xlim(), axes.get_ylim(), axes.get_xscale() == "log"
    if figure.reference == "diagonal" and figure.x_range is None:
        # What is read against the diagonal has one scale both ways, from zero on.
        most = 1.03 * max(x[1], y[1])
        x = y = (-0.03 * most, most)
    elif isinstance(figure.reference, tuple):
        # A caption says what these lines are: they lie inside.
        lines, air = figure.reference, 0.05 * (y[1] - y[0])
        y = min(y[0], min(lines) - air), max(y[1], max(lines) + air)
    if x_log and "share" in figure.x_label:
        x = (x[0], min(x[1], 1.1))
    return _Limits(x, y, x_log)
