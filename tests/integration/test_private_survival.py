"""Curves and a Cox model for an epsilon: through the apps, charged once, refused when the budget is gone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from client.dataset.opening import open_site
from client.egress.ledger import Ledger
from client.site.settings import load_site
from ecgshared.errors import ConfigError, RunError
from ecgshared.study.study import load_study
from server.report.html import render
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

STEP = {
    "id": "counts",
    "stage": "private_survival",
    "event": "death",
    "inputs": [{"name": "age", "cuts": [60]}, {"name": "male"}],
    "horizon_years": 4,
    "grid_years": 1,
    "privacy": {"epsilon": 4, "delta": 1e-4},
}
NAMES = ("north", "coast", "valley")


def result(run):
    folder = RunFolder.reopen(run)
    folder.close()
    found = folder.artefact("counts")
    assert found is not None
    return found.result


def test_one_message_is_charged_told_and_repeated_for_nothing(federation):
    study, sites = federation.study(steps=[STEP]), federation.sites()
    run = simulate(study, sites, federation.folder / "run")
    found = result(run)
    assert set(found.curves) == {"everybody", "age below 60", "age 60 or more", "not male", "male"}
    assert set(found.coefficients) == {"age 60 or more", "male"}
    assert 0 < found.curves["everybody"][0].survival <= 1
    assert set(found.sites) == set(NAMES)
    for name in NAMES:
        ledger = Ledger(federation.folder / "state" / name)
        (charge,) = ledger.entries()
        assert (charge.step, charge.spent.steps, charge.spent.sample_rate, charge.answered) == ("counts", 1, 1.0, True)
        assert ledger.total()[0] == pytest.approx(found.sites[name].epsilon_spent) == pytest.approx(4, rel=0.01)
        assert charge.spent.noise_multiplier == found.sites[name].noise_multiplier
    assert found.noise_sd == pytest.approx(np.sqrt(3) * found.sites["north"].noise_multiplier)
    page = render(run).read_text(encoding="utf-8")
    assert "Differential privacy with the patient as the unit" in page
    assert "Cox model" in page
    assert "What was tried on it" not in page, "no attack aims at noised counts"


def test_nothing_but_noise_stands_between_the_table_and_the_cohort(federation, monkeypatch):
    """With the noise turned off: each of the site's patients once, those who are followed in their own cell."""
    import torch

    import client.stages.private_survival as stage

    seen = {}
    monkeypatch.setattr(stage, "secure_gaussian", lambda size, **_: torch.zeros(size, dtype=torch.float64))
    counts = stage._counts
    monkeypatch.setattr(stage, "_counts", lambda site, step: seen.setdefault(site.settings.site, counts(site, step)))
    path, sites = federation.study(steps=[STEP]), federation.sites()
    found = result(simulate(path, sites, federation.folder / "run"))
    study, deaths, people = load_study(path), 0, 0
    for file in sites[:3]:
        settings = load_site(file)
        data = open_site(settings, study)
        rows = data.rows("train", "validation")
        times = data.event_times["death"].take(rows)
        last = {}
        for i, row in enumerate(rows):
            if np.isfinite(times.years[i]) and np.isfinite(data.age[row]) and np.isfinite(data.male[row]):
                when = row if data.chronology is None else data.chronology[row]
                last[int(data.patient[row])] = max(last.get(int(data.patient[row]), (-1, -1)), (when, i))
        deaths += sum(bool(times.observed[i]) and times.years[i] <= 4 for _, i in last.values())
        people += len(np.unique(data.patient[rows]))
        table, patients = seen[settings.site]
        assert table.sum() == patients == len(np.unique(data.patient[rows]))
        assert patients - table[0] == len(last)
    assert found.patients == people
    assert sum(point.events for point in found.curves["everybody"]) == pytest.approx(deaths)


