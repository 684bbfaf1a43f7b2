"""The standard 12-lead sheet: A4 across, pink millimetre grid, 25 mm/s and 10 mm/mV to true scale when printed.

Three rows of four leads, 2.5 s each, and lead II as rhythm strip over 10 s. One sheet unit is one millimetre.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.record import EcgRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER_MM = (297.0, 210.0)
MM_PER_S, MM_PER_MV = 25.0, 10.0
COLUMNS, COLUMN_S, STRIP_S = 4, 2.5, 10.0

_GRID_MM = (10.0, 10.0, 285.0, 190.0)
"""Left, bottom, right and top of the grid: whole large squares."""

_TRACE_LEFT_MM = 30.0
_ROW_MM = (155.0, 115.0, 75.0, 35.0)
"""Height of each row's zero line; the last is the rhythm strip's."""

_MINOR, _MAJOR, _INK = "#f7d3d8", "#e8969f", "#101010"


def twelve_lead_sheet(record: EcgRecord, *, title: str = "") -> Figure:
    """Draw one record.

    A recording shorter than 10 s fills the later columns with its last 2.5 s, as the header line says; of a
    longer one the first 10 s are drawn. Each trace is drawn about its median, as a recorder centres it; a trace is
    cut at the grid's edge, never compressed.

    Returns
    -------
    matplotlib Figure, 297 x 210 mm. Save it without ``bbox_inches="tight"``, which would break the scale.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PAPER_MM[0] / 25.4, PAPER_MM[1] / 25.4), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, PAPER_MM[0]), ylim=(0, PAPER_MM[1]))
    axes.set_axis_off()
    _grid(axes)
    for row in range(3):
        _calibration(axes, _ROW_MM[row])
        for column in range(COLUMNS):
            _trace(axes, record, LEADS[column * 3 + row], row, column)
    _calibration(axes, _ROW_MM[3])
    _strip(axes, record)
    _header(axes, record, title)
    return figure


def _grid(axes: Axes) -> None:
    from matplotlib.collections import LineCollection

    left, bottom, right, top = _GRID_MM
    for step, color, width in ((1.0, _MINOR, 0.3), (5.0, _MAJOR, 0.5)):
        lines = [((x, bottom), (x, top)) for x in np.arange(left, right + step / 2, step)]
        lines += [((left, y), (right, y)) for y in np.arange(bottom, top + step / 2, step)]
        axes.add_collection(LineCollection(lines, colors=color, linewidths=width, zorder=0))


def _calibration(axes: Axes, zero_mm: float) -> None:
    """Draw 1 mV for 200 ms."""
    left = _TRACE_LEFT_MM - 12
    x = np.array([0.0, 2.5, 2.5, 7.5, 7.5, 10.0]) + left
    y = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0]) * MM_PER_MV + zero_mm
    axes.plot(x, y, color=_INK, linewidth=0.8, zorder=3)


def _trace(axes: Axes, record: EcgRecord, lead: str, row: int, column: int) -> None:
    last_start_s = max(0.0, min(record.seconds, STRIP_S) - COLUMN_S)
    start_s = min(column * COLUMN_S, last_start_s)
    left = _TRACE_LEFT_MM + column * COLUMN_S * MM_PER_S
    if column:
        tick = [_ROW_MM[row] - 2.5, _ROW_MM[row] + 2.5]
        axes.plot([left, left], tick, color=_INK, linewidth=0.6, zorder=3)
    _draw(axes, record, lead, start_s, COLUMN_S, left, _ROW_MM[row])


def _strip(axes: Axes, record: EcgRecord) -> None:
    _draw(axes, record, "II", 0.0, STRIP_S, _TRACE_LEFT_MM, _ROW_MM[3])


def _draw(
    axes: Axes, record: EcgRecord, lead: str, start_s: float, seconds: float, left: float, zero_mm: float
) -> None:
    from matplotlib.patches import Rectangle

    axes.text(left + 1.5, zero_mm + 13, lead, fontsize=10, fontweight="bold", color=_INK, zorder=4)
    whole = record.p_signal[LEADS.index(lead)]
    if not np.isfinite(whole).any():
        axes.text(left + 12, zero_mm + 13, "not recorded", fontsize=8, color=_INK, zorder=4)
        return
    first = round(start_s * record.fs)
    mv: NDArray[np.float32] = whole[first : first + round(seconds * record.fs) + 1] - np.nanmedian(whole)
    x = left + np.arange(len(mv)) * (MM_PER_S / record.fs)
    (line,) = axes.plot(x, zero_mm + mv * MM_PER_MV, color=_INK, linewidth=0.7, zorder=3)
    low_x, low_y, high_x, high_y = _GRID_MM
    frame = Rectangle((low_x, low_y), high_x - low_x, high_y - low_y, transform=axes.transData)
    line.set_clip_path(frame)


def _header(axes: Axes, record: EcgRecord, title: str) -> None:
    age = "age unknown"
    if record.age_years is not None:
        age = "age over 89" if record.age_capped else f"age {record.age_years:.0f}"
    sex = {"F": "female", "M": "male", None: "sex unknown"}[record.sex]
    parts = [title, age, sex, f"{record.fs:g} Hz", f"{record.seconds:.2f} s"]
    if record.recorded_at is not None:
        parts.append(f"{record.recorded_at:%Y-%m-%d %H:%M}")
    left, _, right, top = _GRID_MM
    axes.text(left, top + 12, "   ".join(part for part in parts if part), fontsize=11, color=_INK)
    scale = f"{MM_PER_S:g} mm/s   {MM_PER_MV:g} mm/mV   unfiltered"
    if record.seconds > STRIP_S + 0.5:
        scale += f"   first {STRIP_S:g} s"
    elif record.seconds < STRIP_S - 0.01:
        scale += "   short recording: later columns show its end"
    axes.text(left, top + 5, scale, fontsize=9, color=_INK)
    axes.text(right, top + 5, "not for diagnosis", fontsize=9, color=_INK, ha="right")
