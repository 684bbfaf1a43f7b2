"""Training on training and validation patients before the lockbox opens, and lockbox openings counted over studies."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from client.answer import Sites, answer_bytes
from client.approval.show import show_study
from client.dataset.opening import open_site
from client.operator.cli import app
from client.site.lockbox import LOCKBOX_FILE, lockbox_openings
from client.site.settings import load_site
from ecgshared.errors import ConfigError, PrivacyError, RefusalCode, Refused
from ecgshared.study.study import load_study
from ecgshared.wire.protocol import Request
from server.report.html import render
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

JUDGED = {"id": "judged", "stage": "evaluate", "uses": ["final"], "score": "final.death_2y"}


def retrained(federation, *more, **train):
    step = federation.train(rounds=1) | {"id": "final", "on": ["train", "validation"]} | train
    return federation.study(steps=[{"id": "cohorts", "stage": "describe"}, step, *more])


def artefacts(run, *steps):
    folder = RunFolder.reopen(run)
    folder.close()
    return [folder.artefact(step) for step in steps]


def test_a_net_is_trained_on_both_and_judged_by_the_lockbox_alone(federation):
    study_file, files = retrained(federation, JUDGED), federation.sites()
    run = simulate(study_file, files, federation.folder / "run")
    described, final, judged = artefacts(run, "cohorts", "final", "judged")
    assert final.result.kept_round == 1
    assert all(line.loss is None for line in final.result.validation)
    assert judged.result.sites["north"].heads["death_2y"].ecgs > 0
    study = load_study(study_file)
    data = {load_site(file).site: open_site(load_site(file), study) for file in files}
    both = [d.labels[d.rows("train", "validation")] for site, d in data.items() if site != "island"]
    counts = (~np.isnan(np.concatenate(both))).sum(axis=0)
    np.testing.assert_array_equal(described.arrays["head_counts_train_validation"], counts)
    ecgs = np.array([len(data[s].rows("train", "validation")) for s in ("north", "coast", "valley")])
    np.testing.assert_allclose(described.arrays["site_weights_train_validation"], ecgs / ecgs.sum())
    alone = simulate(federation.study(), federation.sites(), federation.folder / "alone")
    (plain,) = artefacts(alone, "risk")
    assert (plain.arrays["weights"] != final.arrays["weights"]).any()


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"id": "score", "stage": "calibrate", "uses": ["final"], "target": "death_2y"}, "'score' reads validation"),
        ({"id": "cut", "stage": "threshold", "uses": ["final"], "score": "final.death_2y"}, "'cut' reads validation"),
    ],
)
def test_validation_patients_that_were_trained_on_judge_nothing(federation, step, says):
    with pytest.raises(ConfigError, match=says):
        load_study(retrained(federation, step))


def test_what_the_paper_did_can_be_said(federation):
    """Calibrated on training patients, then straight to the lockbox."""
    score = {"id": "score", "stage": "calibrate", "uses": ["final"], "target": "death_2y", "split": "train"}
    last = {"id": "judged", "stage": "evaluate", "uses": ["score"]}
    assert load_study(retrained(federation, score, last)).step("judged").uses == ("score",)


@pytest.mark.parametrize("changes", [{"keep": "best"}, {"early_stopping": {"patience": 2}}, {"on": ["validation"]}])
def test_who_is_trained_on_cannot_choose(federation, changes):
    with pytest.raises(ConfigError, match=r"nobody is left to choose|on must be"):
        load_study(retrained(federation, **changes))


def test_the_site_refuses_to_validate_what_it_trained_on(federation):
    study = load_study(retrained(federation))
    request = Request(study.sha256, "r", "final", "validate", 1, {})
    with pytest.raises(Refused, match="judge nothing") as refused:
        answer_bytes(Sites()[federation.sites()[0]], study, request)
    assert refused.value.code is RefusalCode.BAD_REQUEST


def test_a_study_that_trains_as_before_has_the_hash_it_had(federation):
    assert "on" not in load_study(federation.study()).steps[1].model_dump(mode="json")


def test_openings_of_the_lockbox_are_counted_over_studies_and_told(federation):
    judged = JUDGED | {"uses": ["risk"], "score": "risk.death_2y"}
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train(rounds=1), judged]
    files = federation.sites()
    first = simulate(federation.study(name="first", steps=steps), files, federation.folder / "one")
    second_file = federation.study(name="second", steps=steps)
    site = load_site(files[0])
    assert len(lockbox_openings(site.state)) == 1
    shown = "\n".join(show_study(site, load_study(second_file)))
    assert "it was opened before by 1 run(s): first" in shown
    second = simulate(second_file, files, federation.folder / "two")
    before = [artefacts(run, "cohorts")[0].result.sites["north"].lockbox_openings for run in (first, second)]
    assert before == [0, 1]
    assert artefacts(second, "cohorts")[0].result.sites["island"].lockbox_openings == 0
    page = render(second).read_text(encoding="utf-8")
    assert "have opened before, and how often: north 1, coast 1, valley 1" in page
    said = CliRunner().invoke(app, ["lockbox", str(files[0])])
    assert said.exit_code == 0
    assert "opened by 2 run(s) of 2 study version(s)" in said.stdout
    told = [
        json.loads(line) for line in CliRunner().invoke(app, ["lockbox", str(files[0]), "--json"]).stdout.splitlines()
    ]
    assert [line["name"] for line in told] == ["first", "second"]
    record = site.state / LOCKBOX_FILE
    record.write_text(record.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    with pytest.raises(PrivacyError):
        lockbox_openings(site.state)
