"""Published values beside a run's own, where the study names the publication."""

from __future__ import annotations

from importlib.resources import files

import yaml

from ecgshared.stages.results.base import EstimateResult
from ecgshared.stages.results.contrast import Contrasted, PlaceboContrast
from ecgshared.stages.results.contrast import Result as Contrast
from ecgshared.stages.results.evaluate import PooledHead
from ecgshared.stages.results.evaluate import Result as Evaluated
from ecgshared.stages.results.high_risk import Distribution, Profile
from ecgshared.stages.results.high_risk import Result as HighRisk
from ecgshared.study.study import Study
from server.report.labels import Labels
from server.report.published import beside_published
from server.report.sections import Table


def estimate(value: float) -> EstimateResult:
    return EstimateResult(value=value, se=0.02, low=value - 0.04, high=value + 0.04)


def content() -> dict:
    text = files("simulations").joinpath("scenarios", "three_countries_study.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


RESULTS = {
    "profile": HighRisk(
        cutoff=0.05,
        outcome="scd_1y",
        event=None,
        times_years=(),
        sites={},
        pooled={
            "training": Profile(
                ecgs=100.0,
                patients=50.0,
                high_risk_share=0.02,
                distribution=Distribution(ecgs=100.0, mean=0.0041, sd=0.013, quantiles={}),
                variables={},
                devices_by_risk=(),
                devices_by_lvef=(),
                captured={},
                incidence={},
            )
        },
        absent={},
    ),
    "placebo": Contrast(
        score="score",
        others=(),
        outcomes=("arrhythmic_arrest",),
        placebo="other_arrest",
        sites={},
        pooled={
            "zero_shot": Contrasted(
                pairs={},
                placebo={
                    "score": PlaceboContrast(
                        ecgs=4000.0,
                        events=90.0,
                        event_patients=90.0,
                        placebo_events=150.0,
                        placebo_event_patients=150.0,
                        auc=estimate(0.8),
                        placebo_auc=estimate(0.6),
                        difference=estimate(0.2),
                        p=0.0001,
                        sites=("taiwan_emergency",),
                    )
                },
            )
        },
        absent={},
    ),
}


def test_the_section_stands_only_where_the_study_names_the_paper_and_says_whose_data_ours_are() -> None:
    study = Study.model_validate(content())
    ((table,),) = [section.blocks for section in beside_published(study, RESULTS, Labels(study))]
    assert isinstance(table, Table)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["mean (SD) of the predicted risk, Sweden"] == ["0.38% (1.23%)", "0.41% (1.30%)", "High risk"]
    assert rows["difference of the two"][1] == "0.200 (0.160 to 0.240), P < 0.001"
    assert "in-silico" in table.note
    silent = Study.model_validate({key: value for key, value in content().items() if key != "published"})
    assert beside_published(silent, RESULTS, Labels(silent)) == []
    assert beside_published(study, {}, Labels(study)) == []
    real = Study.model_validate(content() | {"published": {"paper": "10.1038/s41586-026-10674-6", "data": "real"}})
    ((table,),) = [section.blocks for section in beside_published(real, RESULTS, Labels(real))]
    assert "real data" in table.note
    assert "made" not in table.note


def test_only_what_is_published_stands_beside_it_a_year_s_outcome_of_those_under_80() -> None:
    study = Study.model_validate(content())
    head = PooledHead.model_construct(auc=estimate(0.8), base_rate=0.01, threshold=None)
    pooled = {"training": {"vfvt_1y": head, "vfvt_5y": head}}
    judged = Evaluated.model_construct(pooled=pooled)
    ((table,),) = [s.blocks for s in beside_published(study, {"judged": judged}, Labels(study))]
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["AUC, VF/VT, Sweden"]
    assert beside_published(study, {"judged_all": judged}, Labels(study)) == []
