"""Attacks by figures: one case left over, groups that differ by a person, a score made for one person."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from ecgshared.learning.layout import Layout
from ecgshared.models import build
from ecgshared.stages.train_net import head_specs
from ecgshared.study.study import Study
from simulations.attacks.door import Attack, Door, asked, made_cohort, totals

NET = {"id": "net", "stage": "train", "uses": ["d"], "heads": ["dead"]}
DESCRIBE = {"id": "d", "stage": "describe"}


def left_over_case(site: dict[str, Any], rng: np.random.Generator, epsilon: float | None = None) -> float:
    """Return how many of 20 single cases' ages follow from one answer: everybody less those without the event."""
    study, found = asked("table-1", [DESCRIBE]), 0
    for _ in range(20):
        data = made_cohort(120, rng)
        case = int(rng.integers(120))
        labels = np.zeros((120, 1), np.float32)
        labels[case] = 1
        told = Door(replace(data, labels=labels), site).ask(study, "d", "counts")
        if told is None:
            continue
        age = 120 * told.table1[0, 0, 0] - 119 * told.table1[2, 0, 0]
        found += bool(abs(age - data.age[case]) < 0.05 or abs(told.table1[1, 0, 0] - data.age[case]) < 0.05)
    return found / 20


def moved_age_limit(site: dict[str, Any], rng: np.random.Generator, epsilon: float | None = None) -> float:
    """Return the share of validation patients of 50 to 80 whose age follows from studies that differ in ``max_age``."""
    data = made_cohort(300, rng)
    door, before, found = Door(data, site), None, 0
    for i, limit in enumerate(np.arange(50.0, 80.01, 0.25)):
        step = {"id": "c", "stage": "calibrate", "uses": ["net"], "target": "dead", "inputs": ["age", "lvef"]}
        told = door.ask(asked(f"limit-{i}", [DESCRIBE, NET, step | {"max_age": float(limit)}]), "c", "moments")
        if told is None or not np.isfinite(told.total).all():
            continue
        if before is not None and told.counts[0] - before.counts[0] == 1:
            found += bool(np.abs(data.age - (told.total[0] - before.total[0])).min() < 0.01)
        before = told
    between = (data.split == 1) & (data.age >= 50) & (data.age < 80)
    return found / int(between.sum())


