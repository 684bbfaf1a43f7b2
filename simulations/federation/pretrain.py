"""Weights learnt from nobody: a net trained on made ECGs to read what the makers know of each heart.

Labels are the heart's turn, intervals, rhythm and failure, with age and sex; hearts are those of the scenario, sums of
Gaussian waves or tissue (``pretraining_activation``). Another study starts from the weights
(``import`` and ``start_from``). People and hearts are drawn, recorded and preprocessed in memory, by the forward model
that makes in-silico hospitals; the training is a study's, at one site that stands for all of them, so that its run has
a report, and its model a file, as any other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from client.dataset.data import SiteData
from client.ingest.reading import to_units
from ecgshared.arrays import Floats
from ecgshared.config import load_yaml
from ecgshared.ecg.input import InputConfig
from ecgshared.ecg.preprocess import preprocess
from ecgshared.errors import ConfigError
from ecgshared.service.processes import in_processes
from ecgshared.study.study import load_study
from ecgshared.wire.protocol import SPLITS
from simulations.federation.run import simulate
from simulations.patients.activation import bodies_of, record_activation
from simulations.patients.ailments import States, draw_states
from simulations.patients.people import draw_people
from simulations.patients.recording import place_electrodes, record_ecgs
from simulations.patients.scenario import DeviceConfig, HospitalConfig, Scenario, load_scenario
from simulations.physics.beats import Bodies, activation_of
from simulations.physics.body import anatomy_of, heart_of
from simulations.physics.conduction import durations_ms, rest_ms
from simulations.physics.disease import People
from simulations.physics.heart import Heart
from simulations.physics.rhythms import RHYTHMS
from simulations.physics.traits import Traits

MADE = "made"
"""The site, and the train step."""
CHUNK = 64
STUDY = Path(__file__).parent.parent / "scenarios" / "pretraining_study.yaml"


@dataclass(frozen=True)
class _Chunk:
    """What one process makes: so many ECGs of one hospital, from a seed of their own."""

    scenario: Scenario
    hospital: HospitalConfig
    number: int
    seed: int
    input: InputConfig


def pretrain(
    out: Path,
    *,
    ecgs: int = 20_000,
    scenario: str = "pretraining",
    model: Path | None = None,
    rounds: int | None = None,
    device: str = "auto",
    seed: int = 0,
    processes: int | None = None,
) -> Path:
    """Make ECGs, train on them, and return the run folder; its step ``made`` holds the weights.

    Parameters
    ----------
    ecgs : how many are made, one of each person.
    scenario : whose hospitals' people, devices, noise and habits they have, in equal shares.
    model : a YAML file with the model, input and heads of the study that will use the weights (its own study file,
        say); what it does not name is as in the study of pre-training.
    rounds : of training, instead of the study's.

    Raises
    ------
    ConfigError : too few ECGs to train and validate on, or a model that the study cannot have.
    """
    if ecgs < 200:
        raise ConfigError("too few ECGs to learn from", where="--ecgs", value=ecgs, allowed="at least 200")
    study_file = _study(out, model, rounds, seed)
    study = load_study(study_file)
    data = made_site(load_scenario(scenario), ecgs, study.input, seed, processes, _labels_of(study_file))
    site = study_file.parent / f"{MADE}.yaml"
    content = {
        "site": MADE,
        "records": {"folder": "."},
        "table": {"path": "none.csv", "columns": {"file": "file"}},
        "studies": ["study.yaml"],
        "compute": {"device": device},
        "seed": seed,
    }
    site.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return simulate(study_file, [site], out, held={site: data})


def _study(out: Path, model: Path | None, rounds: int | None, seed: int) -> Path:
    """Write the study of pre-training for a model and an input; return its file."""
    content = load_yaml(STUDY)
    train = next(step for step in content["steps"] if step["id"] == MADE)
    if model is not None:
        wanted = load_yaml(model, aliases=True)
        steps = [step for step in wanted.get("steps", ()) if isinstance(step, dict) and step.get("stage") == "train"]
        named = wanted.get("model") or next((s["model"] for s in steps if "model" in s), train["model"])
        # Age and sex are labels here. Covariates enter behind the trunk, so that the weights fit a net with them too.
        train["model"] = {**named, "covariates": []}
        content["input"] = wanted.get("input", content["input"])
    if rounds is not None:
        train["rounds"] = rounds
    content["seed"] = seed
    folder = out.with_name(f"{out.name}-study")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def _labels_of(study_file: Path) -> tuple[tuple[str, str], ...]:
    """Return the study's heads, each with the column that it is of."""
    endpoints = load_study(study_file).endpoints
    return tuple((name, str(getattr(endpoint, "column", ""))) for name, endpoint in endpoints.items())


