"""Secure sums through the real apps: equal to plain sums, and nothing of a single site in what leaves it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from client.egress.sum_session import Session
from ecgshared.errors import ConfigError, RunError
from ecgshared.study.secure import TOGETHER
from server.rounds import one_sum
from server.rounds.run_folder import RunFolder
from server.stages import describe as server_describe
from simulations.federation.run import simulate

SITES = ("north", "coast", "valley", "island")
FOUR = {"train": list(SITES), "zero_shot": []}
MODEL = {"blocks": 1, "width": 8, "groups": 2, "hidden": 8, "dropout": 0.0, "covariates": ["age"]}
CALIBRATE = {
    "id": "score",
    "stage": "calibrate",
    "uses": ["risk"],
    "target": "male",
    "split": "train",
    "inputs": ["risk.male", "age"],
}


def artefact(run: Path, step: str) -> Any:
    folder = RunFolder.reopen(run)
    folder.close()
    return folder.artefact(step)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def steps(federation: Any, **training: Any) -> list[dict[str, Any]]:
    return [{"id": "cohorts", "stage": "describe"}, federation.train(heads=["male"], model=MODEL, **training)]


def ran(small: Any, name: str, *, secure: dict[str, Any] | None, **changes: Any) -> Path:
    site_changes = changes.pop("site", {})
    study = small.study(**({"sites": FOUR} | changes | ({} if secure is None else {"secure_sum": secure})))
    return simulate(study, small.sites(**site_changes), small.folder / name)


FULL_BATCHES = {"precision": "fp64", "local": {"steps": 2, "batch_size": None}}
"""Another hash of the study draws other batches: here there is one."""


def test_training_and_a_score_under_masks_are_those_of_the_plain_sums(federation):
    """Weights to 1e-11, coefficients to 1e-6; what leaves a site for them is whole numbers under masks."""
    both = [*steps(federation, **FULL_BATCHES), CALIBRATE]
    plain = ran(federation, "plain", secure=None, steps=both)
    secure = ran(
        federation,
        "secure",
        secure={},
        steps=both,
        site={"secure_sums": {"limits_of": "pooled"}},
    )
    found, expected = artefact(secure, "risk"), artefact(plain, "risk")
    np.testing.assert_allclose(found.arrays["weights"], expected.arrays["weights"], rtol=0, atol=1e-11)
    assert found.result.together == tuple(sorted(SITES))
    for ours, theirs in zip(found.result.validation, expected.result.validation, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-9)
        assert list(ours.sites) == [TOGETHER]

    score, pooled = artefact(secure, "score").result, artefact(plain, "score").result
    for name, coef in pooled.coef.items():
        assert score.coef[name] == pytest.approx(coef, rel=1e-6)
        assert score.se_patient_clustered[name] == pytest.approx(pooled.se_patient_clustered[name], rel=1e-6)
    assert (score.ecgs, score.patients, score.events) == (pooled.ecgs, pooled.patients, pooled.events)
    assert score.sites[TOGETHER].left_out is None
    assert score.together == tuple(sorted(SITES))

    run = json.loads((secure / "run.json").read_text())["run"]
    for site in SITES:
        left = lines(federation.folder / "state" / site / "releases.jsonl")
        mine = [line for line in left if line["run"] == run and line["step"] in ("risk", "score")]
        assert mine
        assert {field["kind"] for line in mine for field in line["fields"].values()} == {"hidden", "public"}


def test_too_small_a_group_of_all_sites_stays_hidden(federation):
    with pytest.raises(RunError, match="too-few"):
        ran(
            federation,
            "secure",
            secure={},
            steps=[*steps(federation), CALIBRATE],
            site={"limits": {"min_patients": 5, "min_events": 2000}, "secure_sums": {"limits_of": "pooled"}},
        )


def test_shares_that_leave_one_hospital_alone_in_the_sum_are_refused(federation, monkeypatch):
    """A coordinator who says that the others have next to nothing would read the one's update out of the sum."""
    honest = server_describe.training_totals

    def crafted(counts):
        totals = honest(counts)
        return replace(totals, site_weights=np.where(np.arange(len(SITES)) == 0, 0.997, 0.001))

    monkeypatch.setattr(server_describe, "training_totals", crafted)
    run = ran(federation, "crafted", secure={}, steps=steps(federation), federation={"quorum": 3})
    assert artefact(run, "risk").result.together == tuple(sorted(SITES[1:]))
    assert {line["absent"][SITES[0]] for line in lines(run / "history.jsonl") if line["phase"] == "fit+hidden"} == {
        "secure-sum-refused"
    }


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sites": {"train": ["north", "coast"], "zero_shot": ["valley"]}}, "at least 3 sites"),
        ({"secure_sum": {"threshold": 5}}, "does not fit its 4 sites"),
        ({"strategy": {"name": "krum"}}, "compares the sites' own weights"),
        ({"strategy": {"name": "fedmedian"}}, "compares the sites' own weights"),
    ],
)
def test_a_study_that_cannot_be_summed_so_is_refused(federation, changes, what):
    strategy = {key: changes.pop(key) for key in ("strategy",) if key in changes}
    with pytest.raises(ConfigError, match=what):
        ran(federation, "secure", **({"secure": {}, "steps": steps(federation, **strategy)} | _renamed(changes)))


