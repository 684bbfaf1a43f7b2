"""Subgroups of an evaluation: everybody is in one cell of each partition, and words that name none are refused."""

from __future__ import annotations

import numpy as np
import pytest

from client.rows.own_figures import local_answer
from client.rows.risk import Scored
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.evaluate import Config
from ecgshared.stats.influence import clustered_auc
from ecgshared.study.study import Study
from ecgshared.study.subgroups import partitions

STUDY = Study.model_validate(
    {
        "name": "s",
        "sites": {"train": ["a"]},
        "input": {"fs_hz": 100, "seconds": 10, "band_hz": [0.5, 40]},
        "endpoints": {"event": {"kind": "binary", "column": "norm"}},
        "covariates": ["lvef", "diabetes"],
        "columns": {
            "smoking": {"kind": "category", "levels": ["never", "former", "current"], "label": "Smoking"},
            "statin": {"kind": "flag"},
            "troponin": {"kind": "number", "range": [0, 1000], "unit": "ng/L"},
            "visit": {"kind": "date"},
        },
        "steps": [{"id": "table", "stage": "describe"}],
    }
)
BANDS = (0.0, 50.0, 130.0)


def test_everybody_is_in_one_cell_and_who_is_not_known_in_the_last() -> None:
    columns = {
        "age": np.array([49.9, 50.0, np.nan, 140.0]),
        "male": np.array([1.0, 0.0, np.nan, 1.0]),
        "smoking": np.array([0.0, 2.0, np.nan, 1.0]),
        "statin": np.array([0.0, 1.0, np.nan, 0.0]),
        "lvef": np.array([0.35, 0.36, np.nan, 0.2]),
        "defibrillator": np.array([0.0, 1.0, 0.0, np.nan]),
    }
    words = ("sex", "age", "smoking", "statin", "lvef<=0.35", "defibrillator")
    found = {p.names[-1]: p.cells(columns).tolist() for p in partitions(words, BANDS, STUDY)}
    assert found == {
        "sex unknown": [1, 0, 2, 1],
        "age unknown or outside": [0, 1, 2, 2],
        "Smoking unknown": [0, 2, 3, 1],
        "statin unknown": [0, 1, 2, 0],
        "lvef unknown": [1, 0, 2, 1],
        "defibrillator unknown": [0, 1, 0, 2],
    }


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("smokin", "did you mean smoking"),
        ("troponin", "name a bound on it"),
        ("visit", "no column of the study"),
        ("sex:statin", "no term|product of two|no column"),
        ("statin:lvef<=0.4", "product of two"),
        ("lvef <= ", "no term"),
    ],
)
def test_a_word_that_names_no_subgroup_is_refused(word: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        partitions([word], BANDS, STUDY)


def test_the_figures_of_a_level_are_those_of_its_own_ecgs() -> None:
    rng = np.random.default_rng(1)
    n = 600
    y, level = (rng.random(n) < 0.3).astype(np.int64), rng.integers(0, 3, n).astype(np.float64)
    risk, blank = 1 / (1 + np.exp(-(rng.normal(size=n) + y))), np.full(n, np.nan, dtype=np.float32)
    head = Scored(risk, y, np.arange(n), blank, blank, 0, 0, columns={"smoking": level})
    step = Config(id="j", stage="evaluate", score="net.event", subgroups=("smoking",))
    told = local_answer([head], step, DisclosureLimits(), cuts=[None], patients_known=True, study=STUDY)
    for g in range(3):
        inside = level == g
        own = clustered_auc(risk[inside], y[inside], np.arange(n)[inside])
        np.testing.assert_allclose(told.payload.subgroup_auc[0, g], own.as_array(), rtol=1e-12)
        assert told.payload.subgroup_counts[0, g, 0] == inside.sum()