def test_a_spent_budget_and_a_strict_cap_hold_here_too(federation):
    sites = federation.sites(privacy={"max_epsilon": 2.0, "max_delta": 1e-4})
    found = result(simulate(federation.study(steps=[STEP]), sites, federation.folder / "one"))
    assert all(site.epsilon_spent <= 2.0 for site in found.sites.values())
    with pytest.raises(RunError, match="budget-spent"):
        simulate(federation.study(steps=[STEP]), sites, federation.folder / "two")
    with pytest.raises(RunError, match="budget-spent"):
        simulate(federation.study(name="renamed", steps=[STEP]), sites, federation.folder / "three")


def test_what_leaves_is_one_array_of_noised_numbers(federation):
    simulate(federation.study(steps=[STEP]), federation.sites(), federation.folder / "run")
    log = (federation.folder / "state" / "north" / "releases.jsonl").read_text(encoding="utf-8").splitlines()
    (line,) = [json.loads(one) for one in log]
    assert set(line["fields"]) == {"patients", "counts", "noise_sd", "epsilon_spent", "delta"}
    assert line["fields"]["counts"]["shape"] == [4 * (2 * 4 + 1) + 1]


def test_an_input_that_the_study_lacks_is_named(federation):
    step = STEP | {"inputs": [{"name": "creatinine", "cuts": [1]}]}
    with pytest.raises(ConfigError, match="creatinine"):
        load_study(federation.study(steps=[step]))


FOUR = ("north", "coast", "valley", "island")


def test_under_masks_the_sites_share_the_noise_of_the_sum(federation):
    """Of four sites three open the sum, one may tell its noise: the noise of the sum is sigma sqrt(4 / 2)."""
    study = federation.study(sites={"train": list(FOUR), "zero_shot": []}, steps=[STEP], secure_sum={})
    run = simulate(study, federation.sites(), federation.folder / "run")
    found = result(run)
    (account,) = found.sites.values()
    sigmas = []
    for name in FOUR:
        ledger = Ledger(federation.folder / "state" / name)
        (charge,) = ledger.entries()
        assert charge.answered
        assert ledger.total()[0] == pytest.approx(4, rel=0.01)
        sigmas.append(charge.spent.noise_multiplier)
    assert found.noise_sd == account.noise_multiplier
    assert found.noise_sd == pytest.approx(np.sqrt(sum(sigma**2 / 2 for sigma in sigmas)), rel=1e-4)
    # Without masks it is sigma sqrt(4).
    assert found.noise_sd < 0.75 * np.sqrt(sum(sigma**2 for sigma in sigmas))
    assert set(found.together) == set(FOUR)
    left = (federation.folder / "state" / "north" / "releases.jsonl").read_text().splitlines()
    fields = [field for line in left for field in json.loads(line)["fields"].values()]
    assert {field["kind"] for field in fields} == {"hidden", "public"}
    assert "the hospitals together added noise once" in render(run).read_text(encoding="utf-8")


def test_under_masks_the_table_less_its_noise_is_that_of_all_sites(federation, monkeypatch):
    import client.stages.private_survival as stage

    exact = {}
    counts = stage._counts
    monkeypatch.setattr(stage, "_counts", lambda site, step: exact.setdefault(site.settings.site, counts(site, step)))
    monkeypatch.setattr(stage, "noised", lambda values, shares, sites: values)
    study = federation.study(sites={"train": list(FOUR), "zero_shot": []}, steps=[STEP], secure_sum={})
    found = result(simulate(study, federation.sites(), federation.folder / "run"))
    assert found.patients == sum(patients for _, patients in exact.values())
    total = np.sum([table for table, _ in exact.values()], axis=0)
    assert found.curves["everybody"][0].at_risk == pytest.approx(total[1:].sum(), abs=0.5)


def test_more_who_may_collude_than_open_a_sum_are_refused(federation):
    study = federation.study(sites={"train": list(FOUR), "zero_shot": []}, steps=[STEP], secure_sum={"colluding": 3})
    with pytest.raises(ConfigError, match="no site whose noise"):
        simulate(study, federation.sites(), federation.folder / "run")
