"""New persons of an in-silico population, recorded and measured as in its hospitals; and moved, by the forward model.

A move changes where the heart lies, how it is turned, or where V1 and V2 sit; the noiseless beat before and after,
through a model's own filters, is what the physics says it does: that of the scenario's hearts, sums of Gaussian waves
or tissue. A model shaped on one of them can so be held against the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.dataset.median_beats import window_of
from ecgshared.ecg.beats import median_beat
from ecgshared.ecg.preprocess import preprocess
from ecgshared.errors import ConfigError, RunError
from ecgshared.models.config import BEAT_WINDOW_S
from simulations.generation.checkpoint import Checkpoint
from simulations.hospitals.make import make_patients
from simulations.patients.activation import bodies_of, record_activation, regular_leads
from simulations.patients.ailments import healthy_states
from simulations.patients.fates import solve_baseline
from simulations.patients.imaging import measured_anatomy, true_anatomy
from simulations.patients.recording import place_electrodes, record_ecgs
from simulations.patients.scenario import HospitalConfig, Scenario
from simulations.physics.body import heart_of
from simulations.physics.disease import People
from simulations.physics.heart import dipole, regular_rhythm
from simulations.physics.torso import ELECTRODES, Anatomy, project, twelve
from simulations.physics.traits import NAMES, Traits

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_CHUNK = 64
_AXES = ("left", "posterior", "superior")
_TURNS = ("frontal", "vertical", "tilt")


@dataclass(frozen=True)
class Move:
    """A move of everybody: of the heart by degrees (frontal, vertical, tilt) or cm (left, posterior, superior), or of
    V1 and V2 upwards by cm."""

    name: str
    turn_deg: tuple[float, float, float] = (0, 0, 0)
    shift_cm: tuple[float, float, float] = (0, 0, 0)
    v1_v2_cm: float = 0

    def changes(self) -> dict[str, float]:
        """Return what it adds to the conditions, by column."""
        named = {f"heart_{turn}_deg": value for turn, value in zip(_TURNS, self.turn_deg, strict=True)}
        named |= {f"heart_{axis}_cm": value for axis, value in zip(_AXES, self.shift_cm, strict=True)}
        named |= {f"electrode_{name}_superior_cm": self.v1_v2_cm for name in ("V1", "V2")}
        return {name: value for name, value in named.items() if value}


MOVES: tuple[Move, ...] = (
    *(Move(f"heart turned about the vertical {d:+g} deg", turn_deg=(0, d, 0)) for d in (-20, 20)),
    *(Move(f"heart turned in the frontal plane {d:+g} deg", turn_deg=(d, 0, 0)) for d in (-20, 20)),
    *(Move(f"heart tilted {d:+g} deg", turn_deg=(0, 0, d)) for d in (-20, 20)),
    *(Move(f"heart to the left {d:+g} cm", shift_cm=(d, 0, 0)) for d in (-1, 1)),
    *(Move(f"heart to the back {d:+g} cm", shift_cm=(0, d, 0)) for d in (-1, 1)),
    *(Move(f"heart up {d:+g} cm", shift_cm=(0, 0, d)) for d in (-1, 1)),
    *(Move(f"V1 and V2 up {d:+g} cm", v1_v2_cm=d) for d in (2, 4)),
)


@dataclass(frozen=True)
class Cohort:
    """Persons as they are and as they are measured: ``beats`` recorded (n, 12, W), ``values`` conditions (n, C)."""

    people: People
    anatomy: Anatomy
    electrodes_cm: F64
    beats: F32
    values: F64


def draw_cohort(checkpoint: Checkpoint, world: Scenario, people: int, seed: int) -> Cohort:
    """Draw persons whom no hospital of the scenario has seen, record them once and measure them."""
    name, hospital = _hospital(world)
    if hospital.imaging is None:
        raise ConfigError("this scenario measures no anatomy", value=world.name, allowed="one with `imaging`")
    rng = np.random.default_rng([world.seed, 10_000 + seed])
    made = make_patients(rng, name, hospital, world, solve_baseline(world), people)
    # The first ECG of each person.
    first = np.unique(made.person, return_index=True)[1]
    person, table = made.person[first], made.table.iloc[first].reset_index(drop=True)
    electrodes = place_electrodes(rng, hospital.habits, len(person))
    found = measured_anatomy(rng, made.people, person, electrodes, hospital.imaging, world)
    table = pd.concat([table, found], axis=1)
    who = made.people.rows(person, made.people.age[person] + made.at_years[first])
    beats, known = _recorded(rng, who, electrodes, hospital, world, checkpoint)
    values = _conditions(checkpoint, table)
    who = who.rows(np.flatnonzero(known), who.age[known])
    return Cohort(who, true_anatomy(who, world), electrodes[known], beats, values[known])


def _hospital(world: Scenario) -> tuple[str, HospitalConfig]:
    names = list(world.hospitals)
    chosen = next((name for name in names if not world.hospitals[name].trains), names[0])
    return chosen, world.hospitals[chosen]


def _recorded(
    rng: np.random.Generator,
    people: People,
    electrodes: F64,
    hospital: HospitalConfig,
    world: Scenario,
    checkpoint: Checkpoint,
) -> tuple[F32, NDArray[np.bool_]]:
    """Return the median beats of those whose recording shows one, and who they are."""
    device, settings = hospital.devices[0], checkpoint.input
    n = len(people.age)
    beats: list[F32] = []
    known = np.zeros(n, dtype=bool)
    for start in range(0, n, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n))
        who = people.rows(rows, people.age[rows])
        calm = np.zeros(len(rows), dtype=bool)
        where = (hospital, device, world.waveform, settings.seconds, electrodes[rows])
        if world.heart == "activation":
            signals = record_activation(rng, who, healthy_states(len(rows)), *where, world.heart_scatter)
        else:
            signals = record_ecgs(rng, who, calm, *where, world.physique)
        for row, signal in zip(rows, preprocess(signals, float(device.fs_hz), settings), strict=True):
            beat = window_of(signal, settings.fs_hz)
            if beat is not None:
                beats.append(beat)
                known[row] = True
    return np.stack(beats), known


def _conditions(checkpoint: Checkpoint, table: pd.DataFrame) -> F64:
    columns = {name: table[name] for name in checkpoint.conditions if name in table}
    columns["male"] = (table["sex"] == "M").astype(np.float64)
    blank = pd.Series(np.full(len(table), np.nan))
    return np.column_stack([columns.get(name, blank).to_numpy(dtype=np.float64) for name in checkpoint.conditions])


class Forward:
    """The noiseless beats of a cohort, as it is and moved, through the model's filters."""

    def __init__(self, cohort: Cohort, world: Scenario, checkpoint: Checkpoint) -> None:
        self._cohort, self._settings, self._world = cohort, checkpoint.input, world
        n = len(cohort.people.age)
        if world.heart == "gaussians":
            steady = regular_rhythm(np.full(n, 60.0, dtype=np.float32), self._settings.seconds)
            heart = heart_of(cohort.people, world.waveform, world.physique)
            self._waves = dipole(heart, steady, fs=self._settings.fs_hz, seconds=self._settings.seconds)
        self._centre = np.zeros(n, dtype=np.int64)
        base = self._signals(Move("still"))
        for i, signal in enumerate(base):
            beat = median_beat(signal, self._settings.fs_hz)
            if beat is None:
                raise RunError("a noiseless recording shows no beats", value=i)
            self._centre[i] = beat.qrs[len(beat.qrs) // 2]
        self.base = self._cut(base)

    def change(self, move: Move) -> F32:
        """Return moved minus unmoved beats, shape = (n, 12, W), mV, cut at the same instants."""
        return self._cut(self._signals(move)) - self.base

    def _signals(self, move: Move) -> F32:
        electrodes = self._cohort.electrodes_cm.copy()
        electrodes[:, [ELECTRODES.index("V1"), ELECTRODES.index("V2")], 2] += move.v1_v2_cm
        made = self._tissue if self._world.heart == "activation" else self._gaussians
        leads = twelve(made(move, electrodes))
        parts = [
            preprocess(leads[start : start + _CHUNK], self._settings.fs_hz, self._settings)
            for start in range(0, len(leads), _CHUNK)
        ]
        return np.concatenate(parts)

    def _gaussians(self, move: Move, electrodes: F64) -> F32:
        anatomy = self._cohort.anatomy
        moved = replace(
            anatomy,
            turn_rad=anatomy.turn_rad + np.deg2rad(move.turn_deg),
            heart_cm=anatomy.heart_cm + np.array(move.shift_cm),
        )
        return project(self._waves, moved, electrodes)

    def _tissue(self, move: Move, electrodes: F64) -> F32:
        people, n = self._cohort.people, len(electrodes)
        held = (people, healthy_states(n), self._world.waveform, electrodes, np.zeros(n), self._world.heart_scatter)
        bodies = bodies_of(*held)
        values = bodies.traits.values.copy()
        for name, by in zip(("left", "back", "up"), move.shift_cm, strict=True):
            values[:, NAMES.index(name)] += by
        for name, by in zip(_TURNS, np.deg2rad(move.turn_deg), strict=True):
            values[:, NAMES.index(name)] += by
        moved = replace(bodies, traits=Traits(values))
        fs, seconds = self._settings.fs_hz, self._settings.seconds
        chunks = [np.arange(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]
        return np.concatenate([regular_leads(moved.rows(rows), fs, seconds) for rows in chunks])

    def _cut(self, signals: F32) -> F32:
        fs = self._settings.fs_hz
        before, after = round(-BEAT_WINDOW_S[0] * fs), round(BEAT_WINDOW_S[1] * fs)
        beats = np.stack([x[:, c - before : c + after] for x, c in zip(signals, self._centre, strict=True)])
        # The level before QRS, as of a median beat.
        level = beats[:, :, before - round(0.09 * fs) : before - round(0.06 * fs)].mean(axis=2, keepdims=True)
        return np.asarray(beats - level)
