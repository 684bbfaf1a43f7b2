"""Figures as SVG: one :class:`Figure` in, one ``<svg>`` element out, by matplotlib's object interface."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from server.report.sections import Figure, Series

# Okabe and Ito, "Color universal design" (2008), without yellow (faint on white) and black (kept for pooled).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, MUTED, GRID = "#1f2933", "#6b7785", "#e6eaee"
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.6)), (0, (1.4, 1.2)), (0, (6, 1.5, 1.4, 1.5)))

_WIDTH, _PLOT_HEIGHT, _SQUARISH_HEIGHT = 5.6, 3.05, 3.7
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.66, 0.16, 0.1, 0.47
_LEGEND_ROW = 0.205
_STYLE: dict[Any, Any] = {
    # Text stays text: it can be selected and searched, and the page's own typeface draws it.
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 9.0,
    "axes.edgecolor": "#9aa5b1",
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.labelcolor": INK,
}


def figure_svg(figure: Figure, *, sites: Sequence[str] = (), prefix: str = "f") -> str:
    """Draw a figure.

    Parameters
    ----------
    figure : what to draw; NaN and None leave gaps, a series without any number is named as withheld.
    sites : names of the run's sites in a fixed order: a site has one colour in all figures.
    prefix : unique within the page; keeps the identifiers of several drawings apart.

    Returns
    -------
    One ``<svg>`` element that needs nothing outside it. The same figure gives the same text.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": prefix}):
        columns = _legend_columns(figure.series)
        rows = math.ceil(len(figure.series) / columns) if _has_legend(figure) else 0
        # A diagonal is read by eye: it wants a frame near the square.
        plot = _SQUARISH_HEIGHT if figure.reference == "diagonal" else _PLOT_HEIGHT
        plot = _WIDTH - _LEFT - _RIGHT if figure.square else plot
        height = _TOP + plot + _BOTTOM + rows * _LEGEND_ROW + (0.06 if rows else 0)
        canvas = Canvas(figsize=(_WIDTH, height), facecolor="none")
        FigureCanvasSVG(canvas)
        box = (_LEFT / _WIDTH, 1 - (_TOP + plot) / height)
        axes = canvas.add_axes((*box, 1 - (_LEFT + _RIGHT) / _WIDTH, plot / height))
        handles = _draw(axes, figure, tuple(sites))
        if rows:
            canvas.legend(
                handles=handles,
                loc="lower left",
                bbox_to_anchor=(_LEFT / _WIDTH, 0.0),
                ncols=columns,
                frameon=False,
                fontsize=8.5,
                labelcolor=INK,
                handlelength=1.9,
                columnspacing=1.4,
                borderaxespad=0.2,
            )
        drawing = io.StringIO()
        canvas.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(drawing.getvalue(), prefix)


def site_colour(site: str, sites: Sequence[str]) -> str:
    """Return the colour a site has in every figure."""
    return PALETTE[list(sites).index(site) % len(PALETTE)] if site in sites else INK


def _has_legend(figure: Figure) -> bool:
    return len(figure.series) > 1 or any(series.label for series in figure.series)


def _legend_columns(series: Sequence[Series]) -> int:
    longest = max((len(_legend_label(s)) for s in series), default=1)
    # Inches: about 0.072 a letter, and 0.5 for the sample of the line and the space between columns.
    fit = int((_WIDTH - _LEFT - _RIGHT) / (0.072 * longest + 0.5))
    return max(1, min(fit, len(series), 4))


def _legend_label(series: Series) -> str:
    label = textwrap.shorten(series.label, width=66, placeholder=" …") or "value"
    return label if _any_number(series) else f"{label} (withheld)"


def _any_number(series: Series) -> bool:
    return bool(np.isfinite(_numbers(series.y)).any())


def _numbers(values: Sequence[float | None] | None) -> NDArray[np.float64]:
    found = np.array(
        [math.nan if v is None else float(v) for v in (() if values is None else values)], dtype=np.float64
    )
    return np.where(np.isfinite(found), found, np.nan)


def _is_emphasised(series: Series) -> bool:
    return series.emphasis or series.label.lower().startswith("pooled")


def _styles(series: Sequence[Series], sites: tuple[str, ...]) -> list[tuple[str, Any, float]]:
    """Return (colour, dashes, width) by series: sites keep theirs, others take what is left over."""
    named = [s.site if s.site in sites else _site_of(s.label, sites) for s in series]
    free = [c for c in PALETTE if c not in {site_colour(n, sites) for n in named if n}] or list(PALETTE)
    used: dict[str, int] = {}
    styles, spare = [], 0
    for one, site in zip(series, named, strict=True):
        if one.muted:
            colour = MUTED
        elif _is_emphasised(one) and site is None:
            colour = INK
        elif site is not None:
            colour = site_colour(site, sites)
        else:
            colour, spare = free[spare % len(free)], spare + 1
        styles.append((colour, DASHES[used.get(colour, 0) % len(DASHES)], 2.2 if _is_emphasised(one) else 1.5))
        used[colour] = used.get(colour, 0) + 1
    return styles


def _site_of(label: str, sites: tuple[str, ...]) -> str | None:
    """Return the site a label begins with or is, the longest match first; None where it names none."""
    for site in sorted(sites, key=len, reverse=True):
        if label == site or re.match(re.escape(site) + r"[^\w-]", label):
            return site
    return None


