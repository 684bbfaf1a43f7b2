"""How fast ECGs are rendered, and hospitals written. Prints; asserts no time."""

from __future__ import annotations

import time

import numpy as np
import pytest

from simulations.hospitals.make import make_hospitals
from simulations.patients.activation import record_activation
from simulations.patients.ailments import draw_states
from simulations.patients.people import draw_people
from simulations.patients.scenario import PopulationConfig, load_scenario
from simulations.physics.body import anatomy_of, heart_of
from simulations.physics.disease import WaveformEffects
from simulations.physics.heart import dipole, draw_rhythm
from simulations.physics.torso import project, reference_electrodes, twelve

pytestmark = pytest.mark.benchmark


def test_forward_model_records_per_second():
    n, rounds = 64, 4
    rng = np.random.default_rng(0)
    people = draw_people(rng, PopulationConfig(patients=n), n)
    start = time.perf_counter()
    for _ in range(rounds):
        rhythm = draw_rhythm(
            rng,
            rate_per_min=rng.normal(72, 10, n).clip(45, 130).astype(np.float32),
            respiration_hz=np.full(n, 0.25, dtype=np.float32),
            ectopic_share=np.full(n, 0.02, dtype=np.float32),
            af=rng.random(n) < 0.05,
            seconds=10.0,
        )
        waves = dipole(heart_of(people, WaveformEffects()), rhythm, fs=500.0, seconds=10.0)
        breath = np.sin(np.arange(5000) / 250).astype(np.float32)[None].repeat(n, 0)
        ecg = twelve(project(waves, anatomy_of(people), reference_electrodes(n), respiration=breath))
    taken = time.perf_counter() - start
    assert ecg.shape == (n, 12, 5000)
    print(f"\nforward model: {rounds * n / taken:.0f} ten-second 500 Hz records per second (bar: 200)")


def test_hearts_of_tissue_records_per_second():
    """The whole recording: rhythm, beats of tissue, noise, filters; processor time of one core."""
    world = load_scenario("three_countries_activation")
    hospital = world.hospitals["us_system"]
    rng, n = np.random.default_rng(0), 64
    people = draw_people(rng, hospital.population, n)
    states = draw_states(rng, people, hospital.population.ailments, rng.random(n) < hospital.population.af_share)
    arguments = (hospital, hospital.devices[0], world.waveform, world.seconds)
    record_activation(rng, people, states, *arguments)  # fronts are solved once
    start, rounds = time.process_time(), 4
    for _ in range(rounds):
        ecg = record_activation(rng, people, states, *arguments)
    taken = time.process_time() - start
    assert ecg.shape == (n, 12, 5000)
    print(f"\nhearts of tissue: {rounds * n / taken:.0f} ten-second 500 Hz records a second of one core (bar: 200)")


def test_hospitals_records_per_second(tmp_path):
    start = time.perf_counter()
    made = make_hospitals(load_scenario("demo"), tmp_path, patients_scale=0.1)
    taken = time.perf_counter() - start
    print(f"\nhospitals on disk: {sum(made.ecgs.values()) / taken:.0f} records per second (bar: 100)")
    assert sum(made.events.values()) > 0
