"""A coordinator attacks one hospital through its own door: what each attack got before stands beside what it gets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from coordinator import Hospital, cohort, study

from client.operator.releases import budget_lines
from ecgshared.errors import RefusalCode, Refused
from ecgshared.learning.layout import Layout
from ecgshared.models import build
from ecgshared.stages.train_net import head_specs, initial_weights
from ecgshared.study.endpoints import EventTimes

TOTALS = {
    "d__head_counts": np.array([1.0]),
    "d__site_weights": np.array([1.0]),
    "d__standardise": np.array([[60.0, 10.0], [0.0, 1.0]]),
}
PLAIN_NET = {"id": "net", "stage": "train", "uses": ["d"], "heads": ["dead"]}
INPUT = {"fs_hz": 100, "seconds": 2}


def of_net(name="asked", *more, **net):
    return study(name=name, input=INPUT, steps=[{"id": "d", "stage": "describe"}, PLAIN_NET | net, *more])


def lockbox_third(n, seed=4):
    data = cohort(n, seed=seed, samples=200)
    data.split[:] = np.random.default_rng(seed).choice(3, n)
    return data


def window(asked, low, high, *, logit=40.0):
    """Weights whose score is 1 for ages between ``low`` and ``high``, and 0 for all others."""
    model = build(asked.step("net").model, head_specs(asked.step("net"), asked), 200, 0, torch.float32)
    layout = Layout.of(model, "full")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        age, steep = model.hidden.in_features - 2, 1e5
        for j, at in enumerate((low, low + 1e-3, high, high + 1e-3)):
            model.hidden.weight[j, age], model.hidden.bias[j] = steep, float(-steep * (at - 60) / 10)
        model.output.weight[0, :4] = torch.tensor([1.0, -1.0, -1.0, 1.0]) * (2 * logit / (steep * 1e-4))
        model.output.bias[0] = -logit
    return layout.flatten(model)


@pytest.mark.parametrize(
    ("local", "why"),
    [
        ({"steps": 1, "batch_size": 1}, "fewer patients than a group"),
        ({"steps": 40, "batch_size": 4}, "fewer patients than a group"),
        ({"steps": 1, "batch_size": None}, "hands over the gradient"),
        ({"epochs": 1, "batch_size": None}, "hands over the gradient"),
        ({"steps": 1, "batch_size": 32}, "hands over the gradient"),
    ],
)
def test_no_update_of_one_ecg_or_of_one_gradient_leaves(tmp_path, local, why):
    """Before: one patient's age, sex, label and ECG (correlation 0.98) a round; 50 of 64 ECGs of one full batch."""
    asked = of_net(local=local, optimiser={"name": "sgd", "lr": 1.0})
    _, first, _ = initial_weights(asked.step("net"), asked)
    hospital = Hospital(tmp_path, cohort(80, samples=200), privacy={"weights": "plain"})
    with pytest.raises(Refused, match=why) as refused:
        hospital.ask(asked, "net", "fit", round=1, weights=first, **TOTALS)
    assert refused.value.code is RefusalCode.TOO_FEW


@pytest.mark.parametrize("policy", ["private", "secure_sum"])
def test_weights_in_the_clear_leave_where_the_operator_chose_it_alone(tmp_path, policy):
    asked = of_net()
    _, first, _ = initial_weights(asked.step("net"), asked)
    hospital = Hospital(tmp_path / "closed", cohort(120, samples=200), privacy={"weights": policy})
    with pytest.raises(Refused, match="plain weights do not leave") as refused:
        hospital.ask(asked, "net", "fit", round=1, weights=first, **TOTALS)
    assert refused.value.code is RefusalCode.PRIVACY_REQUIRED
    hospital = Hospital(tmp_path / "open", cohort(120, samples=200), privacy={"weights": "plain"})
    assert len(hospital.ask(asked, "net", "fit", round=1, weights=first, **TOTALS).update) == len(first)


def test_the_first_round_begins_at_the_seed(tmp_path):
    asked = of_net()
    _, first, _ = initial_weights(asked.step("net"), asked)
    hospital = Hospital(tmp_path, cohort(120, samples=200))
    with pytest.raises(Refused, match="not those of the study's seed"):
        hospital.ask(asked, "net", "fit", round=1, weights=window(asked, 50, 60), **TOTALS)
    hospital.ask(asked, "net", "fit", round=1, weights=first, **TOTALS)


JUDGED = {"id": "judged", "stage": "evaluate", "uses": ["net"], "score": "net.dead"}


