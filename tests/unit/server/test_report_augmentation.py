"""The pictures of augmentation: a panel a change, each the change it names, none where ECGs stayed as they were."""

from __future__ import annotations

import numpy as np
import pytest

from ecgshared.ecg.input import InputConfig
from ecgshared.learning.plan import AugmentConfig, LocalWork, OptimiserConfig
from ecgshared.models import config_class
from ecgshared.stages.results.train import Result
from server.report.augmentation import augmentation_panels, made_ecg


def trained(**changes) -> Result:
    return Result(
        heads=("scd",),
        judged=("scd",),
        sites=("a",),
        withheld_sites=(),
        rounds=1,
        parameters=1,
        layout="",
        kept_round=1,
        strategy="fedavg",
        model=config_class("resnet1d")(),
        input=InputConfig(fs_hz=250, seconds=10, band_hz=(0.5, 40)),
        seed=1,
        covariates=(),
        local=LocalWork(),
        optimiser=OptimiserConfig(),
        augment=AugmentConfig(**changes),
        learning_rate=(1e-3,),
        validation=(),
        training_loss=(),
        absent={},
        privacy=None,
    )


def test_nothing_is_drawn_where_nothing_was_changed():
    assert augmentation_panels(trained()) == []


def test_every_change_has_a_panel_that_shows_it_alone():
    strengths = dict.fromkeys(AugmentConfig.model_fields, 0.5) | {"electrode_cm": 1.0}
    (figure,) = augmentation_panels(trained(**strengths))
    assert len(figure.panels) == len(AugmentConfig.model_fields)
    shown = {heading: [np.array(s.y) for s in series] for heading, series in figure.panels}
    ratio = next(pair for heading, pair in shown.items() if heading == "amplitude times 1 ± 0.5")
    large = np.abs(ratio[0]) > 0.3
    times = ratio[1][large] / ratio[0][large]
    assert np.ptp(times) < 0.01
    assert abs(times[0] - 1) > 0.1
    (dropped,) = (pair[1] for heading, pair in shown.items() if heading.startswith("a lead missing"))
    assert not dropped.any()
    assert all(np.abs(pair[1] - pair[0]).max() > 0.02 for pair in shown.values())
    assert augmentation_panels(trained(**strengths)) == [figure]  # the same report from the same run


def test_the_made_ecg_looks_like_one():
    x = made_ecg(500, 10)
    assert x.shape == (12, 5000)
    np.testing.assert_allclose(x[0] + x[2], x[1], atol=1e-12)  # Einthoven
    np.testing.assert_allclose(x[3:6].sum(axis=0), 0, atol=1e-12)  # Goldberger
    assert x[7].min() < -0.8 < 0.3 < x[8].max()
    assert x[1].max() == pytest.approx(1.1, abs=0.3)
