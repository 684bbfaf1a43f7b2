"""Forest plots: one row an estimate with its interval, sites first, what they say together below."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Polygon
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from server.report.figures import _STYLE, GRID, INK, MUTED, _inline, site_colour
from server.report.sections import Figure

_WIDTH, _ROW, _BOTTOM, _TOP = 5.6, 0.25, 0.5, 0.12
_LABELS, _MOST_LABELS, _LETTER, _NUMBERS = 1.55, 2.5, 0.068, 1.45


@dataclass(frozen=True)
class ForestRow:
    """One estimate, or with ``heading`` the name of the group of rows below. None is withheld.

    ``pooled`` rows are drawn as diamonds; ``weight`` scales a site's square; ``site`` gives its colour where the label
    is another. ``interval_only``: a prediction interval, which has no estimate of its own.
    """

    label: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    weight: float | None = None
    pooled: bool = False
    site: str = ""
    interval_only: bool = False
    heading: bool = False


@dataclass(frozen=True)
class Forest(Figure):
    """A figure drawn by :func:`forest_svg`; made by :func:`forest`."""

    rows: Sequence[ForestRow] = ()


def forest(
    title: str, rows: Sequence[ForestRow], x_label: str, *, reference: float, log: bool = False, caption: str = ""
) -> Forest:
    """Return a forest plot; ``reference`` is the value of no effect, ``log`` for ratios."""
    return Forest(title, (), x_label, "", x_log=log, reference=reference, caption=caption, rows=tuple(rows))


def forest_svg(figure: Forest, *, sites: Sequence[str] = (), prefix: str = "f") -> str:
    """Draw a forest plot as one ``<svg>`` element; see :func:`server.report.figures.figure_svg`."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": prefix}):
        height = _TOP + _ROW * max(len(figure.rows), 1) + _BOTTOM
        # Long names widen the drawing: the axis keeps its width.
        longest = max((len(row.label) for row in figure.rows if not row.heading), default=0)
        labels = min(max(_LABELS, _LETTER * longest + 0.15), _MOST_LABELS)
        width = _WIDTH + labels - _LABELS
        canvas = Canvas(figsize=(width, height), facecolor="none")
        FigureCanvasSVG(canvas)
        box = (labels / width, _BOTTOM / height, (width - labels - _NUMBERS) / width, 1 - (_BOTTOM + _TOP) / height)
        axes = canvas.add_axes(box)
        _draw(axes, figure, sites)
        drawing = io.StringIO()
        canvas.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(drawing.getvalue(), prefix)


def _draw(axes: Axes, figure: Forest, sites: Sequence[str]) -> None:
    known = [row for row in figure.rows if _drawable(row, figure.x_log)]
    low, high = _range(known, float(figure.reference), figure.x_log)
    if figure.x_log:
        axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(len(figure.rows) - 0.4, -0.6)
    axes.axvline(float(figure.reference), color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=2)
    heaviest = max((row.weight or 0.0 for row in known), default=0.0) or 1.0
    for y, row in enumerate(figure.rows):
        if row.heading:
            # From the drawing's left edge over the whole width: no number stands in its row.
            axes.annotate(
                row.label,
                (0.01, y),
                xycoords=("figure fraction", "data"),
                va="center",
                fontsize=8.5,
                color=MUTED,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )
            continue
        axes.annotate(
            textwrap.shorten(row.label, width=int((_MOST_LABELS - 0.15) / _LETTER), placeholder=" …"),
            (0, y),
            xycoords=("axes fraction", "data"),
            xytext=(-8, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8.5,
            color=INK,
            fontweight="bold" if row.pooled else "normal",
        )
        axes.annotate(
            _words(row, figure.x_log),
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK if row.value is not None else MUTED,
        )
        if row in known:
            _mark(axes, row, y, sites, heaviest, (low, high))
    axes.set_xlabel(figure.x_label, fontsize=9.5, labelpad=4)
    axes.set_yticks([])
    axes.grid(True, axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, labelsize=8.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if figure.x_log:
        ticks = _log_ticks(low, high)
        axes.set_xticks(ticks)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))


def _mark(
    axes: Axes, row: ForestRow, y: int, sites: Sequence[str], heaviest: float, limits: tuple[float, float]
) -> None:
    assert row.value is not None
    low = max(row.low if row.low is not None else row.value, limits[0])
    high = min(row.high if row.high is not None else row.value, limits[1])
    if row.pooled:
        corners = [(low, y), (row.value, y - 0.26), (high, y), (row.value, y + 0.26)]
        axes.add_patch(Polygon(corners, closed=True, facecolor=INK, edgecolor=INK, zorder=4))
        return
    if row.interval_only:
        axes.hlines(y, low, high, color=INK, linewidth=1.4, linestyle=(0, (3, 2)), zorder=3)
        return
    colour = site_colour(row.site or row.label, sites)
    axes.hlines(y, low, high, color=colour, linewidth=1.3, zorder=3)
    size = 3.2 + 3.2 * math.sqrt((row.weight or 0.0) / heaviest)
    axes.plot([row.value], [y], marker="s", markersize=size, color=colour, linestyle="none", zorder=3.5)


def _drawable(row: ForestRow, log: bool) -> bool:
    return row.value is not None and math.isfinite(row.value) and (row.value > 0 or not log)


def _range(rows: Sequence[ForestRow], reference: float, log: bool) -> tuple[float, float]:
    """Room for all intervals, but for no more than five times the spread of the estimates: wide ones are cut."""
    values = [float(row.value) for row in rows if row.value is not None] + [reference]
    ends = [float(v) for row in rows for v in (row.low, row.high) if v is not None and (v > 0 or not log)] + values
    scale = math.log if log else float
    inner = max(map(scale, values)) - min(map(scale, values))
    room = 5 * max(inner, 0.02)
    low = max(min(map(scale, ends)), min(map(scale, values)) - room)
    high = min(max(map(scale, ends)), max(map(scale, values)) + room)
    air = 0.06 * (high - low) or 0.1
    return (math.exp(low - air), math.exp(high + air)) if log else (low - air, high + air)


def _log_ticks(low: float, high: float) -> list[float]:
    wanted = (
        [0.1, 0.2, 0.5, 0.8, 1, 1.25, 1.5, 2, 3, 5, 10]
        if high / low > 1.6
        else [round(0.05 * i, 2) for i in range(10, 41)]
    )
    inside = [tick for tick in wanted if low <= tick <= high]
    # Labels need room: ticks closer than an eighth of the axis give way to the one before.
    kept: list[float] = []
    for tick in inside:
        if not kept or math.log(tick / kept[-1]) >= math.log(high / low) / 8 or tick == 1:
            while kept and tick == 1 and math.log(tick / kept[-1]) < math.log(high / low) / 8:
                kept.pop()
            kept.append(tick)
    return kept


def _words(row: ForestRow, log: bool) -> str:
    if row.value is None:
        return "withheld"
    digits = 2 if log else 3
    if row.interval_only and row.low is not None and row.high is not None:
        return f"{row.low:.{digits}f} to {row.high:.{digits}f}"
    interval = "" if row.low is None or row.high is None else f" ({row.low:.{digits}f} to {row.high:.{digits}f})"
    return f"{row.value:.{digits}f}{interval}"