def test_a_score_made_for_one_person_tells_nothing_of_them(tmp_path):
    """Before: one question gave a known person's outcome, 617 the age and outcome of all 45 in the lockbox."""
    asked, data = of_net("judged", JUDGED), lockbox_third(150)
    person = int(np.flatnonzero(data.split == 2)[0])
    arrays = {"net__standardise": TOTALS["d__standardise"]}
    one = window(asked, data.age[person] - 0.02, data.age[person] + 0.02)
    for phase in ("local", "scale", "histogram", "placement", "slope"):
        with pytest.raises(Refused, match="sets a few patients apart"):
            Hospital(tmp_path / phase, data).ask(asked, "judged", phase, net__weights=one, **arrays)
    for years in (0.6, 1.0):
        hospital = Hospital(tmp_path / str(years), data)
        weights = window(asked, data.age[person] - years, data.age[person] + years)
        found = hospital.ask(asked, "judged", "local", net__weights=weights, **arrays)
        assert np.isfinite(found.counts).all()
        told = (found.mean_predicted, found.brier, found.auc, found.average_precision, found.expected_over_observed)
        assert all(np.isnan(figure).all() for figure in told)


def test_age_bands_moved_by_a_year_tell_of_nobody_between(tmp_path):
    """Subgroups of two steps are held against each other as groups are."""
    bands = [(0, 60, 130), (0, 61, 130), (0, 62, 130)]
    steps = [JUDGED | {"id": f"judged{i}", "subgroups": ["age"], "age_bands": list(b)} for i, b in enumerate(bands)]
    asked, data = of_net("bands", *steps), lockbox_third(400)
    _, first, _ = initial_weights(asked.step("net"), asked)
    arrays = {"net__weights": first, "net__standardise": TOTALS["d__standardise"]}
    hospital = Hospital(tmp_path, data)
    counts = [hospital.ask(asked, step["id"], "local", **arrays).subgroup_counts[0] for step in steps]
    assert np.isfinite(counts[0][:2]).all()
    for other in counts[1:]:
        between = other[:, 1] - counts[0][:, 1]
        assert not ((np.abs(between) > 0) & (np.abs(between) < 10)).any()
    assert any(np.isnan(other[:2]).any() for other in counts[1:])


def cuts_of(stage, *, n=20, **more):
    """A study with so many thresholds of one score, and a step that tells of the high-risk group of each."""
    steps = []
    for i in range(n):
        steps.append({"id": f"t{i}", "stage": "threshold", "uses": ["net"], "score": "net.dead"})
        steps.append({"id": f"h{i}", "stage": stage, "uses": [f"t{i}"]} | more)
    return of_net("thresholds", *steps)


def linear(asked):
    """Weights whose logit is (age - 60) / 10."""
    model = build(asked.step("net").model, head_specs(asked.step("net"), asked), 200, 0, torch.float32)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.hidden.weight[0, model.hidden.in_features - 2], model.hidden.bias[0] = 1.0, 10.0
        model.output.weight[0, 0], model.output.bias[0] = 1.0, -10.0
    return Layout.of(model, "full").flatten(model)


def of_cut(asked, i, years):
    cut = (years - 60) / 10
    arrays = {f"t{i}__cut": np.array([cut]), f"t{i}__cutoff": 1 / (1 + np.exp(-np.array([cut])))}
    return arrays | {"net__weights": linear(asked), "net__standardise": TOTALS["d__standardise"]}


def told_apart(sizes):
    """Differences of sizes of high-risk groups that were told, NaN left out."""
    known = np.array([size for size in sizes if np.isfinite(size)])
    assert len(known) >= 2, "the first group, and one far enough from it, are told"
    return np.abs(known[:, None] - known[None]).ravel()


def high_risk_size(stage, told, everybody):
    if stage == "evaluate":
        return np.round(told.at_threshold[0, 0, 0] * everybody)
    if stage == "overlap":
        return told.sizes[1, 0]
    return told.total[0] if stage == "regress" else told.groups[0]


@pytest.mark.parametrize("stage", ["high_risk", "overlap", "evaluate", "regress"])
def test_thresholds_moved_by_a_year_tell_of_nobody_between(tmp_path, stage):
    """Before: age, sex, LVEF and BMI of twelve patients from forty cuts of one study."""
    more = {
        "overlap": {"marker": "male", "outcome": "dead", "size_matched": False},
        "evaluate": {"score": "net.dead"},
        "regress": {"outcome": ["dead"], "models": [{"name": "m", "terms": ["high_risk", "age"]}]},
    }.get(stage, {})
    asked, hospital = cuts_of(stage, **more), Hospital(tmp_path, lockbox_third(500))
    sizes = []
    # Twenty cuts, a year apart: some far enough from the first to be told.
    for i in range(20):
        phase = {"overlap": "cells", "evaluate": "local", "regress": "cohort"}.get(stage, "tell")
        try:
            told = hospital.ask(asked, f"h{i}", phase, **of_cut(asked, i, 52 + i))
        except Refused as refused:
            assert refused.code is RefusalCode.TOO_FEW  # noqa: PT017  some are told, and some are not
            continue
        sizes.append(high_risk_size(stage, told, (hospital.data.split == 2).sum()))
    between = told_apart(sizes)
    assert not ((between > 0) & (between < 10)).any()


