"""generate: its figures tell good beats from bad ones, and none leaves over a group that is too small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.egress.gate import release
from client.site.settings import SiteSettings
from client.stages.generate import Beats, judged_answer
from ecgshared.errors import ConfigError
from ecgshared.models.config import BEAT_WINDOW_S
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.generate import FEATURES, Result, measured
from ecgshared.study.study import Study
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Request
from server.report.sections import Figure, Key, Table
from server.rounds.step_context import Artefact
from server.stages.generate import _pool, _site, report

FS = 500.0
CONDITIONS = ["age", "male"]


def hearts(rng, n, turn=None):
    """Beats of n people with P, QRS and T; the first condition turns their axis."""
    t = BEAT_WINDOW_S[0] + (np.arange(400) + 0.5) / FS
    turn = rng.standard_normal(n) if turn is None else turn
    size = np.exp(0.2 * rng.standard_normal((n, 3)))
    waves = [
        0.15 * size[:, :1] * np.exp(-(((t + 0.15) / 0.03) ** 2)),
        1.2 * size[:, 1:2] * np.exp(-((t / 0.015) ** 2)),
        0.4 * size[:, 2:] * np.exp(-(((t - 0.25) / 0.05) ** 2)),
    ]
    angle = 0.6 + 0.4 * turn[:, None]
    chest = np.linspace(-1, 1, 6)[None]
    eight = np.concatenate([np.cos(angle), np.cos(angle - np.pi / 3), chest + 0 * angle], axis=1)
    leads = eight[:, :, None] * sum(waves)[:, None]
    one, two = leads[:, :1], leads[:, 1:2]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([*limb, leads[:, 2:]], axis=1).astype(np.float32), turn


def site(n=240, seed=0, **changes):
    """A perfect model's site: what it makes comes from the same people with the same conditions."""
    rng = np.random.default_rng(seed)
    x, turn = hearts(rng, n)
    made, _ = hearts(rng, n, turn)
    trained, _ = hearts(rng, 300)
    conditions = np.stack([turn, np.where(rng.random(n) < 0.3, np.nan, rng.standard_normal(n))], axis=1)
    beats = Beats(
        x=x,
        conditions=conditions,
        patient=np.arange(n) // 2 if n > 1 else np.zeros(n, dtype=np.int64),
        z=rng.standard_normal((n, 5)),
        again=(x + 0.01 * rng.standard_normal(x.shape)).astype(np.float32),
        usual=np.repeat(x.mean(axis=0)[None], n, axis=0) if n else x,
        made=made,
        trained=trained,
    )
    return replace(beats, **changes)


def judged(beats, limits=None):
    """What leaves the site."""
    answer = judged_answer(beats, FS, np.random.default_rng(5), patients_known=True, tell_trained=True)
    request = Request("0" * 64, "run-1", "judged", "judge", 0, {})
    here = Path("/nowhere")
    settings = SiteSettings.model_construct(site="a", state=here, limits=limits or DisclosureLimits())
    made = release(answer, request, stage="generate", settings=settings)
    return decode_payload(made.body, type(answer.payload), stamp_of(request, "a"))


def told(reply):
    return _site(reply, CONDITIONS, "training").model_dump(mode="json")


def test_a_perfect_model_is_as_good_as_real_against_real():
    beats = site()
    found = told(judged(beats))
    assert (found["ecgs"], found["patients"]) == (240, 120)
    # |noise| of SD 10 uV has a mean of 10 sqrt(2 / pi).
    assert found["reconstruction_uv"]["mean"] == pytest.approx(10 * np.sqrt(2 / np.pi), rel=0.02)
    assert np.mean(found["leads_uv"]) == pytest.approx(found["reconstruction_uv"]["mean"])
    assert found["conditions_only_uv"] == pytest.approx(1000 * np.abs(beats.usual - beats.x).mean(), rel=1e-5)
    assert abs(found["mmd2"]["made"]) < 0.02
    assert min(found["precision"], found["recall"]) > 0.9 * min(found["precision_real"], found["recall_real"])
    assert found["slope_agreement"]["correlation"] > 0.95
    assert found["slope_agreement"]["slope"] == pytest.approx(1, abs=0.1)
    assert max(found["condition_r2"].values()) < 0.05
    assert found["nearest_uv"]["made"]["median"] == pytest.approx(found["nearest_uv"]["real"]["median"], rel=0.15)


def test_beats_that_ignore_conditions_are_told():
    made, _ = hearts(np.random.default_rng(9), 240)
    assert told(judged(site(made=made)))["slope_agreement"]["slope"] < 0.2


def test_copies_of_training_beats_are_told():
    good = site()
    copied = told(judged(replace(good, made=np.resize(good.trained, good.x.shape))))
    assert copied["nearest_uv"]["made"]["median"] < 0.01 * copied["nearest_uv"]["real"]["median"]


