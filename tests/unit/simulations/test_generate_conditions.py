"""The words of ``ecgfed generate``: units, moves from the usual place, absolute values, and what a typo is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgshared.ecg.input import InputConfig
from ecgshared.errors import ConfigError
from ecgshared.models import build
from ecgshared.models.cvae import CvaeConfig
from simulations.generation.checkpoint import Checkpoint
from simulations.generation.conditions import (
    Change,
    applied,
    change_of,
    edit_of,
    electrode_change,
    outside,
    quantity,
    sweep_of,
)
from simulations.generation.consistency import compared, summary
from simulations.generation.forward import MOVES
from simulations.generation.output import SYNTHETIC, header_lines, write_beats

CONDITIONS = ("age", "male", "bmi", "heart_vertical_deg", "electrode_V1_superior_cm", "electrode_V2_superior_cm")
MEAN = np.array([64.0, 0.5, 27.0, 8.0, -1.0, np.nan])
SD = np.array([8.0, 0.5, 4.0, 16.0, 1.3, np.nan])


@pytest.fixture(scope="module")
def checkpoint():
    config = CvaeConfig(name="cvae", conditions=CONDITIONS, latent=2, hidden=8)
    settings = InputConfig(fs_hz=100)
    model = build(config, (), 80, 0).eval()
    return Checkpoint(Path("run"), "beats", "ab" * 32, model, config, settings, MEAN, SD)


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [("2cm", "cm", 2), ("-20", "deg", -20), ("20mm", "cm", 2), ("+.5 cm", "cm", 0.5), ("20°", "deg", 20), ("3", "", 3)],
)
def test_quantities(text, unit, value):
    assert quantity(text, unit, "x") == pytest.approx(value)


@pytest.mark.parametrize(("text", "unit"), [("2deg", "cm"), ("two", "cm"), ("", "cm"), ("2cm2", "cm"), ("nan", "")])
def test_a_quantity_of_another_kind_is_refused(text, unit):
    with pytest.raises(ConfigError):
        quantity(text, unit, "x")


def test_moves_are_relative_and_columns_absolute(checkpoint):
    assert change_of("heart-rotation", "20") == Change(("heart_vertical_deg",), 20.0, True)
    assert change_of("heart_vertical_deg", "20") == Change(("heart_vertical_deg",), 20.0, False)
    assert change_of("sex", "F") == Change(("male",), 0.0, False)
    assert change_of("diabetes", "yes") == Change(("diabetes",), 1.0, False)
    made = applied(checkpoint, MEAN, [change_of("heart-rotation", "20deg"), edit_of("age=70"), change_of("sex", "M")])
    np.testing.assert_allclose(made[:5], [70, 1, 27, 28, -1])
    again = applied(checkpoint, made, [change_of("heart-rotation", "-5")])
    assert again[3] == 23
    assert MEAN[3] == 8


def test_an_electrode_moves_in_three_directions():
    left, back, up = electrode_change("V3=+1,-0.5,2cm")
    assert (left.columns, left.value, left.relative) == (("electrode_V3_left_cm",), 1.0, True)
    assert (back.value, up.value) == (-0.5, 2.0)
    assert [c.value for c in electrode_change("LA=10,0,5mm")] == [1.0, 0.0, 0.5]
    for text in ("V9=1,1,1cm", "V3=1,1", "V3", "V3=a,b,c"):
        with pytest.raises(ConfigError):
            electrode_change(text)


def test_a_sweep_runs_from_end_to_end():
    name, steps = sweep_of("heart-rotation=-40:40:9")
    assert name == "heart-rotation"
    assert [s.value for s in steps] == list(range(-40, 41, 10))
    assert all(s.relative for s in steps)
    for text in ("heart-rotation=-40:40", "heart-rotation", "age=40:80:1", "age=40:80:x"):
        with pytest.raises(ConfigError):
            sweep_of(text)


@pytest.mark.parametrize(
    ("name", "hint"), [("hart-rotation", "heart-rotation"), ("lv_mas_g", "lv_mass_g"), ("v1-v2-upp", "v1-v2-up")]
)
def test_a_typo_is_told_the_nearest_word(name, hint):
    with pytest.raises(ConfigError, match=f"did you mean.*{hint}"):
        change_of(name, "1")


def test_values_outside_are_refused_or_warned_about(checkpoint):
    with pytest.raises(ConfigError, match="out of range"):
        change_of("age", "200")
    with pytest.raises(ConfigError, match="neither yes nor no"):
        change_of("diabetes", "perhaps")
    assert outside(checkpoint, MEAN) == []
    (warning,) = outside(checkpoint, applied(checkpoint, MEAN, [change_of("heart-rotation", "70")]))
    assert warning.startswith("heart_vertical_deg = 78 lies outside")
    assert "-40 to 56" in warning


def test_a_condition_the_model_or_its_sites_did_not_have_is_refused(checkpoint):
    with pytest.raises(ConfigError, match="not trained with"):
        applied(checkpoint, MEAN, [change_of("lv_mass_g", "100")])
    with pytest.raises(ConfigError, match="no training site knew"):
        applied(checkpoint, MEAN, [change_of("v1-v2-up", "2cm")])


def test_a_beat_on_disk_says_that_it_is_synthetic(checkpoint, tmp_path):
    from client.readers import read

    values = np.repeat(applied(checkpoint, MEAN, [change_of("sex", "F"), change_of("age", "60")])[None], 2, axis=0)
    beats = checkpoint.decode(np.random.default_rng(0).standard_normal((2, 2)), values)
    write_beats(tmp_path / "out", checkpoint, ["a", "b"], beats, values, "a test")
    header = (tmp_path / "out" / "a.hea").read_text()
    for text in (SYNTHETIC, "Age: 60", "Sex: Female", "ab" * 32, "heart_vertical_deg: 8", "V2_superior_cm: not known"):
        assert text in header
    assert header_lines(checkpoint, values[0], "x")[0] == SYNTHETIC
    record = read(tmp_path / "out" / "b.hea")
    assert record.fs == 100
    np.testing.assert_allclose(record.p_signal, beats[1], atol=0.0011)
    assert (record.age_years, record.sex) == (60, "F")


def test_changes_are_compared_lead_by_lead():
    rng = np.random.default_rng(1)
    true = rng.normal(size=(9, 12, 50)).astype(np.float32)
    true[:, 5] *= 1e-4
    rows = compared("m", true, 0.8 * true)
    assert [r.correlation is None for r in rows] == [i == 5 for i in range(12)]
    moved = [r for r in rows if r.correlation is not None]
    assert min(r.correlation for r in moved) == pytest.approx(1)
    assert [r.slope for r in moved] == pytest.approx([0.8] * 11)
    assert summary(rows)["share_within"] == 1
    assert summary(compared("m", true, -true))["median_correlation"] == pytest.approx(-1)
    assert summary(compared("m", true, 0.5 * true))["share_within"] == 0


def test_every_move_names_conditions_that_exist():
    from ecgshared.study.columns import COVARIATES

    assert all(move.changes() and set(move.changes()) <= set(COVARIATES) for move in MOVES)
