"""Two circles that overlap as two groups of ECGs do: areas are their shares, so that the eye reads what they share."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Circle
from scipy.optimize import brentq

from server.report.figures import _STYLE, INK, MUTED, PALETTE, _inline
from server.report.sections import Figure

_WIDTH, _HEIGHT = 5.6, 3.1


@dataclass(frozen=True)
class Venn(Figure):
    """A figure drawn by :func:`venn_svg`.

    Attributes
    ----------
    names : of the two groups. shares : of all ECGs, in the first, the second, and both.
    texts : lines that stand in the first alone, in both, in the second alone.
    around : lines about everybody else.
    """

    names: tuple[str, str] = ("", "")
    shares: tuple[float, float, float] = (0.0, 0.0, 0.0)
    texts: tuple[Sequence[str], Sequence[str], Sequence[str]] = ((), (), ())
    around: Sequence[str] = ()


def overlap_area(r: float, s: float, d: float) -> float:
    """Return the area that circles of radius ``r`` and ``s``, centres ``d`` apart, have in common."""
    if d >= r + s:
        return 0.0
    if d <= abs(r - s):
        return math.pi * min(r, s) ** 2
    a = r**2 * math.acos((d**2 + r**2 - s**2) / (2 * d * r))
    b = s**2 * math.acos((d**2 + s**2 - r**2) / (2 * d * s))
    return a + b - 0.5 * math.sqrt((-d + r + s) * (d + r - s) * (d - r + s) * (d + r + s))


def circles(first: float, second: float, both: float) -> tuple[float, float, float]:
    """Return both radii and the distance of the centres at which areas are in proportion; of areas, not percent."""
    r, s = math.sqrt(first / math.pi), math.sqrt(second / math.pi)
    if both <= 0:
        return r, s, (r + s) * 1.06
    if both >= min(first, second) * (1 - 1e-9):
        return r, s, abs(r - s)
    return r, s, float(brentq(lambda d: overlap_area(r, s, d) - both, abs(r - s), r + s))


def venn_svg(figure: Venn, *, prefix: str = "f") -> str:
    """Draw the circles as one ``<svg>`` element; see :func:`server.report.figures.figure_svg`."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": prefix}):
        canvas = Canvas(figsize=(_WIDTH, _HEIGHT), facecolor="none")
        FigureCanvasSVG(canvas)
        axes = canvas.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_xlim(0, _WIDTH)
        axes.set_ylim(0, _HEIGHT)
        axes.set_axis_off()
        r, s, d = circles(*figure.shares)
        # As large as height and the text on either side allow.
        scale = min((_HEIGHT - 1.15) / 2 / max(r, s), (_WIDTH - 2.4) / (r + s + d))
        r, s, d = r * scale, s * scale, d * scale
        left = (_WIDTH - (r + d + s)) / 2 + r
        middle = 0.6 + (_HEIGHT - 1.15) / 2
        for x, radius, colour in ((left, r, PALETTE[1]), (left + d, s, PALETTE[0])):
            axes.add_patch(Circle((x, middle), radius, facecolor=colour, alpha=0.25, edgecolor=colour, linewidth=1.2))
        edges = (left - r, left + d + s)
        lens = (max(left - r, left + d - s) + min(left + r, left + d + s)) / 2
        for line, colour in enumerate((PALETTE[1], PALETTE[0])):
            axes.text(0.05, _HEIGHT - 0.05 - 0.19 * line, figure.names[line], va="top", color=colour, fontsize=9)
        only = ((left - r + (left + d - s)) / 2, (left + r + left + d + s) / 2)
        places = ((only[0], edges[0] - 0.12, "right"), (only[1], edges[1] + 0.12, "left"))
        for lines, (inside, outside, side), room in zip(
            (figure.texts[0], figure.texts[2]), places, (left + d - s - edges[0], edges[1] - left - r), strict=True
        ):
            fits = room > 0.085 * max((len(line) for line in lines), default=0)
            x, where = (inside, "center") if fits else (outside, side)
            axes.text(x, middle, "\n".join(lines), ha=where, va="center", color=INK, fontsize=8.5)
        if figure.shares[2] > 0 and figure.texts[1]:
            low = middle - max(r, s) - 0.12
            axes.plot([lens, lens], [middle, low], color=MUTED, linewidth=0.8)
            axes.plot([lens], [middle], marker="o", markersize=3, color=MUTED)
            axes.text(lens, low - 0.03, ", ".join(figure.texts[1]), ha="center", va="top", color=INK, fontsize=8.5)
        axes.text(_WIDTH - 0.05, 0.04, "  ".join(figure.around), ha="right", va="bottom", color=MUTED, fontsize=8)
        drawing = io.StringIO()
        canvas.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(drawing.getvalue(), prefix)


def percent(value: float | None) -> str:
    """Return a share in percent, or that it is withheld."""
    return "withheld" if value is None or not np.isfinite(value) else f"{100 * value:.1f}%"
