"""A hospital remembers whom it spoke of: over steps, studies, runs and restarts."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import yaml
from coordinator import Hospital, cohort, study

from client.approval.register import approve_study
from client.approval.show import show_study
from client.operator.group_lines import group_lines
from client.rows.groups import groups_of
from ecgshared.errors import Refused
from ecgshared.privacy.audit import exposes
from ecgshared.study.study import load_study

LVEF = np.round(np.random.default_rng(2).uniform(0.2, 0.7, 300), 2)


def by_age(name, *limits):
    """A study of calibrate steps that differ in ``max_age`` alone."""
    steps = [{"id": "d", "stage": "describe"}, {"id": "net", "stage": "train", "uses": ["d"], "heads": ["dead"]}]
    for i, limit in enumerate(limits):
        step = {"id": f"c{i}", "stage": "calibrate", "uses": ["net"], "target": "dead", "inputs": ["age", "lvef"]}
        steps.append(step | ({} if limit is None else {"max_age": limit}))
    return study(name=name, covariates=["lvef"], steps=steps)


@pytest.fixture
def hospital(tmp_path):
    return Hospital(tmp_path, cohort(300, covariates={"lvef": LVEF}))


def test_a_group_of_another_study_that_differs_by_a_few_is_refused_by_name(hospital):
    """One study a limit: within none of them do two groups lie near each other."""
    hospital.ask(by_age("first", 60.0), "c0", "moments")
    with pytest.raises(Refused, match=r"differs from what was told by step 'c0' of study 'first' .* fewer than 10"):
        hospital.ask(by_age("second", 61.0), "c0", "moments", run="another")
    again = hospital.ask(by_age("third", 60.0), "c0", "moments", run="again")
    assert np.isfinite(again.total).all(), "the same group is no difference"
    hospital.ask(by_age("fourth", 75.0), "c0", "moments")


def test_the_tracker_isolates_nobody_though_each_limit_is_a_study_of_its_own(hospital):
    """Before: 121 limits a quarter of a year apart gave 39 of 77 patients, exactly."""
    totals = []
    for limit in np.arange(50.0, 80.01, 0.25):
        try:
            totals.append(hospital.ask(by_age(f"limit-{limit * 4:.0f}", float(limit)), "c0", "moments"))
        except Refused:
            continue
    assert len(totals) > 1
    inside = [one for one in totals if np.isfinite(one.counts[1])]
    between = [int(b.counts[1] - a.counts[1]) for a, b in pairwise(inside)]
    assert len(inside) >= 3
    assert all(step == 0 or step >= 10 for step in between)


def test_the_union_of_groups_told_of_counts_as_told(tmp_path):
    """The young and the old were told of: everybody but two is their union less two."""
    data = cohort(300, train=0.0, covariates={"lvef": LVEF})
    odd = np.zeros(300, bool)
    odd[:2] = True
    populations = {"young": data.age < 60, "old": data.age >= 60, "most": ~odd}
    hospital = Hospital(tmp_path, replace(data, populations=populations))
    where = {"young": {"age": {"below": 60}}, "old": {"age": {"at_least": 60}}, "most": {"age": {"below": 80}}}

    def about(*names):
        steps = [{"id": name, "stage": "describe", "population": name} for name in names]
        return study(name="-".join(names), populations={name: {"where": where[name]} for name in names}, steps=steps)

    hospital.holds(replace(hospital.data, populations={"young": populations["young"], "old": populations["old"]}))
    for name in ("young", "old"):
        hospital.ask(about(name), name, "counts")
    hospital.holds(replace(data, populations=populations))
    with pytest.raises(Refused, match="fewer than 10 patients"):
        hospital.ask(about("most"), "most", "counts")


def test_it_survives_a_restart_and_notices_a_line_taken_out(hospital):
    hospital.ask(by_age("first", 60.0), "c0", "moments")
    hospital.holds(hospital.data)
    with pytest.raises(Refused, match="fewer than 10"):
        hospital.ask(by_age("second", 61.0), "c0", "moments")
    log = hospital.settings.state / "groups" / "told.jsonl"
    lines = log.read_text().splitlines()
    assert {json.loads(line)["kind"] for line in lines} == {"people", "set", "told"}
    for kept in (lines[:1] + lines[2:], lines[:-1]):
        log.write_text("\n".join(kept) + "\n")
        hospital.holds(hospital.data)
        with pytest.raises(Refused, match="nothing may be told"):
            hospital.ask(by_age("third", 75.0), "c0", "moments")


def test_a_forgotten_patient_closes_the_same_figures_and_no_others(hospital):
    one = by_age("first", 60.0)
    hospital.holds(hospital.keyed())
    hospital.ask(one, "d", "counts")
    young = int(np.flatnonzero((hospital.data.split == 1) & (hospital.data.age < 60))[0])
    hospital.ask(one, "c0", "moments")
    hospital.holds(hospital.without(young))
    for step, phase in (("d", "counts"), ("c0", "moments")):
        with pytest.raises(Refused, match="people who left since"):
            hospital.ask(one, step, phase, run="after")
    # What was never told with the person may be told without.
    steps = [{"id": "d", "stage": "describe"}, {"id": "net", "stage": "train", "uses": ["d"], "heads": ["dead"]}]
    steps.append({"id": "cut", "stage": "threshold", "uses": ["net"], "score": "net.dead", "max_age": 60.0})
    other = study(name="other", covariates=["lvef"], steps=steps, input={"fs_hz": 100, "seconds": 2})
    context = hospital.site.context(other, _request(other, "cut", "scale"), ledger=None)
    assert young not in context.data.record_keys


def _request(asked, step, phase):
    from ecgshared.wire.protocol import Request

    return Request(asked.sha256, "r", step, phase, 0, {})


def test_newcomers_wait_until_they_are_many_enough(hospital):
    whole = hospital.keyed()
    few = np.flatnonzero(whole.split == 1)[:4]
    hospital.holds(whole.subset(np.setdiff1d(np.arange(300), few)))
    first = hospital.ask(study(name="before"), "d", "counts")
    hospital.holds(whole)
    second = hospital.ask(study(name="after"), "d", "counts")
    np.testing.assert_array_equal(first.patients, second.patients)
    np.testing.assert_array_equal(first.table1, second.table1)
    reasons = [json.loads(line) for line in (hospital.settings.state / "site.log").read_text().splitlines()]
    assert any(line["event"] == "newcomers-wait" and line["ecgs"] == 4 for line in reasons)


def test_horizons_that_differ_by_one_death_are_told_of_once(tmp_path):
    """Two endpoints of one column of deaths, but for one person."""
    y = np.zeros((300, 2))
    y[:60] = 1
    y[60, 1] = 1
    heads = {name: {"kind": "binary", "column": "dead"} for name in ("dead_a", "dead_b")}
    hospital = Hospital(tmp_path, cohort(300, heads=tuple(heads), y=y))
    found = hospital.ask(study(endpoints=heads), "d", "counts")
    events, age = found.events, found.table1[:, 0, 0]
    split = hospital.data.split[60]
    assert np.isfinite(events[0, :2]).all()
    assert np.isnan(events[1, split])
    assert np.isfinite(age[[0, 1]]).all()
    assert not (np.isfinite(age[1]) and np.isfinite(age[3])), "with the one's death, and without it"


@pytest.mark.parametrize("seed", range(6))
def test_nothing_small_can_be_solved_from_table_1(tmp_path, seed):
    """Random labels with rare cases and missing ones; the solver tries every cell of which a mean was told."""
    rng = np.random.default_rng(seed)
    y = (rng.random((120, 3)) < rng.uniform(0.01, 0.4, 3)).astype(float)
    y[rng.random((120, 3)) < rng.uniform(0, 0.1)] = np.nan
    data = cohort(120, heads=("a", "b", "c"), y=y, seed=seed, covariates={"lvef": LVEF[:120]})
    heads = {name: {"kind": "binary", "column": name} for name in data.heads}
    found = Hospital(tmp_path, data).ask(study(endpoints=heads, covariates=["lvef"]), "d", "counts")
    groups = [np.ones(120, bool)] + [data.labels[:, h] == v for h in range(3) for v in (1, 0)]
    told = [rows for g, rows in enumerate(groups) if np.isfinite(found.table1[g, 0, 0])]
    if np.isfinite(found.age_sums).all():
        told.append(data.split == 0)
    for i, rows in enumerate(told):
        assert exposes(np.array(told[:i], dtype=bool).reshape(i, 120), rows, data.patient, 10) is None
    table = np.array(told, dtype=float)
    for person in np.eye(120):
        assert np.linalg.matrix_rank(np.vstack([table, person])) > np.linalg.matrix_rank(table)


def test_groups_are_shown_with_their_sizes_before_a_study_is_approved(hospital, monkeypatch):
    monkeypatch.setattr("client.operator.group_lines.open_cohort", lambda *_, **__: (hospital.data, None))
    asked = by_age("two-limits", 60.0, 60.25)
    lines = group_lines(hospital.settings, asked)
    inside = int(((hospital.data.split == 1) & (hospital.data.age < 60)).sum())
    assert f"  c0: everybody eligible under 60 years, validation: {inside} patient(s)" in lines
    assert any(line.startswith("  c1: WOULD BE REFUSED: ") and "fewer than 10 patients" in line for line in lines)
    assert lines[-1] == "  1 step(s) would be refused here"


def test_what_is_told_is_on_record_before_it_is_kept_to_be_sent(hospital, monkeypatch):
    """Killed between the two, a site has told of nobody and remembers it did: over-counted, never under-counted."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("client.egress.outbox.Outbox.keep", killed)
    with pytest.raises(KeyboardInterrupt):
        hospital.ask(by_age("first", 60.0), "c0", "moments")
    monkeypatch.undo()
    hospital.holds(hospital.data)
    with pytest.raises(Refused, match="fewer than 10"):
        hospital.ask(by_age("second", 61.0), "c0", "moments")


