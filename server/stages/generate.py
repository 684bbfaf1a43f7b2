"""generate, at the coordinator: one question to every site, then their figures side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS
from ecgshared.stages.generate import FEATURES, PUBLISHED_MAE_UV, Config, Judged, trained_cvae
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, number, numbers, quorum
from server.report.sections import Cell, Figure, Key, Section, Series, Table, Text
from server.rounds.step_context import Artefact, StepContext

_POOLED = ("reconstruction_uv", "conditions_only_uv", "precision", "recall", "precision_real", "recall_real")


def run(step: StepConfig, context: StepContext) -> Artefact:
    """Ask every site to judge the model on its held-out people."""
    if not isinstance(step, Config):
        raise TypeError("a generate step's configuration was expected")
    study = context.study
    trained = trained_cvae(step, study)
    conditions = list(trained.model.side_inputs)
    absent: dict[str, Any] = {}
    replies = context.ask("judge", quorum=quorum(context, context.sites))
    absences(replies, absent, "judge")
    sites = {
        site: {
            "group": "training" if site in study.sites.train else "zero_shot",
            **_site(reply, conditions),
        }
        for site, reply in replies.by_site.items()
    }
    result = {
        "model": trained.id,
        "conditions": conditions,
        "features": list(FEATURES),
        "published_mae_uv": list(PUBLISHED_MAE_UV),
        "sites": sites,
        "pooled": {group: _pool(sites, group) for group in ("training", "zero_shot")},
        "absent": absent,
    }
    return Artefact(step.id, "generate", result)


def _site(reply: Judged, conditions: list[str]) -> dict[str, Any]:
    ecgs, patients = numbers(reply.counts)
    mmd_made, mmd_real = numbers(reply.mmd2)
    precision, recall, precision_real, recall_real = numbers(reply.manifold)
    made, made_tail, real, real_tail = numbers(reply.nearest)
    return {
        "ecgs": ecgs,
        "patients": patients,
        "reconstruction_uv": _pair(reply.reconstruction),
        "leads_uv": numbers(reply.leads),
        "conditions_only_uv": number(reply.conditions_only[0]),
        "mmd2": {"made": mmd_made, "real": mmd_real},
        "precision": precision,
        "recall": recall,
        "precision_real": precision_real,
        "recall_real": recall_real,
        "features": {
            name: {"real": _pair(row[:2]), "made": _pair(row[2:])}
            for name, row in zip(FEATURES, reply.features, strict=True)
        },
        "slopes": {
            name: {c: {"real": number(a), "made": number(b)} for c, (a, b) in zip(conditions, table, strict=True)}
            for name, table in zip(FEATURES, reply.slopes, strict=True)
        },
        "slope_agreement": _agreement(reply.slopes, reply.features),
        "condition_r2": dict(zip(conditions, numbers(reply.condition_r2), strict=True)),
        "latent_correlation": number(reply.latent_correlation[0]),
        "nearest_uv": {"made": {"median": made, "p05": made_tail}, "real": {"median": real, "p05": real_tail}},
    }


def _pair(values: NDArray[np.float64]) -> dict[str, float | None]:
    return dict(zip(("mean", "sd"), numbers(values), strict=True))


def _agreement(slopes: NDArray[np.float64], features: NDArray[np.float64]) -> dict[str, float | None]:
    """Correlation of made with real slopes, and their line through 0, each feature in units of its own spread."""
    spread = np.where(features[:, 1] > 0, features[:, 1], np.nan)
    scaled = (slopes / spread[:, None, None]).reshape(-1, 2)
    real, made = scaled[np.isfinite(scaled).all(axis=1)].T
    if len(real) < 3 or not (real.std() > 0 and made.std() > 0):
        return {"correlation": None, "slope": None}
    return {"correlation": number(np.corrcoef(real, made)[0, 1]), "slope": number(real @ made / (real @ real))}


def _pool(sites: Mapping[str, Mapping[str, Any]], group: str) -> dict[str, float | None]:
    """Means over the group's sites, weighted by their ECGs."""
    out: dict[str, float | None] = {}
    for name in _POOLED:
        pairs = []
        for site in sites.values():
            value = site[name]["mean"] if isinstance(site[name], dict) else site[name]
            if site["group"] == group and value is not None and site["ecgs"] is not None:
                pairs.append((value, site["ecgs"]))
        total = sum(n for _, n in pairs)
        out[name] = sum(v * n for v, n in pairs) / total if total else None
    return out