def made_site(
    scenario: Scenario,
    ecgs: int,
    config: InputConfig,
    seed: int,
    processes: int | None,
    heads: tuple[tuple[str, str], ...],
) -> SiteData:
    """Return made ECGs as one site's cohort, with what their makers know as labels; four fifths train."""
    hospitals = tuple(scenario.hospitals.values())
    each = -(-ecgs // (CHUNK * len(hospitals)))
    chunks = [
        _Chunk(scenario, hospital, k * len(hospitals) + h, seed, config)
        for k in range(each)
        for h, hospital in enumerate(hospitals)
    ]
    workers = min(processes or os.cpu_count() or 1, len(chunks))
    done = map(_made, chunks) if workers == 1 else (made for _, made in in_processes(_made, chunks, workers))
    parts = list(done)
    signals = np.concatenate([signal for signal, _ in parts])[:ecgs]
    known = {name: np.concatenate([truth[name] for _, truth in parts])[:ecgs] for name in parts[0][1]}
    missing = [column for _, column in heads if column not in known]
    if missing:
        raise ConfigError("nobody makes such a label", value=", ".join(missing), allowed=", ".join(known))
    split = np.full(ecgs, SPLITS.index("train"), dtype=np.int8)
    split[np.random.default_rng([seed, 1]).permutation(ecgs)[: ecgs // 5]] = SPLITS.index("validation")
    return SiteData(
        signals=signals,
        patient=np.arange(ecgs),
        split=split,
        heads=tuple(name for name, _ in heads),
        labels=np.stack([known[column] for _, column in heads], axis=1).astype(np.float32),
        age=known["age"].astype(np.float32),
        male=known["male"].astype(np.float32),
        covariates={},
        fs_hz=config.fs_hz,
        patients_known=True,
        flow=(("made", ecgs, ecgs),),
        descriptions={},
        follow_up_years=np.full(ecgs, np.nan, dtype=np.float32),
    )


def _made(chunk: _Chunk) -> tuple[NDArray[np.int16], Mapping[str, Floats]]:
    """Make one chunk: signals as a site keeps them, shape = (CHUNK, 12, T), and the truth of each."""
    rng = np.random.default_rng([chunk.seed, chunk.number, 2])
    hospital = chunk.hospital
    people = draw_people(rng, hospital.population, CHUNK)
    fibrillating = rng.random(CHUNK) < hospital.population.af_share
    shares = np.array([device.share for device in hospital.devices])
    device = hospital.devices[int(rng.choice(len(shares), p=shares / shares.sum()))]
    recorded = _of_tissue if chunk.scenario.heart == "activation" else _of_waves
    signals, truth = recorded(rng, chunk, people, fibrillating, device)
    return to_units(preprocess(signals, float(device.fs_hz), chunk.input)), truth


def _of_waves(
    rng: np.random.Generator, chunk: _Chunk, people: People, af: NDArray[np.bool_], device: DeviceConfig
) -> tuple[NDArray[np.float32], dict[str, Floats]]:
    """Record hearts that are sums of Gaussian waves; return signals, mV, and the truth of each."""
    physique, waveform = chunk.scenario.physique, chunk.scenario.waveform
    signals = record_ecgs(rng, people, af, chunk.hospital, device, waveform, chunk.scenario.seconds, physique=physique)
    heart = heart_of(people, waveform, physique)
    return signals, truth_of(people, heart, np.rad2deg(anatomy_of(people, physique).turn_rad), af)


def _of_tissue(
    rng: np.random.Generator, chunk: _Chunk, people: People, af: NDArray[np.bool_], device: DeviceConfig
) -> tuple[NDArray[np.float32], dict[str, Floats]]:
    """Record hearts of tissue with what ails them; return signals, mV, and the truth of each."""
    scenario, hospital = chunk.scenario, chunk.hospital
    states = draw_states(rng, people, hospital.population.ailments, af)
    place = place_electrodes(rng, hospital.habits, CHUNK)
    seconds, scatter = scenario.seconds, scenario.heart_scatter
    signals = record_activation(rng, people, states, hospital, device, scenario.waveform, seconds, place, scatter)
    bodies = bodies_of(people, states, scenario.waveform, place, np.zeros(CHUNK), scatter)
    return signals, tissue_truth(people, states, bodies)


def truth_of(people: People, heart: Heart, turn_deg: Floats, fibrillating: NDArray[np.bool_]) -> dict[str, Floats]:
    """Return what the makers know of each ECG, by column; intervals in ms, at a rate of 60."""
    ahead, behind = heart.qrs.centre_s - 2 * heart.qrs.width_s, heart.qrs.centre_s + 2 * heart.qrs.width_s
    return {
        "age": people.age,
        "male": people.male.astype(np.float64),
        "heart_failure": people.heart_failure.astype(np.float64),
        "heart_frontal_deg": turn_deg[:, 0],
        "heart_vertical_deg": turn_deg[:, 1],
        "heart_tilt_deg": turn_deg[:, 2],
        "pr_ms": np.where(fibrillating, np.nan, 1000.0 * heart.pr_s),
        "qrs_ms": 1000.0 * (behind.max(axis=1) - ahead.min(axis=1)),
        "qt_ms": 1000.0 * heart.qt_s,
        "fibrillation": fibrillating.astype(np.float64),
        "fibrosis": people.fibrosis,
    }


def tissue_truth(people: People, states: States, bodies: Bodies) -> dict[str, Floats]:
    """Return the same of hearts of tissue: QRS ends, and T, when all but the last hundredth of muscle has."""
    traits, rhythm = bodies.traits, states.rhythm_names()
    qrs, qt = np.empty(len(people.age)), np.empty(len(people.age))
    for part in activation_of(bodies):
        some = Traits(traits.values[part.rows])
        lasts = durations_ms(some, part.fronts.tissue, rest_ms(part.scar))
        qrs[part.rows] = np.percentile(part.activation_ms, 99, axis=1)
        qt[part.rows] = np.percentile(part.activation_ms + lasts, 99, axis=1)
    return {
        "age": people.age,
        "male": people.male.astype(np.float64),
        "heart_failure": people.heart_failure.astype(np.float64),
        **{f"heart_{way}_deg": np.rad2deg(traits[way]) for way in ("frontal", "vertical", "tilt")},
        "pr_ms": np.where(rhythm == RHYTHMS[0], np.clip(traits["pr"] + states.long_pr_ms, 90, 360), np.nan),
        "qrs_ms": qrs,
        "qt_ms": qt,
        "fibrillation": (rhythm == "fibrillation").astype(np.float64),
        "fibrosis": people.fibrosis,
    }