def test_what_protects_is_shown_in_words_that_are_true(tmp_path):
    lines = {}
    for policy in ("private", "secure_sum", "plain"):
        hospital = Hospital(tmp_path / policy, cohort(60), privacy={"weights": policy, "total_epsilon": 20})
        lines[policy] = "\n".join(show_study(hospital.settings, by_age("shown", 60.0)))
        assert "all studies together 20" in lines[policy]
        assert "nothing about a single person" not in lines[policy]
    assert "PLAIN WEIGHTS of net LEAVE" in lines["plain"]
    assert "can get ECGs, ages and labels of single training patients" in lines["plain"]
    assert "REFUSED:  net: plain training, and this site sends private weights only" in lines["private"]
    assert "REFUSED:  net: plain training, unless its weights are added under masks" in lines["secure_sum"]


def test_a_renamed_study_is_warned_of(tmp_path):
    hospital = Hospital(tmp_path, cohort(60))
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(
            yaml.safe_dump(by_age(name, 60.0).model_dump(mode="json", by_alias=True))
        )
    approve_study(hospital.settings.state, tmp_path / "first.yaml")
    shown = show_study(hospital.settings, load_study(tmp_path / "second.yaml"))
    assert shown[-1].startswith("LOOK: the approved study first (")
    assert "their costs add up" in shown[-1]
    assert not show_study(hospital.settings, load_study(tmp_path / "first.yaml"))[-1].startswith("LOOK")


