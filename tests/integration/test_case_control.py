"""A case-control series among cohorts: ranks leave it and nothing that hangs on how often the event is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from client.answer import Sites, answer_bytes
from client.approval.show import show_study
from client.dataset.opening import open_site
from client.operator.check import check_site
from client.site.settings import load_site
from ecgshared.errors import ConfigError, RefusalCode, Refused
from ecgshared.study.study import load_study
from ecgshared.wire.protocol import Request
from server.report.html import render
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

SITES = {"train": ["north", "coast"], "zero_shot": ["valley"], "case_control": ["island"]}
JUDGED = {"id": "judged", "stage": "evaluate", "uses": ["risk", "cut"], "score": "risk.death_2y", "compare": ["age"]}
CUT = {"id": "cut", "stage": "threshold", "uses": ["risk"], "score": "risk.death_2y", "top_share": 0.3}
REGRESS = {"id": "fit", "stage": "regress", "uses": ["risk"], "outcome": "death_2y"}
REGRESS |= {"models": [{"name": "m", "terms": ["age"]}]}
HANGS_ON_HOW_OFTEN = (
    *("base_rate", "mean_predicted", "average_precision", "brier", "scaled_brier", "calibration_slope"),
    *("calibration_intercept", "expected_over_observed", "threshold", "ppv", "calibration_curve", "roc"),
)


def with_series(federation, design="case_control", **changes):
    study = federation.study(
        sites=SITES,
        steps=[{"id": "cohorts", "stage": "describe"}, federation.train(rounds=1), CUT | {"min_rate": None}, JUDGED],
        **changes,
    )
    files = federation.sites()
    content = yaml.safe_load(files[3].read_text(encoding="utf-8")) | {"design": design}
    files[3].write_text(yaml.safe_dump(content), encoding="utf-8")
    return study, files


def nothing(value) -> bool:
    """Whether a result holds no number."""
    if isinstance(value, dict):
        return all(nothing(v) for v in value.values())
    return value is None or value in ((), [])


def test_ranks_alone_are_told_of_a_series_and_it_is_pooled_with_nobody(federation):
    study_file, files = with_series(federation)
    run = simulate(study_file, files, federation.folder / "run")
    folder = RunFolder.reopen(run)
    folder.close()
    result = folder.artefact("judged").result.model_dump()
    series, cohort = (result["sites"][site]["heads"]["death_2y"] for site in ("island", "valley"))
    data = open_site(load_site(files[3]), load_study(study_file))
    y = data.labels[:, data.heads.index("death_2y")]
    known = ~np.isnan(y)
    assert result["sites"]["island"]["group"] == "case_control"
    assert (series["ecgs"], series["events"]) == (known.sum(), (y == 1).sum())
    assert 0 < series["auc"]["value"] < 1
    np.testing.assert_allclose(series["compared"]["age"]["other_auc"], roc_auc_score(y[known], data.age[known]))
    for name in HANGS_ON_HOW_OFTEN:
        assert nothing(series[name]), name
        assert not nothing(cohort[name]), name
    assert all(nothing(c["observed"]) and nothing(c["mean_predicted"]) for c in series["subgroups"].values())
    assert set(result["pooled"]) == {"training", "zero_shot"}
    assert result["pooled"]["zero_shot"]["death_2y"]["sites"] == ("valley",)
    described = folder.artefact("cohorts").result
    assert described.sites["island"].design == "case_control"
    others = [described.sites[s].ecgs for s in ("north", "coast", "valley")]
    assert described.pooled.ecgs == sum(n for by_split in others for n in by_split.values() if n)
    page = render(run).read_text(encoding="utf-8")
    assert "case-control series" in page
    # What left the hospital, word for word: nothing but ranks, counts and what describe says of everybody.
    log = (load_site(files[3]).state / "releases.jsonl").read_text(encoding="utf-8")
    phases = {json.loads(line)["phase"] for line in log.splitlines()}
    assert phases == {"counts", "local", "compare"}


@pytest.mark.parametrize("phase", ["scale", "histogram", "placement", "slope"])
def test_a_series_refuses_what_hangs_on_how_often_the_event_is(federation, phase):
    study_file, files = with_series(federation, design="cohort")  # the study alone says it
    study = load_study(study_file)
    with pytest.raises(Refused) as refused:
        answer_bytes(Sites()[files[3]], study, Request(study.sha256, "r", "judged", phase, 0, {}))
    assert refused.value.code is RefusalCode.CASE_CONTROL


def test_a_series_that_a_study_takes_for_a_cohort_answers_describe_alone(federation):
    study_file, files = with_series(federation)
    content = yaml.safe_load(study_file.read_text())
    content["sites"] = {"train": ["north", "coast"], "zero_shot": ["valley", "island"]}
    study_file.write_text(yaml.safe_dump(content))
    study, site = load_study(study_file), Sites()[files[3]]
    answer_bytes(site, study, Request(study.sha256, "r", "cohorts", "counts", 0, {}))
    with pytest.raises(Refused, match=r"must stand under sites.case_control") as refused:
        answer_bytes(site, study, Request(study.sha256, "r", "judged", "local", 0, {}))
    assert refused.value.code is RefusalCode.CASE_CONTROL
    found = check_site(files[3], (study_file,), offline=True, sample=0)
    assert any("the study must name it under sites.case_control" in fault for fault in found.faults)
    assert any("DESIGN" in line for line in show_study(load_site(files[3]), study))


def test_no_rate_is_asked_of_a_series(federation):
    """A step that needs everybody leaves series out; one that names a series is refused."""
    study_file, _ = with_series(federation)
    content = yaml.safe_load(study_file.read_text())
    content["steps"].append(REGRESS)
    study_file.write_text(yaml.safe_dump(content))
    study = load_study(study_file)
    assert "island" not in study.members(study.step("fit"))
    assert "island" in study.members(study.step("judged"))
    content["steps"][-1]["sites"] = ["island"]
    study_file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="island holds a case-control series, and what regress tells hangs on"):
        load_study(study_file)
    content["sites"]["train"].append("island")
    study_file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="island: a case-control series stands under case_control alone"):
        load_study(study_file)


def test_a_study_without_a_series_has_the_hash_it_had(federation):
    assert set(load_study(federation.study()).model_dump(mode="json")["sites"]) == {"train", "zero_shot"}
