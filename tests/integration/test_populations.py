"""A study trains on all ages and reports on some: each step is about the population it names, at every site."""

from __future__ import annotations

import numpy as np
import pytest

from client.answer import Sites
from client.dataset.opening import open_site
from client.site.settings import load_site
from ecgshared.errors import ConfigError, Refused
from ecgshared.study.study import load_study
from ecgshared.wire.protocol import Request
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

POPULATIONS = {
    "under_70": {"label": "under 70", "where": {"age": {"below": 70}}},
    "women": {"where": {"sex": "F"}},
    "last": {"most_recent_only": True},
}


def artefact(run, step):
    folder = RunFolder.reopen(run)
    folder.close()
    return folder.artefact(step)


def judged(name, population):
    step = {"id": name, "stage": "evaluate", "uses": ["risk"], "score": "risk.death_2y", "sites": ["island"]}
    return step | ({"population": population} if population else {})


def test_each_step_is_about_its_population(federation):
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train()]
    steps += [judged("everybody", None), judged("younger", "under_70"), judged("women", "women")]
    steps += [{"id": "table_of_women", "stage": "describe", "population": "women"}]
    study = federation.study(populations=POPULATIONS, steps=steps)
    sites = federation.sites()
    run = simulate(study, sites, federation.folder / "run")
    data = open_site(load_site(sites[3]), load_study(study))
    cells = data.labels[:, data.heads.index("death_2y")]
    for step, belongs in (
        ("everybody", np.ones(len(data), dtype=bool)),
        ("younger", data.age < 70),
        ("women", data.male == 0),
    ):
        counts = artefact(run, step).result.sites["island"].heads["death_2y"]
        assert counts.ecgs == (belongs & ~np.isnan(cells)).sum()
        assert counts.events == (belongs & (cells == 1)).sum()
    table = artefact(run, "table_of_women").result.sites["island"]
    assert table.flow[-1].reason == "not of the population women"
    assert table.flow[-1].ecgs == (data.male == 0).sum()


def test_a_population_that_leaves_out_a_few_patients_is_refused_at_the_site(federation):
    """Under a hospital's limits: what is told of nearly everybody, beside everybody, tells of the few left out."""
    few = {"but_the_oldest": {"where": {"age": {"below": 85}}}}
    steps = [{"id": "t", "stage": "describe"}, {"id": "d", "stage": "describe", "population": "but_the_oldest"}]
    study_file = federation.study(populations=few, steps=steps)
    site = federation.sites(("north",), limits={"min_patients": 10, "min_events": 5})[0]
    study = load_study(study_file)
    assert 0 < (~open_site(load_site(site), study).populations["but_the_oldest"]).sum() < 10
    context = Sites()[site].context
    assert len(context(study, Request(study.sha256, "r", "t", "counts", 0, {}), ledger=None).data) > 0
    with pytest.raises(Refused, match="differs from 'everybody eligible' by fewer than 10 patients"):
        context(study, Request(study.sha256, "r", "d", "counts", 0, {}), ledger=None)


def test_an_age_limit_that_leaves_out_a_few_patients_is_refused_at_the_site(federation):
    """An age limit of a step names a group as a population does."""
    limits = {"min_patients": 10, "min_events": 5}
    site = federation.sites(("island",), limits=limits)[0]
    age = open_site(load_site(site), load_study(federation.study())).age
    oldest, middle = float(np.floor(np.sort(age)[-3])), float(np.median(age))
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train()]
    for name, limit in (("all_ages", None), ("most", oldest), ("younger", middle), ("nearly", middle + 0.1)):
        steps.append(judged(name, None) | {"max_age": limit})
    study = load_study(federation.study(steps=steps))

    def context(step):
        return Sites()[site].context(study, Request(study.sha256, "r", step, "local", 0, {}), ledger=None)

    assert len(context("all_ages").data) > 0
    assert len(context("younger").data) > 0
    with pytest.raises(Refused, match="differs from 'everybody eligible' by fewer than 10 patients"):
        context("most")
    with pytest.raises(Refused, match=r"differs from 'everybody under .* years' by fewer than 10 patients"):
        context("nearly")


def test_a_step_of_no_population_of_the_study_is_named(federation):
    steps = [{"id": "t", "stage": "describe", "population": "womn"}]
    with pytest.raises(ConfigError, match="no population is called 'womn'; did you mean 'women'"):
        load_study(federation.study(populations=POPULATIONS, steps=steps))


def test_counts_and_training_are_about_the_same(federation):
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train(population="women")]
    with pytest.raises(ConfigError, match="trains on women, but 'cohorts' counts everybody eligible"):
        load_study(federation.study(populations=POPULATIONS, steps=steps))


def test_hospitals_that_cannot_speak_of_a_step_do_not_end_the_run(federation):
    """Each site refuses a group that leaves out a few: the step says so and has no figure, later steps go on."""
    study = federation.study(
        populations={"but_the_oldest": {"where": {"age": {"below": 85}}}},
        steps=[
            {"id": "cohorts", "stage": "describe"},
            federation.train(rounds=1),
            judged("nearly_all", "but_the_oldest") | {"sites": ["north"]},
            judged("all", None),
        ],
    )
    run = simulate(study, federation.sites(limits={"min_patients": 10, "min_events": 5}), federation.folder / "run")
    result = artefact(run, "nearly_all").result
    assert result.sites == {}
    assert result.absent == {"north": {"local": "too-few"}}
    assert artefact(run, "all").result.sites