def window(study: Study, low: float, high: float) -> Any:
    """Return weights whose score is 1 for ages between two bounds and 0 for all others."""
    config: Any = study.step("net")
    model: Any = build(config.model, head_specs(config, study), 200, 0, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        age, steep = model.hidden.in_features - 2, 1e5
        for j, at in enumerate((low, low + 1e-3, high, high + 1e-3)):
            model.hidden.weight[j, age], model.hidden.bias[j] = steep, float(-steep * (at - 60) / 10)
        model.output.weight[0, :4] = torch.tensor([1.0, -1.0, -1.0, 1.0]) * (80 / (steep * 1e-4))
        model.output.bias[0] = -40
    return Layout.of(model, "full").flatten(model)


def by_age(study: Study) -> Any:
    """Return weights whose logit is (age - 60) / 10."""
    config: Any = study.step("net")
    model: Any = build(config.model, head_specs(config, study), 200, 0, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.hidden.weight[0, model.hidden.in_features - 2], model.hidden.bias[0] = 1.0, 10.0
        model.output.weight[0, 0], model.output.bias[0] = 1.0, -10.0
    return Layout.of(model, "full").flatten(model)


def moved_threshold(site: dict[str, Any], rng: np.random.Generator, epsilon: float | None = None) -> float:
    """Return the share of lockbox patients of 60 to 68 whose age and LVEF follow from 33 thresholds of one score."""
    data, limits = made_cohort(300, rng, train=0.3, lockbox=0.4), np.arange(60.0, 68.01, 0.25)
    steps: list[dict[str, Any]] = [DESCRIBE, NET]
    for i in range(len(limits)):
        steps.append({"id": f"t{i}", "stage": "threshold", "uses": ["net"], "score": "net.dead"})
        steps.append({"id": f"h{i}", "stage": "high_risk", "uses": [f"t{i}"]})
    study, door = asked("thresholds", steps), Door(data, site)
    before, found = None, 0
    for i, limit in enumerate(limits):
        cut = (limit - 60) / 10
        sent = {"net.weights": by_age(study), "net.standardise": totals("d", 60, 10)["d.standardise"]}
        told = door.ask(study, f"h{i}", "tell", sent | {f"t{i}.cut": np.array([cut]), f"t{i}.cutoff": expit([cut])})
        if told is None or not np.isfinite(told.variables[0, 0]).all():
            continue
        if before is not None and before.groups[0] - told.groups[0] == 1:
            age, lvef = (before.variables[0] - told.variables[0])[[0, 2], 1]
            found += bool((np.abs(data.age - age) + np.abs(data.covariates["lvef"] - lvef)).min() < 0.01)
        before = told
    between = (data.split == 2) & (data.age >= 60) & (data.age < 68)
    return found / int(between.sum())


def made_score(site: dict[str, Any], rng: np.random.Generator, epsilon: float | None = None) -> float:
    """Return the share of 20 lockbox patients of known age whose outcome one question each tells."""
    data = made_cohort(150, rng, train=0.3, lockbox=0.4)
    judged = {"id": "j", "stage": "evaluate", "uses": ["net"], "score": "net.dead"}
    door, right = Door(data, site), 0
    people = np.flatnonzero(data.split == 2)[:20]
    for i, person in enumerate(people):
        study = asked(f"score-{i}", [DESCRIBE, NET, judged])
        weights = window(study, data.age[person] - 0.006, data.age[person] + 0.006)
        sent = {"net.weights": weights, "net.standardise": totals("d", 60, 10)["d.standardise"]}
        told = door.ask(study, "j", "local", sent)
        if told is None:
            continue
        ecgs, events = told.counts[0, 0], told.counts[0, 2]
        inside = (told.mean_predicted[0] * ecgs + events - told.brier[0, 0] * ecgs) / 2
        right += bool(np.isfinite(inside) and round(float(inside)) == data.labels[person, 0])
    return right / len(people)


def validated(site: dict[str, Any], rng: np.random.Generator, epsilon: float | None = None) -> float:
    """Return the share of 20 validation patients whose label a validation loss tells."""
    data, study, right = made_cohort(120, rng), asked("plain", [DESCRIBE, NET]), 0
    door = Door(data, site)
    people = np.flatnonzero(data.split == 1)[:20]
    for person in people:
        sent = {"weights": window(study, data.age[person] - 0.006, data.age[person] + 0.006), **totals("d", 60, 10)}
        told = door.ask(study, "net", "validate", sent)
        if told is None or not np.isfinite(told.validation_loss[0]):
            continue
        inside = data.split == 1
        others = 80 * 0.5 * float(data.labels[inside, 0].sum()) / inside.sum()
        # Every event outside the window costs 40: one less where the person has the event.
        right += int(told.validation_loss[0] < others) == int(data.labels[person, 0])
    return right / len(people)


ATTACKS: dict[str, Attack] = {
    "left-over case": Attack(left_over_case, "ages of single cases, from one answer of describe", ("describe",)),
    "moved age limit": Attack(
        moved_age_limit,
        "patients isolated by 121 studies a quarter of a year apart",
        ("calibrate", "evaluate", "regress"),
    ),
    "moved threshold": Attack(
        moved_threshold,
        "patients isolated by 33 thresholds of one score a quarter of a year of age apart",
        ("high_risk", "overlap", "regress", "evaluate", "arrhythmia"),
    ),
    "score made for one": Attack(
        made_score, "outcomes of known persons, one question each", ("evaluate", "contrast", "calibrate")
    ),
    "validation loss": Attack(validated, "labels of known persons, by a score made for each", ("train",)),
}
"""Attacks by figures; private training has no part in them."""
