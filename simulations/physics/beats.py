"""Beats of n hearts in n chests: from traits, ailments and fibrosis to what eight leads see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.physics.conduction import (
    Ailments,
    activation_ms,
    durations_ms,
    focus_ms,
    onsets_ms,
    plateau_lack,
    region_strengths,
    rest_ms,
)
from simulations.physics.cycle import (
    EARLY_STEPS,
    LATE_STEPS,
    RepolarisationShape,
    Waves,
    atrial_waves,
    region_fields,
    ventricular_waves,
)
from simulations.physics.fronts import LED, NAMES, PURKINJE, Fronts, atrial_fronts, ventricular_fronts
from simulations.physics.tissue import SCARS, Scar, ventricles
from simulations.physics.torso import REFERENCE_HEART_CM, Anatomy
from simulations.physics.traits import Traits

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

APART = 0.9
"""How far apart the leads see the regions of a heart, against an empty chest."""
RIGHT_APEX = NAMES.index("right apex")


@dataclass(frozen=True)
class Bodies:
    """n hearts with what ails them, in their chests.

    ``fibrosis``: array, shape = (n,). ``own``: array, shape = (n, 3), standard normal: where a person's fibrosis lies.
    ``electrodes_cm``: array, shape = (n, 10, 3). ``depth``: array, shape = (n,), of breathing.
    """

    traits: Traits
    ailments: Ailments
    fibrosis: F64
    own: F64
    electrodes_cm: F64
    depth: F64

    def rows(self, index: I64) -> Bodies:
        """Return some of them, in any order."""
        a = self.ailments
        ailments = Ailments(a.block[index], a.scar[index], a.hypertrophy[index], a.paced[index])
        rest = (part[index] for part in (self.fibrosis, self.own, self.electrodes_cm, self.depth))
        return Bodies(Traits(self.traits.values[index]), ailments, *rest)


def chest_of(traits: Traits) -> Anatomy:
    """Return where the ventricles lie; the strength of their sources is told apart."""
    return Anatomy(
        REFERENCE_HEART_CM + traits.stack("left", "back", "up"),
        traits.stack("frontal", "vertical", "tilt"),
        np.ones(len(traits)),
        np.exp(traits.stack(*(f"v{i}" for i in range(1, 7)))),
    )


@dataclass(frozen=True)
class Reached:
    """Hearts of one scar whose ventricles are led alike: their rows, and when each voxel is reached, (rows, N), ms."""

    rows: I64
    scar: Scar
    fronts: Fronts
    activation_ms: F32


def activation_of(bodies: Bodies, focus: I64 | None = None) -> list[Reached]:
    """Return when each voxel of each heart is reached.

    Parameters
    ----------
    focus : int array, shape = (n,): a beat of each heart from there, an index into :data:`fronts.NAMES`; None: by the
        fascicles, or by the pacemaker.
    """
    n, ailments = len(bodies.fibrosis), bodies.ailments
    onset = np.full((n, len(NAMES)), np.inf, dtype=np.float32)
    onset[:, PURKINJE] = onsets_ms(bodies.traits, ailments, bodies.fibrosis)
    led = np.where(ailments.block[:, 0], "right", np.where(ailments.block[:, 1], "left", "both")).astype(object)
    if focus is not None:
        onset, led = focus_ms(n, focus), np.full(n, "neither", dtype=object)
    elif ailments.paced.any():
        paced = int(ailments.paced.sum())
        onset[ailments.paced] = focus_ms(paced, np.full(paced, RIGHT_APEX))
        led[ailments.paced] = "neither"
    slow, found = np.exp(bodies.traits["slow"]), []
    for scar in SCARS:
        for way in LED:
            rows = np.flatnonzero((ailments.scar == scar) & (led == way))
            if len(rows):
                fronts = ventricular_fronts(scar, way)
                reached = activation_ms(
                    fronts, onset[rows], slow[rows], bodies.fibrosis[rows], bodies.own[rows], ailments.hypertrophy[rows]
                )
                found.append(Reached(rows, scar, fronts, reached))
    return found


def ventricular_beats(bodies: Bodies, focus: I64 | None = None) -> Waves:
    """Return QRS, ST and T of each heart's own beat, or of one from a focus; see :func:`activation_of`."""
    n, traits = len(bodies.fibrosis), bodies.traits
    chest, centres = chest_of(traits), ventricles().centres_cm()
    fields = region_fields(chest, bodies.electrodes_cm, centres, apart=APART, depth=bodies.depth)
    strengths = region_strengths(traits, bodies.ailments.hypertrophy)
    fields = (fields * np.repeat(strengths, 3, axis=1)[:, None, :]).astype(np.float32)
    out = Waves(np.empty((n, 16, EARLY_STEPS), np.float32), np.empty((n, 16, LATE_STEPS), np.float32))
    for part in activation_of(bodies, focus):
        some, tissue = Traits(traits.values[part.rows]), part.fronts.tissue
        waves = ventricular_waves(
            part.fronts.sources,
            fields[part.rows],
            part.activation_ms,
            durations_ms(some, tissue, rest_ms(part.scar)),
            plateau_lack(some, tissue),
            RepolarisationShape(np.exp(some["t_rise"]), np.exp(some["t_fall"])),
        )
        out.early[part.rows], out.late[part.rows] = waves.early, waves.late
    return out


def atrial_fields(bodies: Bodies) -> F32:
    """Return what eight leads see of both atria, at held breath and per breath, shape = (n, 16, 6)."""
    traits, tissue = bodies.traits, atrial_fronts().tissue
    chest = chest_of(traits)
    # The atria hang on the great vessels: they follow the ventricles' place, and have a turn of their own.
    turn = 0.3 * chest.turn_rad + traits.stack("p_frontal", "p_vertical", "p_tilt")
    chest = Anatomy(chest.heart_cm, turn, chest.scale, chest.chest_gain)
    fields = region_fields(chest, bodies.electrodes_cm, tissue.centres_cm(), apart=APART, depth=bodies.depth)
    strength = np.exp(traits["p_size"][:, None] + np.stack([0 * traits["p_left"], traits["p_left"]], axis=1))
    return np.asarray(fields * np.repeat(strength, 3, axis=1)[:, None, :], dtype=np.float32)


def atrial_beats(bodies: Bodies, start: int = 0) -> Waves:
    """Return the P wave of each heart; ``start`` is a row of the atria's fronts: sinus node, low right, left."""
    traits, fronts = bodies.traits, atrial_fronts()
    reached = np.exp(traits["p_slow"])[:, None].astype(np.float32) * fronts.delay_ms[start][None]
    return atrial_waves(fronts.sources, atrial_fields(bodies), reached, traits["p_ta"])
