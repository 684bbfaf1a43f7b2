"""Make a scenario's hospitals on disk: streamed in chunks over all cores, one hospital after another, memory flat.

Layout: ``sites/<name>/{site.yaml, cohort.csv, records/}`` is all a hospital holds; ``truth/<name>.csv`` lies
apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgshared.errors import ConfigError, RunError, StatisticsError
from ecgshared.service.processes import in_processes
from simulations.hospitals.exports import RECORDS_FOLDER, quantise, write_record, write_site, write_table
from simulations.hospitals.formats.header import Header
from simulations.patients.activation import record_activation
from simulations.patients.ailments import States, draw_states
from simulations.patients.clinical import APART, clinical_columns
from simulations.patients.cohort import Hospital, make_cohort
from simulations.patients.fates import solve_baseline
from simulations.patients.imaging import measured_anatomy
from simulations.patients.recording import place_electrodes, record_ecgs
from simulations.patients.scenario import DeviceConfig, HospitalConfig, Scenario
from simulations.patients.series import make_series
from simulations.physics.body import Physique
from simulations.physics.disease import People, WaveformEffects

CHUNK = 64
"""ECGs rendered at once: a few dozen MB."""

PARALLEL_FROM = 1000
"""Below so many ECGs of a hospital the start of further processes costs more than they save."""

Progress = Callable[[str, int, int], None]
"""Called with hospital, ECGs done, ECGs in all."""


@dataclass(frozen=True)
class Made:
    """What was made, per hospital: patients, ECGs, and ECGs followed by the event."""

    out: Path
    patients: dict[str, int]
    ecgs: dict[str, int]
    events: dict[str, int]


def make_hospitals(
    scenario: Scenario,
    out: Path,
    seed: int | None = None,
    patients_scale: float | None = None,
    progress: Progress | None = None,
    processes: int | None = None,
) -> Made:
    """Write every hospital of a scenario below ``out``. The same scenario and seed give the same bytes.

    Parameters
    ----------
    seed : overrides the scenario's.
    patients_scale : multiplies every hospital's number of patients.
    processes : that render and write ECGs; None takes as many as there are cores. The bytes are the same.

    Raises
    ------
    RunError : ``out`` already holds hospitals.
    ConfigError : a scale that leaves a hospital without patients.
    """
    if any((out / part).exists() for part in ("sites", "truth")):
        raise RunError("already holds hospitals", where=out, remedy="choose another folder, or delete this one")
    seed = scenario.seed if seed is None else seed
    scale = 1.0 if patients_scale is None else patients_scale
    if seed < 0 or not scale > 0:
        raise ConfigError("seed and scale must be positive", value={"seed": seed, "scale": scale})
    log_baseline = solve_baseline(scenario)
    (out / "truth").mkdir(parents=True)
    counts: dict[str, tuple[int, int, int]] = {}
    for number, (name, config) in enumerate(scenario.hospitals.items()):
        patients = max(round(config.population.patients * scale), 1)
        cohort = make_patients(np.random.default_rng([seed, number, 0]), name, config, scenario, log_baseline, patients)
        folder = out / "sites" / name
        records = folder / RECORDS_FOLDER
        states = _states(seed, number, cohort, config, scenario)
        table = _write_records(seed, number, name, cohort, states, config, scenario, records, progress, processes)
        write_table(folder, table, config.table)
        series = config.series is not None
        write_site(folder, name, table.columns, config.table, config.suffix, case_control=series)
        truth = cohort.truth if states is None else cohort.truth.assign(**_true_hearts(states.rows(cohort.person)))
        truth.to_csv(out / "truth" / f"{name}.csv", index=False, float_format="%.8g", lineterminator="\n")
        counts[name] = (patients, len(table), int(cohort.truth["true_scd_event"].sum()))
    first, second, third = ({name: row[i] for name, row in counts.items()} for i in range(3))
    return Made(out, first, second, third)


def make_patients(
    rng: np.random.Generator,
    name: str,
    config: HospitalConfig,
    scenario: Scenario,
    log_baseline: float,
    patients: int,
) -> Hospital:
    """Draw a hospital's patients, a cohort or a case-control series, without any recording."""
    if config.series is not None:
        return make_series(rng, name, config, config.series, scenario, log_baseline, patients)
    return make_cohort(rng, name, config, scenario, log_baseline, patients)