def _draw(axes: Axes, figure: Figure, sites: tuple[str, ...]) -> list[Line2D]:
    handles = []
    # A point counts only with both its numbers: a logarithmic axis of no drawn point above 0 has no scale.
    x_log = figure.x_log and any(
        ((x > 0) & np.isfinite(x) & np.isfinite(y)).any()
        for s in figure.series
        for x, y in [(_numbers(s.x), _numbers(s.y))]
        if x.size == y.size
    )
    if x_log:
        _log_axis(axes)
    shifts = _shifts(figure.series)
    for series, style, shift in zip(figure.series, _styles(figure.series, sites), shifts, strict=True):
        handles.append(_draw_series(axes, series, *style, shift))
    if not any(_any_number(series) for series in figure.series):
        axes.text(0.5, 0.5, "every value is withheld", transform=axes.transAxes, ha="center", color=MUTED)
    _ranges(axes, figure, x_log)
    _reference(axes, figure.reference)
    axes.set_xlabel(figure.x_label, fontsize=9.5, labelpad=4)
    axes.set_ylabel(figure.y_label, fontsize=9.5, labelpad=5)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    return handles


def _log_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _shifts(every: Sequence[Series]) -> list[float]:
    """Return how far each series is moved sideways, in points: points at one x would hide each other."""
    points = [i for i, series in enumerate(every) if series.style == "points"]
    x = [value for i in points for value in set(every[i].x)]
    if len(set(x)) == len(x):
        return [0.0] * len(every)
    return [3.6 * (points.index(i) - (len(points) - 1) / 2) if i in points else 0.0 for i in range(len(every))]


def _draw_series(axes: Axes, series: Series, colour: str, dashes: Any, width: float, shift_points: float) -> Line2D:
    x, y = _numbers(series.x), _numbers(series.y)
    low, high = _numbers(series.low), _numbers(series.high)
    banded = low.size == y.size == high.size and y.size > 0
    # Where the pooled curve lies on a site's, both can be seen only if the wide one is below.
    order = 3.0 if _is_emphasised(series) else 3.5
    common: dict[str, Any] = {"color": colour, "zorder": order, "label": _legend_label(series)}
    if series.style == "points":
        move = ScaledTranslation(shift_points / 72, 0, axes.figure.dpi_scale_trans)
        moved = axes.transData + move
        if banded:
            axes.vlines(x, low, high, color=colour, linewidth=1.1, zorder=order, transform=moved)
        # A point on the border is whole all the same.
        axes.plot(x, y, linestyle="none", marker="o", markersize=4.2, transform=moved, clip_on=False, **common)
        return Line2D([], [], linestyle="none", marker="o", markersize=4.2, **common)
    style: dict[str, Any] = {"linestyle": dashes, "linewidth": width, "solid_capstyle": "round"}
    step = series.style == "step"
    if banded:
        axes.fill_between(x, low, high, step="post" if step else None, color=colour, alpha=0.14, linewidth=0)
    # A number between two gaps is no line; a marker keeps it visible.
    marker = "o" if y.size <= 12 and not step else None
    axes.plot(x, y, drawstyle="steps-post" if step else "default", marker=marker, markersize=3, **style, **common)
    return Line2D([], [], **style, **common)


def _ranges(axes: Axes, figure: Figure, x_log: bool) -> None:
    every = np.concatenate([_numbers(s.x) for s in figure.series] or [np.empty(0)])
    every = every[np.isfinite(every)]
    if figure.x_range is not None and not (x_log and figure.x_range[0] <= 0):
        axes.set_xlim(*_padded(figure.x_range) if not x_log else figure.x_range)
    elif every.size and not x_log:
        axes.set_xlim(*_padded((float(every.min()), float(every.max()))))
    # Set rather than left to autoscale, which does not see points that were moved aside.
    heights = np.concatenate([_numbers(v) for s in figure.series for v in (s.y, s.low, s.high)] or [np.empty(0)])
    heights = heights[np.isfinite(heights)]
    if figure.y_range is not None:
        axes.set_ylim(*_padded(figure.y_range))
    elif heights.size:
        low, high = float(heights.min()), float(heights.max())
        air = 0.05 * (high - low) if high > low else 0.5
        axes.set_ylim(low - air, high + air)
    if not x_log and every.size and np.all(every == np.round(every)) and np.ptp(every) > 1:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))


def _padded(limits: tuple[float, float]) -> tuple[float, float]:
    """A little air, so that a curve along the border isn't cut in half."""
    low, high = limits
    air = 0.015 * (high - low) if high > low else 0.5
    return low - air, high + air


def _reference(axes: Axes, reference: Any) -> None:
    line: dict[str, Any] = {"color": MUTED, "linewidth": 1.0, "linestyle": (0, (4, 3)), "zorder": 2}
    if reference == "diagonal":
        # autoscale must not see it: the reference follows the data, not the other way round.
        x_limits, y_limits = axes.get_xlim(), axes.get_ylim()
        # On a logarithmic axis the diagonal is bent: many points, not two.
        along = (np.geomspace if axes.get_xscale() == "log" else np.linspace)(*x_limits, 200)
        axes.plot(along, along, **line)
        axes.set_xlim(x_limits)
        axes.set_ylim(y_limits)
    elif reference is not None:
        for level in reference if isinstance(reference, tuple) else (reference,):
            axes.axhline(float(level), **line)


def _inline(document: str, prefix: str) -> str:
    """Cut the XML prologue, take the fixed size away (the page scales it), and make identifiers unique."""
    svg = document[document.index("<svg") :]
    # Its stylesheet would reach the whole page; report.css says the same for figures alone.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) xmlns:xlink="[^"]*"', r"\1", svg, count=1).replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-").replace('href="#', f'href="#{prefix}-')
    # The page's typeface, not the one matplotlib measured with.
    svg = re.sub(r"font-family: ?[^;\"]+;?", "", svg)
    svg = re.sub(r"font: ?([0-9.]+px) [^;\"]+", r"font-size: \1", svg)
    return svg.strip()
