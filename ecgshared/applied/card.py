"""The card of a model, in Markdown: whose data, how good it is and for whom, under which privacy, and its use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ecgshared.applied.file import ModelFile
from ecgshared.applied.model import NOT_FOR_CARE


def model_card(file: ModelFile) -> str:
    """Return the card of a model file: only what sites released, with intervals, and "withheld" where they did not."""
    told = file.told
    steps = {**told.get("parts", {}), told["step"]: told}
    trained = {name: part["result"] for name, part in steps.items() if part["stage"] == "train"}
    lines = [
        f"# {told['study']}: {told['step']}",
        "",
        NOT_FOR_CARE,
        "",
        "## Intended use",
        "",
        "Research on the endpoints below, on twelve-lead ECGs of adults like those it was trained and judged on. Not "
        "for single leads, and not for people or devices that no table below holds.",
        "",
        "## What it is",
        "",
        *(f"- {line}" for name, result in trained.items() for line in _net(name, result)),
        f"- made by ecgfed {told['made_by'].get('ecgfed', '')}, study {told['study_sha256']}, run {told['run']}",
        "",
        "## Data by site",
        "",
        *_data(told.get("judged", {})),
        "",
        "## Performance",
        "",
        *_performance(told.get("judged", {})),
        "",
        "## Privacy",
        "",
        *_privacy(trained),
    ]
    return "\n".join(lines) + "\n"


def _net(name: str, r: Mapping[str, Any]) -> Iterator[str]:
    i = r["input"]
    yield (
        f"{name}: {r['model']['name']}, {r['parameters']:,} parameters, {r['rounds']} rounds of {r['strategy']}, "
        f"weights of round {r['kept_round']}; heads: {', '.join(r['heads']) or 'none'}"
    )
    band = "unfiltered" if i["band_hz"] is None else f"{i['band_hz'][0]:g} to {i['band_hz'][1]:g} Hz"
    yield f"{name} sees {i['seconds']:g} s at {i['fs_hz']:g} Hz, {band}, baseline: {i['baseline']}"
    yield f"{name} trained at {', '.join(r['sites'])}"


def _data(judged: Mapping[str, Any]) -> Iterator[str]:
    described = next((part["result"] for part in judged.values() if part["stage"] == "describe"), None)
    if described is None:
        yield "The run counted no cohorts."
        return
    yield "| site | patients who train | ECGs that train | patients in all |"
    yield "| --- | --- | --- | --- |"
    for site, counts in described["sites"].items():
        patients = counts["patients"]
        known = [v for v in patients.values() if v is not None]
        whole = sum(known) if len(known) == len(patients) else None
        yield f"| {site} | {_count(patients.get('train'))} | {_count(counts['ecgs'].get('train'))} | {_count(whole)} |"


def _performance(judged: Mapping[str, Any]) -> Iterator[str]:
    found = False
    for step, part in judged.items():
        if part["stage"] != "evaluate":
            continue
        found = True
        yield f"### {step}"
        yield ""
        yield "| site | endpoint | group | ECGs | events | AUC (95% interval) |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for site, one in part["result"]["sites"].items():
            for head, figures in one["heads"].items():
                yield _line(site, head, "all", figures)
                for group, inside in figures.get("subgroups", {}).items():
                    yield _line(site, head, group, inside)
        yield ""
    if not found:
        yield "No step of the run judged it."


def _line(site: str, head: str, group: str, figures: Mapping[str, Any]) -> str:
    auc = figures.get("auc") or {}
    value = auc.get("value")
    interval = "withheld" if value is None else f"{value:.3f} ({_number(auc.get('low'))} to {_number(auc.get('high'))})"
    return (
        f"| {site} | {head} | {group} | {_count(figures.get('ecgs'))} | {_count(figures.get('events'))} | {interval} |"
    )


def _privacy(trained: Mapping[str, Any]) -> Iterator[str]:
    for name, result in trained.items():
        private = result["privacy"]
        if private is None:
            yield f"- {name}: trained without differential privacy: weights can remember people they were trained on"
        else:
            spent = [account["epsilon_spent"] for account in private["sites"].values()]
            yield (
                f"- {name}: differential privacy per patient, epsilon {private['epsilon']:g} at delta "
                f"{private['delta']:g}, at most {max(spent, default=0):.3g} spent at a site. Covered: "
                f"{private['covers']} Not covered: {private['does_not_cover']}"
            )


def _count(value: float | None) -> str:
    return "withheld" if value is None else f"{value:.0f}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"