def report(artefact: Artefact) -> list[Section]:
    """Reconstruction, likeness, what conditions do, disentanglement and memory, site by site."""
    result = artefact.result
    sites = result["sites"]
    mean, sd = result["published_mae_uv"]
    blocks: list[Any] = []
    for group, words in (("zero_shot", "people of sites that did not train"), ("training", "validation patients")):
        error = result["pooled"][group]["reconstruction_uv"]
        if error is not None:
            note = f"mean absolute error, {words}; published for representative beats: {mean:g} +/- {sd:g} uV"
            blocks.append(Key(f"Reconstruction of beats, {result['model']}", f"{error:.1f} uV", note))
    blocks.append(
        Text(
            "Beats are made from the conditions of people left out of training and a latent drawn from the prior. "
            "Beside each comparison with their real beats stands one half of the real beats against the other half: "
            "no model can do better."
        )
    )
    rows: list[list[Cell]] = [
        ["held-out ECGs", *(s["ecgs"] for s in sites.values())],
        ["reconstruction, mean absolute error (SD), uV", *(_mean_sd(s["reconstruction_uv"]) for s in sites.values())],
        ["the usual beat of the conditions, uV", *(s["conditions_only_uv"] for s in sites.values())],
        ["squared discrepancy (MMD), made", *(s["mmd2"]["made"] for s in sites.values())],
        ["squared discrepancy (MMD), real against real", *(s["mmd2"]["real"] for s in sites.values())],
        ["precision (real against real)", *(_beside(s["precision"], s["precision_real"]) for s in sites.values())],
        ["recall (real against real)", *(_beside(s["recall"], s["recall_real"]) for s in sites.values())],
        ["slopes on conditions: correlation", *(s["slope_agreement"]["correlation"] for s in sites.values())],
        ["slopes on conditions: made over real", *(s["slope_agreement"]["slope"] for s in sites.values())],
        ["conditions told by latents, largest R2", *(_largest(s["condition_r2"]) for s in sites.values())],
        ["latents, mean absolute correlation", *(s["latent_correlation"] for s in sites.values())],
        ["nearest training beat, median, made (real), uV", *(_near(s, "median") for s in sites.values())],
        ["nearest training beat, 5th percentile, made (real), uV", *(_near(s, "p05") for s in sites.values())],
    ]
    blocks.append(Table("How good the beats are", ["", *sites], rows))
    error_rows: list[list[Cell]] = [[lead, *(s["leads_uv"][i] for s in sites.values())] for i, lead in enumerate(LEADS)]
    blocks.append(Table("Reconstruction by lead, mean absolute error, uV", ["lead", *sites], error_rows))
    feature_rows: list[list[Cell]] = [
        [
            name,
            *(
                f"{_mean_sd(s['features'][name]['made'])} | {_mean_sd(s['features'][name]['real'])}"
                for s in sites.values()
            ),
        ]
        for name in result["features"]
    ]
    blocks.append(Table("Measured on beats, mean (SD): made | real", ["", *sites], feature_rows))
    series = [_slopes(site, s) for site, s in sites.items()]
    series = [one for one in series if len(one.x)]
    if series:
        blocks.append(
            Figure(
                "What conditions do to beats",
                series,
                "slope in real held-out beats",
                "slope in made beats",
                reference="diagonal",
                caption="Change of each feature per SD of each condition, in SDs of the feature, all conditions "
                "in one linear fit.",
            )
        )
    return [Section(f"Generated beats: {artefact.step}", blocks)]


def _slopes(site: str, result: Mapping[str, Any]) -> Series:
    x, y = [], []
    for name, by_condition in result["slopes"].items():
        sd = result["features"][name]["real"]["sd"]
        for pair in by_condition.values():
            if sd and pair["real"] is not None and pair["made"] is not None:
                x.append(pair["real"] / sd)
                y.append(pair["made"] / sd)
    return Series(site, x, y, style="points")


def _mean_sd(pair: Mapping[str, float | None]) -> str:
    mean, sd = pair["mean"], pair["sd"]
    return "withheld" if mean is None or sd is None else f"{mean:.3g} ({sd:.2g})"


def _beside(value: float | None, reference: float | None) -> str:
    return "withheld" if value is None or reference is None else f"{value:.2f} ({reference:.2f})"


def _near(site: Mapping[str, Any], which: str) -> Cell:
    made, real = site["nearest_uv"]["made"][which], site["nearest_uv"]["real"][which]
    return "not asked" if site["group"] == "zero_shot" else f"{made:.1f} ({real:.1f})" if made and real else "withheld"


def _largest(by_name: Mapping[str, float | None]) -> Cell:
    known = {name: value for name, value in by_name.items() if value is not None}
    return f"{max(known.values()):.2f} ({max(known, key=lambda n: known[n])})" if known else "withheld"
