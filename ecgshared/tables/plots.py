"""Pictures of a fit and of curves, as SVG or PNG by the name of the file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.errors import ConfigError
from ecgshared.tables.saved import write_beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ecgshared.tables.curves import GroupCurve

_COLOURS = ("#1f5a92", "#c2571a", "#2e7d4f", "#7b4a9e", "#8a6d1d", "#5f6b76")


def require_picture(path: Path) -> None:
    """Refuse a file that is neither SVG nor PNG, before anything is computed."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise ConfigError("a picture is SVG or PNG", value=str(path), allowed="a name that ends in .svg or .png")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _write(figure: Figure, path: Path) -> None:
    import matplotlib

    # The same picture gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "ecgfed", "svg.fonttype": "none"}):
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix.lower().lstrip("."), dpi=150, metadata=metadata)
    write_beside(path, picture.getvalue())


def forest(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw hazard ratios with their intervals on a log scale; ``rows`` as in the command's JSON."""
    from matplotlib.ticker import LogFormatter

    known = [row for row in rows if row["hazard_ratio_low"] is not None]
    figure = _figure(7.0, 1.2 + 0.36 * max(len(rows), 1))
    axes = figure.subplots()
    for i, row in enumerate(rows):
        ratio, low, high = (row[f"hazard_ratio{end}"] for end in ("", "_low", "_high"))
        axes.plot([ratio], [i], "s", color=_COLOURS[0], markersize=6)
        if low is not None and high is not None:
            axes.plot([low, high], [i, i], color=_COLOURS[0], linewidth=1.6)
            axes.annotate(
                f"{ratio:.2f} ({low:.2f} to {high:.2f})", (1.02, i), xycoords=("axes fraction", "data"), va="center"
            )
    axes.axvline(1.0, color="#555555", linewidth=0.8)
    axes.set_xscale("log")
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.6)))
    if known:
        ends = [row["hazard_ratio_low"] for row in known] + [row["hazard_ratio_high"] for row in known]
        axes.set_xlim(min(*ends, 0.9) / 1.1, max(*ends, 1.1) * 1.1)
    axes.set_yticks(range(len(rows)), [row["covariate"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("hazard ratio, 95% interval")
    _write(figure, path)


def hazards(names: Sequence[str], g: Floats, residuals: Floats, scale: str, path: Path) -> None:
    """Draw scaled Schoenfeld residuals and their running mean against the transformed time, one panel a covariate.

    ``g``: shape = (d,), of each death; ``residuals``: shape = (d, p), scaled, the coefficient added.
    """
    across = min(len(names), 3)
    down = -(-len(names) // across)
    figure = _figure(3.6 * across, 2.8 * down)
    order = np.argsort(g, kind="stable")
    width = max(len(g) // 6, 5)
    for j, axes in enumerate(np.atleast_1d(figure.subplots(down, across)).ravel()):
        if j >= len(names):
            axes.set_axis_off()
            continue
        axes.plot(g, residuals[:, j], ".", color=_COLOURS[0], alpha=0.35, markersize=4)
        window = np.ones(width) / width
        if len(g) >= width:
            mean = np.convolve(residuals[order, j], window, mode="valid")
            axes.plot(np.convolve(g[order], window, mode="valid"), mean, color=_COLOURS[1], linewidth=1.8)
        axes.axhline(residuals[:, j].mean(), color="#555555", linewidth=0.8, linestyle="--")
        axes.set_title(names[j], fontsize=9)
        axes.set_xlabel(scale)
    figure.supylabel("log hazard ratio over time")
    _write(figure, path)


def curves(groups: Sequence[GroupCurve], until: Floats, *, incidence: bool, path: Path) -> None:
    """Draw survival, or cumulative incidence, as steps with 95% bands up to the last follow-up of each group.

    ``until``: shape = (groups,), the last follow-up.
    """
    figure = _figure(7.0, 4.4)
    axes = figure.subplots()
    for i, group in enumerate(groups):
        colour = _COLOURS[i % len(_COLOURS)]
        c = group.curve
        at = np.concatenate([[0.0], c.time, [until[i]]])
        values = [
            np.concatenate([[start], v, v[-1:]]) for start, v in ((0.0, c.risk), (np.nan, c.low), (np.nan, c.high))
        ]
        risk, low, high = values if incidence else [1 - v for v in values]
        label = f"{group.label}: {group.rows} rows, {group.events} events" if group.label else f"{group.events} events"
        axes.step(at, risk, where="post", color=colour, linewidth=1.6, label=label)
        axes.fill_between(at, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.set_xlabel("time")
    axes.set_ylabel("cumulative incidence" if incidence else "free of the event")
    axes.legend(frameon=False)
    _write(figure, path)