def test_one_beat_for_all_has_no_recall():
    good = site()
    rng = np.random.default_rng(2)
    one = np.repeat(good.x[:1], 240, axis=0) + 0.001 * rng.standard_normal(good.x.shape).astype(np.float32)
    found = told(judged(replace(good, made=one)))
    assert found["recall"] < 0.1
    assert found["mmd2"]["made"] > 0.1


def test_latents_that_hold_a_condition_are_told():
    good = site()
    z = good.z.copy()
    z[:, 2] = good.conditions[:, 0]
    assert told(judged(replace(good, z=z)))["condition_r2"]["age"] > 0.99


def test_little_leaves_a_small_site_and_nothing_an_empty_one():
    small = told(judged(site(n=12)))
    assert small["ecgs"] is None
    assert small["reconstruction_uv"] == {"mean": None, "sd": None}
    few = told(judged(site(n=26)))
    assert few["reconstruction_uv"]["mean"] is not None
    # 13 patients: halves are too few, and so is a tail; six coefficients want twelve.
    assert few["precision"] is None
    assert few["nearest_uv"]["made"]["p05"] is None
    assert few["slopes"][FEATURES[0]]["age"]["real"] is not None
    rng = np.random.default_rng(0)
    wide = site(n=26, conditions=rng.standard_normal((26, 6)))
    assert np.isnan(judged(wide).slopes).all()
    empty = judged(site(n=0), DisclosureLimits(min_patients=1, min_events=0))
    assert np.isnan(empty.counts).all()


def test_a_zero_shot_site_has_no_training_beats():
    assert np.isnan(judged(site(trained=np.empty((0, 12, 400), np.float32))).nearest).all()


def test_features_are_measured_and_an_axis_is_where_it_was_put():
    x, _ = hearts(np.random.default_rng(0), 3, np.array([0.0, 0.5, -0.5]))
    found = dict(zip(FEATURES, measured(x, FS).T, strict=True))
    np.testing.assert_allclose(found["qrs_axis_deg"], np.rad2deg([0.6, 0.8, 0.4]), atol=3)
    assert ((found["pr_ms"] > 80) & (found["pr_ms"] < 250)).all()


def test_the_report_shows_what_was_found():
    sites = {
        "a": _site(judged(site()), CONDITIONS, "training"),
        "b": _site(judged(site(seed=3, trained=np.empty((0, 12, 400), np.float32))), CONDITIONS, "zero_shot"),
        "c": _site(judged(site(n=12)), CONDITIONS, "training"),
    }
    result = {
        "model": "beats",
        "conditions": CONDITIONS,
        "features": list(FEATURES),
        "published_mae_uv": [15.7, 3.2],
        "sites": sites,
        "pooled": {group: _pool(sites, group) for group in ("training", "zero_shot")},
        "absent": {},
    }
    (section,) = report(Artefact("judged", "generate", Result.model_validate(result)))
    kinds = [type(block) for block in section.blocks]
    assert kinds.count(Key) == 2
    assert kinds.count(Table) == 3
    (figure,) = [block for block in section.blocks if isinstance(block, Figure)]
    assert [series.label for series in figure.series] == ["a", "b"]
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert all(len(row) == 4 for row in table.rows)


def study(**changes):
    train = {"id": "beats", "stage": "train", "uses": ["cohorts"], "model": {"name": "cvae"}, **changes}
    return {
        "name": "s",
        "sites": {"train": ["a"], "zero_shot": ["b"]},
        "endpoints": {"norm": {"kind": "binary", "column": "norm"}},
        "covariates": ["bmi"],
        "steps": [
            {"id": "cohorts", "stage": "describe"},
            train,
            {"id": "judged", "stage": "generate", "uses": ["beats"]},
        ],
    }


def test_a_generate_step_needs_a_cvae_that_all_its_sites_can_use():
    Study.model_validate(study())
    heads = {"model": {"preset": "small"}, "heads": ["norm"]}
    for changes, message in (
        (heads, "model is a cvae"),
        ({"strategy": {"name": "fedbn"}}, "fedbn"),
        ({"model": {"name": "cvae", "conditions": ["age", "lvef"]}}, "lvef"),
    ):
        with pytest.raises((ValueError, ConfigError), match=message):
            Study.model_validate(study(**changes))


def test_no_distance_to_a_training_beat_leaves_where_limits_hold():
    """Before: 80 crafted beats told members of the training set from others, with an AUC of 1."""
    answer = judged_answer(site(), FS, np.random.default_rng(5), patients_known=True)
    assert not np.asarray(answer.evidence["nearest"].patients).any()
    assert np.asarray(answer.evidence["reconstruction"].patients) == 120
