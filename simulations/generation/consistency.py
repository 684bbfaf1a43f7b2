"""Does a conditional VAE change leads as the physics does? New persons of its in-silico population, moved in both.

A person is recorded, with noise, as in the hospitals; heart and electrodes are measured with the scenario's errors, and
the model sees those. Then heart or electrodes are moved. The forward model gives the true change of the noiseless beat,
through the same filters; the model decodes with the conditions changed by as much and the latent held. Two ways: with
each person's own latent (this person, moved), and with latents drawn from the prior, averaged over people (what is
generated). Of every lead: correlation of the two changes over time, and the slope of the made on the true one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS
from ecgshared.errors import RunError
from ecgshared.models.config import BEAT_WINDOW_S
from ecgshared.service.files import write_atomically
from simulations.generation.checkpoint import Checkpoint, load_checkpoint
from simulations.generation.forward import MOVES, Cohort, Forward, Move, draw_cohort
from simulations.patients.scenario import load_scenario

if TYPE_CHECKING:
    from matplotlib.figure import Figure

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

LEAST_CHANGE_UV = 10.0
"""Root mean square over time below which a lead does not change: no correlation is told, only what is made."""


@dataclass(frozen=True)
class LeadChange:
    """One lead under one move. ``true_uv``, ``made_uv``: root mean square of the change, median over people."""

    move: str
    lead: str
    true_uv: float
    made_uv: float
    correlation: float | None
    slope: float | None


def compare(
    run: Path, scenario: str, *, step: str | None = None, people: int = 200, seed: int = 1, out: Path | None = None
) -> dict[str, list[LeadChange]]:
    """Run both ways, print a table and write ``consistency.json`` and ``consistency.png`` into ``out``.

    Raises
    ------
    ConfigError : the scenario has no imaging. RunError : the model knows none of the moved conditions.
    """
    checkpoint = load_checkpoint(run, step)
    world = load_scenario(scenario)
    moves = [move for move in MOVES if set(move.changes()) <= set(checkpoint.conditions)]
    if not moves:
        raise RunError("the model has no condition of heart or electrodes to move", where=checkpoint.path)
    cohort = draw_cohort(checkpoint, world, people, seed)
    base = Forward(cohort, world, checkpoint)
    true = {move.name: base.change(move) for move in moves}
    own = checkpoint.encode(cohort.beats, cohort.values)
    drawn = np.random.default_rng([seed, 2]).standard_normal(own.shape)
    made = {way: made_changes(checkpoint, cohort, z, moves) for way, z in (("own", own), ("drawn", drawn))}
    found = {
        "own": [row for move in moves for row in compared(move.name, true[move.name], made["own"][move.name])],
        "drawn": [
            row
            for move in moves
            for row in compared(
                move.name, true[move.name].mean(axis=0)[None], made["drawn"][move.name].mean(axis=0)[None]
            )
        ],
    }
    _show(found)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        text = {
            "model": {"step": checkpoint.step, "weights_sha256": checkpoint.sha256},
            "scenario": scenario,
            "people": people,
            "seed": seed,
            "summary": {way: summary(rows) for way, rows in found.items()},
            "leads": {way: [vars(row) for row in rows] for way, rows in found.items()},
        }
        write_atomically(out / "consistency.json", (json.dumps(text, indent=1) + "\n").encode())
        _figure(moves, true, made["drawn"], checkpoint.input.fs_hz).savefig(out / "consistency.png")
    return found


def summary(rows: list[LeadChange]) -> dict[str, float]:
    """Return medians over leads and moves, the share of leads within the bounds, and what unmoved leads do."""
    moved = [(row.correlation, row.slope) for row in rows if row.correlation is not None and row.slope is not None]
    still = [row.made_uv for row in rows if row.correlation is None]
    return {
        "leads": len(moved),
        "median_correlation": float(np.median([c for c, _ in moved])),
        "median_slope": float(np.median([s for _, s in moved])),
        "share_within": float(np.mean([c >= 0.9 and 0.75 <= s <= 1.25 for c, s in moved])),
        "unmoved_leads_made_uv": float(np.median(still)) if still else 0.0,
    }


def made_changes(checkpoint: Checkpoint, cohort: Cohort, z: F64, moves: list[Move]) -> dict[str, F32]:
    """Return the change of each decoded beat under each move, latent held, shape = (n, 12, W), mV."""
    base = checkpoint.decode(z, cohort.values)
    out = {}
    for move in moves:
        values = cohort.values.copy()
        for name, amount in move.changes().items():
            values[:, checkpoint.conditions.index(name)] += amount
        out[move.name] = checkpoint.decode(z, values) - base
    return out


def compared(move: str, true: F32, made: F32) -> list[LeadChange]:
    """Compare changes (n, 12, W): of each lead the medians over people of correlation and slope over time."""
    out = []
    for i, lead in enumerate(LEADS):
        a, b = true[:, i].astype(np.float64), made[:, i].astype(np.float64)
        power = (a**2).sum(axis=1)
        true_uv = 1000 * float(np.median(np.sqrt((a**2).mean(axis=1))))
        made_uv = 1000 * float(np.median(np.sqrt((b**2).mean(axis=1))))
        if true_uv < LEAST_CHANGE_UV:
            out.append(LeadChange(move, lead, true_uv, made_uv, None, None))
            continue
        x, y = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
        together = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
        correlation = float(np.median((x * y).sum(axis=1) / np.maximum(together, 1e-12)))
        slope = float(np.median((a * b).sum(axis=1) / power))
        out.append(LeadChange(move, lead, true_uv, made_uv, correlation, slope))
    return out


def _show(found: dict[str, list[LeadChange]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    titles = {"own": "Each person's own latent, medians over people", "drawn": "Latents drawn, mean over people"}
    for way, rows in found.items():
        table = Table("move", "leads", "change, uV", "correlation", "lowest", "slope", title=titles[way])
        for move in dict.fromkeys(row.move for row in rows):
            moved = [(r.true_uv, r.correlation, r.slope) for r in rows if r.move == move and r.correlation is not None]
            if not moved:
                continue
            size, correlation, slope = (np.array(column, dtype=np.float64) for column in zip(*moved, strict=True))
            table.add_row(
                *(move, str(len(moved)), f"{np.median(size):.0f}", f"{np.median(correlation):.2f}"),
                *(f"{correlation.min():.2f}", f"{np.median(slope):.2f}"),
            )
        console.print(table)
        s = summary(rows)
        console.print(
            f"over {s['leads']} leads that move: median correlation {s['median_correlation']:.3f}, median slope "
            f"{s['median_slope']:.2f}; {100 * s['share_within']:.0f}% of them correlate to 0.9 with a slope within "
            f"25%; leads that should not move change by {s['unmoved_leads_made_uv']:.1f} uV"
        )


def _figure(moves: list[Move], true: dict[str, F32], made: dict[str, F32], fs_hz: float) -> Figure:
    """Draw the mean change of every lead, one row a move."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [move for move in moves if "+" in move.name]
    figure = Figure(figsize=(16, 1.7 * len(shown) + 0.8), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(shown), 12, sharex=True, squeeze=False)
    t = BEAT_WINDOW_S[0] * 1000 + np.arange(next(iter(true.values())).shape[2]) * 1000 / fs_hz
    for first, row, move in zip([True] + [False] * len(shown), panels, shown, strict=False):
        a, b = 1000 * true[move.name].mean(axis=0), 1000 * made[move.name].mean(axis=0)
        limit = 1.1 * max(float(np.abs(a).max()), float(np.abs(b).max()), 20.0)
        for i, panel in enumerate(row):
            panel.plot(t, a[i], color="#9a9a9a", linewidth=1.8, label="forward model")
            panel.plot(t, b[i], color="#c0392b", linewidth=0.9, label="conditional VAE")
            panel.set_ylim(-limit, limit)
            panel.tick_params(labelsize=6, labelleft=i == 0)
            if first:
                panel.set_title(LEADS[i], fontsize=9)
        row[0].set_ylabel(move.name.replace(" about", "\nabout").replace(" in the", "\nin the") + "\nuV", fontsize=7)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    return figure
