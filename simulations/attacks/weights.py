"""Attacks by weights: one ECG a step, and traps that part a full batch by age."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ecgshared.arrays import Floats
from ecgshared.learning.layout import Layout
from ecgshared.models import build
from ecgshared.stages.train_net import head_specs
from ecgshared.study.study import Study
from simulations.attacks.door import Attack, Door, asked, made_cohort, totals
from simulations.attacks.figures import DESCRIBE, NET

_FOUND = 0.9
"""Median correlation over leads from which on an ECG counts as recovered."""


def _flat_net(local: dict[str, Any], hidden: int, epsilon: float | None, *, lr: float = 1.0) -> Study:
    """A study that is valid, and whose net is one line of sums over the ECG, its covariates and ``hidden`` units."""
    model = {"preset": "small", "blocks": 0, "width": 24, "groups": 12, "kernel": 1, "stem_stride": 1, "dropout": 0}
    model |= {"hidden": hidden, "pool": "none", "lead_scale": True, "covariates": ["age", "male"]}
    step = NET | {"precision": "fp64", "rounds": 50, "local": local, "optimiser": {"name": "sgd", "lr": lr}}
    if epsilon is not None:
        # Sampled as thinly as can be asked for: about one patient a step.
        size = local["batch_size"] or 64
        privacy = {"epsilon": epsilon, "delta": 1e-5, "max_grad_norm": 1.0, "expected_batch_size": size}
        step |= {"privacy": privacy, "local": {"steps": local["steps"], "batch_size": None}}
    return asked("flat", [DESCRIBE, step | {"model": model}])


def _opened(study: Study) -> tuple[Any, Layout]:
    """The study's net, all 0 but for a stem that hands each lead on, once as it is and once turned over."""
    config: Any = study.step("net")
    model: Any = build(config.model, head_specs(config, study), 200, 0, torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for module in model.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.weight.fill_(1.0)
        for lead in range(12):
            model.stem.conv.weight[2 * lead, lead, 0], model.stem.conv.weight[2 * lead + 1, lead, 0] = 1, -1
    return model, Layout.of(model, "full")


def _likeness(features: Floats, signal: Any) -> float:
    """Median correlation over leads of what a gradient holds with the ECG, averaged as the net's pooling does."""
    pairs = features[: 24 * (len(features) // 24)].reshape(12, 2, -1)
    lead = pairs[:, 0] - pairs[:, 1]
    true = signal[:, : lead.shape[1] * (signal.shape[1] // lead.shape[1])].reshape(12, lead.shape[1], -1).mean(axis=2)
    return float(np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(lead, true, strict=True)]))


def one_ecg(site: dict[str, Any], rng: np.random.Generator, epsilon: float | None = None) -> float:
    """Return the share of 10 rounds, one step on one ECG each, that give an ECG back."""
    study, data, found = _flat_net({"steps": 1, "batch_size": 1}, 0, epsilon), made_cohort(80, rng), 0
    model, layout = _opened(study)
    sent, door = layout.flatten(model), Door(data, site)
    for number in range(2, 12):
        told = door.ask(study, "net", "fit", {"weights": sent, **totals("d")}, round=number)
        if told is None:
            continue
        layout.load(model, sent - told.update)
        gradient = (model.output.weight[0] / model.output.bias[0]).detach().numpy()
        features, age = gradient[:-14], gradient[-2]
        person = int(np.argmin(np.abs(data.age - age)))
        found += _likeness(features, data.batch(np.array([person]))[0]) > _FOUND
    return found / 10


def traps(site: dict[str, Any], rng: np.random.Generator, epsilon: float | None = None) -> float:
    """Return the share of 64 training patients whose ECG one step over all of them gives back."""
    return _trapped(site, rng, epsilon, steps=1, lr=1.0)


def _trapped(site: dict[str, Any], rng: np.random.Generator, epsilon: float | None, *, steps: int, lr: float) -> float:
    hidden, n = 300, 64
    study = _flat_net({"steps": steps, "batch_size": None}, hidden, epsilon, lr=lr)
    data = made_cohort(n, rng, train=1.0)
    model, layout = _opened(study)
    with torch.no_grad():
        model.hidden.weight[:, -2] = 1.0
        model.hidden.bias.copy_(-torch.linspace(30, 90, hidden, dtype=torch.float64))
        model.output.weight.fill_(1e-4)
    sent = layout.flatten(model)
    told = Door(data, site).ask(study, "net", "fit", {"weights": sent, **totals("d")}, round=2)
    if told is None:
        return 0.0
    layout.load(model, sent - told.update)
    weight, bias = model.hidden.weight.detach().numpy(), model.hidden.bias.detach().numpy()
    found = set()
    for j in range(hidden):
        last = j + 1 == hidden
        step_w, step_b = weight[j] - (0 if last else weight[j + 1]), bias[j] - (0 if last else bias[j + 1])
        if abs(step_b) < 1e-12:
            continue
        person = int(np.argmin(np.abs(data.age - (step_w / step_b)[-2])))
        if _likeness((step_w / step_b)[:-14], data.batch(np.array([person]))[0]) > _FOUND:
            found.add(person)
    return len(found) / n


def tiny_rate(site: dict[str, Any], rng: np.random.Generator, epsilon: float | None = None) -> float:
    """Return the share of 64 training patients whose ECG eight full-batch steps at a tiny rate give back.

    The weights hardly move between the steps, so that what they add up to is eight times the gradient.
    """
    return _trapped(site, rng, epsilon, steps=8, lr=1e-6)


ATTACKS: dict[str, Attack] = {
    "one ECG a step": Attack(one_ecg, "rounds that give an ECG back", ("train",), private=True),
    "full-batch traps": Attack(traps, "training patients whose ECG one step gives back", ("train",), private=True),
    "steps at a tiny rate": Attack(
        tiny_rate, "training patients whose ECG eight steps give back", ("train",), private=True
    ),
}