def test_bounds_moved_by_a_hair_tell_of_nobody_between(tmp_path):
    """A marker's bound is the study's, and a study may have many steps."""
    bounds = [0.30, *(0.35 + i / 500 for i in range(16)), 0.5]
    steps = [{"id": "t0", "stage": "threshold", "uses": ["net"], "score": "net.dead"}]
    steps += [
        {"id": f"h{i}", "stage": "overlap", "uses": ["t0"], "marker": f"lvef<={bound:.3f}", "size_matched": False}
        for i, bound in enumerate(bounds)
    ]
    asked = study(
        name="bounds",
        input=INPUT,
        covariates=["lvef"],
        steps=[{"id": "d", "stage": "describe"}, PLAIN_NET, *steps],
    )
    data = lockbox_third(600)
    lvef = np.round(np.random.default_rng(3).uniform(0.2, 0.7, 600), 3).astype(np.float32)
    hospital = Hospital(tmp_path, dataclasses.replace(data, covariates={"lvef": lvef}))
    arrays = of_cut(asked, 0, 60) | {"net__standardise": np.array([[60.0, 10.0], [0.0, 1.0], [0.0, 1.0]])}
    sizes = [hospital.ask(asked, f"h{i}", "cells", **arrays).sizes[2, 0] for i in range(len(bounds))]
    between = told_apart(sizes)
    assert not ((between > 0) & (between < 10)).any()
    assert np.isfinite(sizes[-1]), "one far enough from the others is told"


def test_times_of_a_curve_moved_by_days_tell_of_nobody_between(tmp_path):
    rng, n = np.random.default_rng(5), 600
    years = rng.exponential(3, n)
    events = {"death": EventTimes(years, rng.random(n) < 0.5)}
    steps = [{"id": "t0", "stage": "threshold", "uses": ["net"], "score": "net.dead"}]
    moved = [0.0, *(0.004 * i for i in range(1, 12)), 3.0]
    steps += [
        {"id": f"h{i}", "stage": "high_risk", "uses": ["t0"], "event": "death", "times_years": [1 + by, 2 + by]}
        for i, by in enumerate(moved)
    ]
    data = lockbox_third(n)
    hospital = Hospital(tmp_path, dataclasses.replace(data, event_times=events))
    asked = of_net("times", *steps)
    still = []
    for i in range(len(moved)):
        told = hospital.ask(asked, f"h{i}", "tell", **of_cut(asked, 0, 60))
        still.append(told.curve[0, :, 2])
    at_first = [one[0] for one in still]
    between = told_apart(at_first)
    assert not ((between > 0) & (between < 10)).any()
    assert np.isfinite(still[-1]).any(), "times far enough from the others are told"


def test_one_set_of_cuts_a_score_is_answered_over_all_studies(tmp_path):
    hospital = Hospital(tmp_path, lockbox_third(500))
    first = {"net__weights": linear(of_net("a", JUDGED)), "net__standardise": TOTALS["d__standardise"]}
    cuts = np.array([[-1.0, 0.0, 1.0]])
    hospital.ask(of_net("a", JUDGED), "judged", "histogram", cuts=cuts, **first)
    hospital.ask(of_net("b", JUDGED), "judged", "histogram", run="again", cuts=cuts, **first)
    with pytest.raises(Refused, match="questions of this") as refused:
        hospital.ask(of_net("c", JUDGED), "judged", "histogram", run="third", cuts=cuts + 0.01, **first)
    assert refused.value.code is RefusalCode.BUDGET_SPENT


def test_the_outputs_of_one_net_are_scores_of_their_own(tmp_path):
    """Before: a net of a hundred outputs was one of the five scores that a lockbox group answers about."""
    heads = [f"dead{i}" for i in range(7)]
    steps = [JUDGED | {"id": f"judged{i}", "score": f"net.{head}"} for i, head in enumerate(heads)]
    asked = study(
        name="heads",
        input=INPUT,
        endpoints={head: {"kind": "binary", "column": "dead"} for head in heads},
        steps=[{"id": "d", "stage": "describe"}, PLAIN_NET | {"heads": heads}, *steps],
    )
    data = lockbox_third(300)
    data = dataclasses.replace(data, heads=tuple(heads), labels=np.repeat(data.labels, len(heads), axis=1))
    hospital, (_, first, _) = Hospital(tmp_path, data), initial_weights(asked.step("net"), asked)
    arrays = {"net__weights": first, "net__standardise": TOTALS["d__standardise"]}
    for i in range(5):
        hospital.ask(asked, f"judged{i}", "local", **arrays)
    with pytest.raises(Refused, match="over all studies") as refused:
        hospital.ask(asked, "judged5", "local", **arrays)
    assert refused.value.code is RefusalCode.BUDGET_SPENT