def _renamed(changes: dict[str, Any]) -> dict[str, Any]:
    return {("secure" if key == "secure_sum" else key): value for key, value in changes.items()}


def test_a_site_that_requires_masks_answers_no_plain_question(federation):
    with pytest.raises(RunError, match="secure-sum-required"):
        ran(
            federation,
            "plain",
            secure=None,
            steps=steps(federation),
            site={"secure_sums": {"policy": "required"}},
        )


def test_one_site_requires_masks_and_another_does_not(federation):
    """Asked in the clear, who requires masks is left out and named; asked under masks, all take part."""
    score = {"id": "score", "stage": "calibrate", "target": "male", "split": "train", "inputs": ["age"]}
    quorum = {"federation": {"quorum": 3, "deadline_seconds": 120, "retries": 0}}
    strict, *others = SITES
    runs = {}
    for name, secure in (("plain", None), ("secure", {})):
        study = federation.study(sites=FOUR, steps=[score], **quorum, **({} if secure is None else {"secure_sum": {}}))
        files = federation.sites(secure_sums={"limits_of": "pooled"})
        for file in files:
            if file.stem == strict:
                content = yaml.safe_load(file.read_text())
                content["secure_sums"]["policy"] = "required"
                file.write_text(yaml.safe_dump(content))
        runs[name] = artefact(simulate(study, files, federation.folder / name), "score").result
    assert set(runs["plain"].sites) == {*others}
    assert "secure-sum-required" in str(runs["plain"].absent[strict])
    assert set(runs["secure"].together) == set(SITES)


def test_what_is_opened_is_bit_for_bit_the_plain_sum_of_the_same_fixed_point_numbers(federation, monkeypatch):
    added: dict[tuple[str, int], list[np.ndarray]] = {}
    opened: dict[tuple[str, int], np.ndarray] = {}
    hidden, open_sum = Session.hidden, one_sum.open_sum

    def watched(session, words):
        added.setdefault((session.files.of_sum(0, "").parent.name, session.round), []).append(words.copy())
        return hidden(session, words)

    def seen(words, reveals, published, threshold):
        total = open_sum(words, reveals, published, threshold)
        opened[published.use, len(opened)] = total
        return total

    monkeypatch.setattr(Session, "hidden", watched)
    monkeypatch.setattr(one_sum, "open_sum", seen)
    ran(
        federation,
        "secure",
        secure={},
        steps=[*steps(federation, **FULL_BATCHES), CALIBRATE],
        site={"secure_sums": {"limits_of": "pooled"}},
    )
    plain = [np.sum(words, axis=0, dtype=np.uint64) for words in added.values()]
    assert [len(words) for words in added.values()] == [len(SITES)] * len(added)
    assert len(plain) == len(opened) > 5
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(opened.values(), plain, strict=True))


def test_an_evaluation_goes_under_masks_and_is_that_of_all_sites(federation):
    score = {"id": "score", "stage": "calibrate", "target": "male", "split": "train", "inputs": ["age"]}
    judged = {"id": "judged", "stage": "evaluate", "uses": ["score"], "sites": "train"}
    site = {"secure_sums": {"limits_of": "pooled"}}
    plain = artefact(ran(federation, "plain", secure=None, steps=[score, judged], site=site), "judged").result
    secure = ran(federation, "secure", secure={}, steps=[score, judged], site=site)
    result = artefact(secure, "judged").result
    assert result.sites == {}
    found, expected = result.pooled["training"]["male"], plain.pooled["training"]["male"]
    assert set(found.sites) == set(SITES)
    assert (found.ecgs, found.events, found.event_patients) == (
        expected.ecgs, expected.events, expected.event_patients
    )  # fmt: skip
    assert found.brier == pytest.approx(expected.brier, abs=1e-6)
    assert found.expected_over_observed.value == pytest.approx(expected.expected_over_observed.value, rel=1e-5)
    for name in ("calibration_intercept", "calibration_slope"):
        assert getattr(found, name).value == pytest.approx(getattr(expected, name).value, abs=1e-4)
    assert found.auc.bound_low <= expected.auc.bound_high
    assert expected.auc.bound_low <= found.auc.bound_high
    assert result.absent["pooled"]["subgroups"] == "not told under secure_sum"
    left = lines(federation.folder / "state" / SITES[0] / "releases.jsonl")
    run = json.loads((secure / "run.json").read_text())["run"]
    mine = [line for line in left if line["run"] == run and line["step"] == "judged"]
    assert {field["kind"] for line in mine for field in line["fields"].values()} == {"hidden", "public"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sites": "all"}, "never pooled together"),
        ({"compare": ["risk.male"]}, "each hospital's own figures"),
    ],
)
def test_an_evaluation_that_masks_could_not_tell_is_refused(federation, changes, what):
    sites = {"train": list(SITES[:3]), "zero_shot": [SITES[3]]}
    judged = {"id": "judged", "stage": "evaluate", "uses": ["score", "risk"], "sites": "train"} | changes
    with pytest.raises(ConfigError, match=what):
        ran(federation, "secure", secure={}, sites=sites, steps=[*steps(federation), CALIBRATE, judged])