def _used(
    seed: int, number: int, cohort: Hospital, config: HospitalConfig
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the device of each ECG, and who fibrillates."""
    rng = np.random.default_rng([seed, number, 1])
    shares = np.array([device.share for device in config.devices])
    device_of = rng.choice(len(shares), size=len(cohort.person), p=shares / shares.sum())
    return device_of, rng.random(len(cohort.people.age)) < config.population.af_share


def _states(seed: int, number: int, cohort: Hospital, config: HospitalConfig, scenario: Scenario) -> States | None:
    """Return what ails each person's heart; None where the scenario's hearts are not made of tissue."""
    if scenario.heart == "gaussians":
        return None
    rng = np.random.default_rng([seed, number, 3000])
    return draw_states(rng, cohort.people, config.population.ailments, _used(seed, number, cohort, config)[1])


def _true_hearts(states: States) -> dict[str, Any]:
    """Return what a truth table says of hearts made of tissue, one value per ECG."""
    return {
        "true_rhythm": states.rhythm_names(),
        "true_conduction": states.conduction_names(),
        "true_scar": states.ailments.scar,
        "true_hypertrophy": states.ailments.hypertrophy,
        "true_early_beats": states.ventricular + states.atrial > 0,
    }


@dataclass(frozen=True)
class _Chunk:
    """ECGs of one device, as a process needs them to render and write them.

    ``draw`` seeds a generator of their own: what one chunk draws never shifts another. ``headers`` are in the order of
    ``people``, ``af`` and ``states`` (None where hearts are no tissue).
    """

    draw: tuple[int, ...]
    people: People
    af: NDArray[np.bool_]
    states: States | None
    headers: tuple[Header, ...]
    electrodes_cm: NDArray[np.float64] | None
    device: DeviceConfig
    hospital: HospitalConfig
    waveform: WaveformEffects
    physique: Physique
    scatter: float
    seconds: float
    folder: Path


def _write_records(
    seed: int,
    number: int,
    name: str,
    cohort: Hospital,
    states: States | None,
    config: HospitalConfig,
    scenario: Scenario,
    folder: Path,
    progress: Progress | None,
    processes: int | None,
) -> pd.DataFrame:
    """Record and write every ECG; return the table with the devices that were used."""
    n = len(cohort.person)
    device_of, af_person = _used(seed, number, cohort, config)
    for sub in sorted({Path(file).parent for file in cohort.table["file"]}):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    table, electrodes = cohort.table, None
    if config.imaging is not None:
        tape = np.random.default_rng([seed, number, 1000])
        electrodes = place_electrodes(tape, config.habits, n)
        measured = measured_anatomy(tape, cohort.people, cohort.person, electrodes, config.imaging, scenario)
        table = pd.concat([table, measured], axis=1)
    wanted = (*config.table.declared, *(name for name in APART if name in config.table.columns))
    if wanted:
        notes = np.random.default_rng([seed, number, 2000])
        table = pd.concat([table, clinical_columns(notes, cohort.people, cohort.person, table, wanted, states)], axis=1)

    def chunks() -> Iterator[_Chunk]:
        for which, device in enumerate(config.devices):
            mine = np.flatnonzero(device_of == which)
            for start in range(0, len(mine), CHUNK):
                rows = mine[start : start + CHUNK]
                person = cohort.person[rows]
                yield _Chunk(
                    draw=(seed, number, 2 + which, start),
                    people=cohort.people.rows(person, cohort.people.age[person] + cohort.at_years[rows]),
                    af=af_person[person],
                    states=None if states is None else states.rows(person),
                    headers=_headers(cohort.table.iloc[rows], device),
                    electrodes_cm=None if electrodes is None else electrodes[rows],
                    device=device,
                    hospital=config,
                    waveform=scenario.waveform,
                    physique=scenario.physique,
                    scatter=scenario.heart_scatter,
                    seconds=scenario.seconds,
                    folder=folder,
                )

    workers = processes or os.cpu_count() or 1
    counts: Iterator[int]
    if workers < 2 or n < PARALLEL_FROM:
        counts = map(write_chunk, chunks())
    else:
        counts = (count for _, count in in_processes(write_chunk, chunks(), workers))
    done = 0
    for count in counts:
        done += count
        if progress is not None:
            progress(name, done, n)
    return table.assign(device=[config.devices[i].name for i in device_of])


def _headers(table: pd.DataFrame, device: DeviceConfig) -> tuple[Header, ...]:
    columns = (table[c] for c in ("file", "recorded_at", "age", "sex", "patient_id"))
    rows: Iterator[tuple[str, pd.Timestamp, int, str, str]] = zip(*columns, strict=True)
    return tuple(Header(file, at.to_pydatetime(), int(age), sex, device, who) for file, at, age, sex, who in rows)


def write_chunk(chunk: _Chunk) -> int:
    """Render and write the ECGs of one chunk; return how many."""
    units = quantise(_recorded(chunk), chunk.device.adc_units_per_mv)
    for record, header in zip(units, chunk.headers, strict=True):
        write_record(chunk.folder, header, record)
    return len(chunk.headers)


def _recorded(chunk: _Chunk) -> NDArray[np.float32]:
    rng = np.random.default_rng(chunk.draw)
    where = (chunk.hospital, chunk.device, chunk.waveform, chunk.seconds, chunk.electrodes_cm)
    if chunk.states is None:
        return record_ecgs(rng, chunk.people, chunk.af, *where, chunk.physique)
    return record_activation(rng, chunk.people, chunk.states, *where, chunk.scatter)


def truth_table(out: Path) -> pd.DataFrame:
    """Return the truth of every hospital made below ``out``, with a column ``site``.

    Raises
    ------
    RunError : there is no truth folder.
    """
    paths = sorted((out / "truth").glob("*.csv"))
    if not paths:
        raise RunError("holds no truth tables", where=out, remedy="make hospitals there first")
    return pd.concat([pd.read_csv(path).assign(site=path.stem) for path in paths], ignore_index=True)


def true_hazard_auc(truth: pd.DataFrame) -> float:
    """Return the AUC of the true event probability against what happened: what a perfect model would reach.

    Raises
    ------
    StatisticsError : the table holds only events, or none.
    """
    event = truth["true_scd_event"].to_numpy().astype(bool)
    positives = int(event.sum())
    negatives = len(event) - positives
    if not positives or not negatives:
        raise StatisticsError("the AUC needs both events and non-events", value=(positives, negatives))
    ranks = truth["true_scd_probability"].rank(method="average").to_numpy()
    return float((ranks[event].sum() - positives * (positives + 1) / 2) / (positives * negatives))
