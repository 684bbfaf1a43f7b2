"""Made beats on disk: WFDB records whose headers say that nobody was recorded, and figures of twelve leads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS
from ecgshared.errors import RunError
from ecgshared.models.config import BEAT_WINDOW_S
from simulations.generation.checkpoint import Checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SYNTHETIC = "SYNTHETIC: made by a model. Not recorded from any person. Not for diagnosis."
_UNITS_PER_MV = 1000


@dataclass(frozen=True)
class Curve:
    """One beat of a figure: (12, W) mV, its legend, and its colour (a number from 0 to 1 along a scale, or a name)."""

    beat: F32
    label: str
    colour: float | str


def write_beats(folder: Path, checkpoint: Checkpoint, names: Sequence[str], beats: F32, values: F64, note: str) -> None:
    """Write each beat (n, 12, W) as a WFDB record of its conditions (n, C); ``note`` says how it was made.

    Raises
    ------
    RunError : a record of that name stands there already, or the folder cannot be written.
    """
    from wfdb import wrsamp

    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = [name for name in names if (folder / f"{name}.hea").exists()]
        if taken:
            raise RunError("already holds records of these names", where=folder, value=taken[0], remedy="another --out")
        for name, beat, row in zip(names, beats, values, strict=True):
            wrsamp(
                name,
                fs=checkpoint.input.fs_hz,
                units=["mV"] * 12,
                sig_name=list(LEADS),
                p_signal=beat.T.astype(np.float64),
                fmt=["16"] * 12,
                adc_gain=[_UNITS_PER_MV] * 12,
                baseline=[0] * 12,
                comments=header_lines(checkpoint, row, note),
                write_dir=str(folder),
            )
    except OSError as error:
        raise RunError(f"cannot be written ({error.strerror})", where=folder) from None


def header_lines(checkpoint: Checkpoint, values: F64, note: str) -> list[str]:
    """Return the comment lines of a made beat's header."""
    given = dict(zip(checkpoint.conditions, values, strict=True))
    lines = [
        SYNTHETIC,
        f"Made: {note}",
        f"Model: step {checkpoint.step}, weights sha256 {checkpoint.sha256}",
        f"Window: one median beat, {BEAT_WINDOW_S[0]:g} to {BEAT_WINDOW_S[1]:g} s about the middle of QRS",
    ]
    if np.isfinite(given.get("age", np.nan)):
        lines.append(f"Age: {given['age']:.0f}")
    if np.isfinite(given.get("male", np.nan)) and given["male"] in (0.0, 1.0):
        lines.append(f"Sex: {'Male' if given['male'] else 'Female'}")
    lines += [
        f"Condition {name}: {'not known' if not np.isfinite(value) else f'{value:.4g}'}"
        for name, value in given.items()
        if name not in ("age", "male")
    ]
    return lines


def twelve_panels(curves: Sequence[Curve], fs_hz: float, title: str, scale: tuple[float, float, str] | None) -> Figure:
    """Draw beats over each other, a panel a lead.

    Parameters
    ----------
    scale : ends and name of the colour scale, where curves have numbers for colours.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.7, 8.3), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, 4, sharex=True, sharey=True)
    colours = colormaps["viridis"]
    samples = curves[0].beat.shape[1]
    t = BEAT_WINDOW_S[0] * 1000 + np.arange(samples) * 1000 / fs_hz
    for i, lead in enumerate(LEADS):
        panel = panels[i % 3, i // 3]
        for curve in curves:
            colour = curve.colour if isinstance(curve.colour, str) else colours(0.05 + 0.9 * curve.colour)
            # Many beats without a legend of their own stand for their spread.
            faint = isinstance(curve.colour, str) and not curve.label
            panel.plot(t, curve.beat[i], color=colour, linewidth=0.5 if faint else 0.9, label=curve.label)
        panel.set_title(lead, loc="left", fontsize=10, fontweight="bold", pad=2)
        panel.grid(color="#e8e8e8", linewidth=0.6)
        panel.tick_params(labelsize=8)
        if i % 3 == 2:
            panel.set_xlabel("ms from the middle of QRS", fontsize=8)
        if i < 3:
            panel.set_ylabel("mV", fontsize=8)
    figure.suptitle(title, fontsize=11)
    labels = dict.fromkeys(curve.label for curve in curves if curve.label)
    if scale is not None:
        low, high, name = scale
        mappable = ScalarMappable(Normalize(low, high), colours)
        figure.colorbar(mappable, ax=panels, shrink=0.6, pad=0.01).set_label(name, fontsize=9)
    elif labels:
        handles, texts = panels[0, 0].get_legend_handles_labels()
        first = {text: handle for handle, text in zip(handles[::-1], texts[::-1], strict=True)}
        figure.legend([first[label] for label in labels], list(labels), loc="outside lower center", ncols=4, fontsize=9)
    figure.text(0.995, 0.995, "synthetic, not for diagnosis", ha="right", va="top", fontsize=8, color="#a00000")
    return figure