def test_of_events_joined_those_with_one_and_not_the_other_are_not_told(tmp_path):
    """Before: sudden death or VF/VT less sudden death was three patients with VF/VT."""
    n, rng = 300, np.random.default_rng(8)
    scd = rng.random(n) < 0.2
    either = scd.copy()
    either[np.flatnonzero(~scd)[:3]] = True
    ends = {
        "scd_1y": {"kind": "time_to_event", "event": "scd", "horizon_years": 1},
        "either_1y": {"kind": "time_to_event", "event": ["scd", "vfvt"], "horizon_years": 1},
    }
    data = cohort(n, train=1.0, heads=tuple(ends), y=np.stack([scd, either], axis=1).astype(float))
    told = Hospital(tmp_path, data).ask(study(endpoints=ends), "d", "counts")
    assert told.events[0, 0] == scd.sum()
    assert np.isnan(told.events[1, 0])
    either[~scd] = np.arange((~scd).sum()) < 30
    data = cohort(n, train=1.0, heads=tuple(ends), y=np.stack([scd, either], axis=1).astype(float))
    told = Hospital(tmp_path / "many", data).ask(study(endpoints=ends), "d", "counts")
    assert told.events[:, 0].tolist() == [scd.sum(), either.sum()], "thirty more are enough to be told apart"


def test_what_a_net_says_is_an_input_that_tells_nobodys_label(tmp_path):
    """Before: the calibration of one event was closed where another event of its net is known of a few less."""
    n, rng = 300, np.random.default_rng(9)
    y = (rng.random((n, 2)) < 0.3).astype(float)
    y[:3, 1] = np.nan
    data = cohort(n, train=1.0, heads=("dead", "ill"), y=y)
    asked = study(
        endpoints={name: {"kind": "binary", "column": name} for name in ("dead", "ill")},
        steps=[
            {"id": "d", "stage": "describe"},
            {"id": "net", "stage": "train", "uses": ["d"], "heads": ["dead", "ill"]},
            {
                "id": "c",
                "stage": "calibrate",
                "uses": ["net"],
                "target": "dead",
                "split": "train",
                "inputs": ["net.dead", "net.ill", "age"],
            },
        ],
    )
    spoken = groups_of(data, asked, asked.step("c"), Hospital(tmp_path, data).settings.limits, trains=True)
    assert spoken
    assert not [one.name for one in spoken if "ill" in one.name]