def test_an_honest_score_is_told_of(tmp_path):
    asked, data = of_net("judged", JUDGED), lockbox_third(150)
    _, first, _ = initial_weights(asked.step("net"), asked)
    found = Hospital(tmp_path, data).ask(
        asked, "judged", "local", net__weights=first, net__standardise=TOTALS["d__standardise"]
    )
    assert np.isfinite(found.mean_predicted).all()
    assert np.isfinite(found.brier).all()
    assert np.isfinite(found.auc).all()


def test_different_scores_are_counted_over_all_studies_and_restarts(tmp_path):
    hospital = Hospital(tmp_path, lockbox_third(150))
    for i in range(12):
        asked = of_net(f"study-{i}", JUDGED)
        weights = window(asked, 40 + 2 * i, 60 + 2 * i)
        arrays = {"net__weights": weights, "net__standardise": TOTALS["d__standardise"]}
        if i < 5:
            hospital.ask(asked, "judged", "local", **arrays)
        else:
            with pytest.raises(Refused, match="over all studies") as refused:
                hospital.ask(asked, "judged", "local", **arrays)
            assert refused.value.code is RefusalCode.BUDGET_SPENT
        hospital.holds(hospital.data)


def test_a_run_sends_one_artefact_of_a_step(tmp_path):
    """Two evaluate steps of one calibrated score cannot be given two scores."""
    asked = of_net("judged", JUDGED, JUDGED | {"id": "again"})
    hospital, standardise = Hospital(tmp_path, lockbox_third(150)), TOTALS["d__standardise"]
    first, other = window(asked, 40, 60), window(asked, 40.5, 60.5)
    hospital.ask(asked, "judged", "local", net__weights=first, net__standardise=standardise)
    hospital.ask(asked, "again", "local", net__weights=first, net__standardise=standardise)
    for changed in (
        {"net__weights": other, "net__standardise": standardise},
        {"net__weights": first, "net__standardise": standardise + 1},
    ):
        with pytest.raises(Refused, match="sent the artefact before, with other content"):
            hospital.ask(asked, "again", "local", **changed)


def test_a_study_renamed_renews_no_budget(tmp_path):
    """Before: a dot in ``about`` gave another study its own epsilon of 2; four of them 2.77 in all."""
    cap = {"required": True, "max_epsilon": 2.0, "max_delta": 1e-5}
    hospital = Hospital(tmp_path, cohort(400, train=0.9, samples=200), privacy=cap)
    private = {"epsilon": 2, "delta": 1e-5, "expected_batch_size": 32}
    for i in range(3):
        asked = study(
            about="Sudden death" + "." * i,
            input=INPUT,
            steps=[
                {"id": "d", "stage": "describe"},
                PLAIN_NET | {"rounds": 1, "local": {"steps": 2}, "privacy": private},
            ],
        )
        _, first, _ = initial_weights(asked.step("net"), asked)
        if i == 0:
            update = hospital.ask(asked, "net", "fit", round=1, weights=first, **TOTALS)
            assert update.seconds == 0, "how long it took is data under privacy"
        else:
            with pytest.raises(Refused, match="all studies together") as refused:
                hospital.ask(asked, "net", "fit", round=1, weights=first, **TOTALS)
            assert refused.value.code is RefusalCode.BUDGET_SPENT
    assert budget_lines(hospital.settings)[-1].startswith("all studies together: epsilon 2.000 at delta 1e-05 of 2")


def test_required_privacy_covers_validation(tmp_path):
    """Before: fit was refused, and validate told the label of 48 of 48 patients."""
    asked = of_net()
    hospital = Hospital(tmp_path / "required", cohort(120, samples=200), privacy={"required": True})
    with pytest.raises(Refused) as refused:
        hospital.ask(asked, "net", "validate", weights=window(asked, 50, 51), **TOTALS)
    assert refused.value.code is RefusalCode.PRIVACY_REQUIRED
    # Where plain training is permitted, what a window of one person would tell is withheld, and the questions end.
    hospital, answered = Hospital(tmp_path / "plain", cohort(120, samples=200)), 0
    for person in np.flatnonzero(hospital.data.split == 1):
        age = float(hospital.data.age[person])
        try:
            found = hospital.ask(
                asked, "net", "validate", weights=window(asked, age - 0.01, age + 0.01, logit=5.0), **TOTALS
            )
        except Refused:
            break
        answered += 1
        assert np.isnan(found.validation_loss).all()
        assert np.isnan(found.validation_auc).all()
    assert answered == 5
