"""What a reader wants first: which hospitals, how many patients, for whom, and how good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecgshared.stages.results.base import StageResult
from ecgshared.stages.results.describe import Result as Described
from ecgshared.stages.results.describe import SiteDescription
from ecgshared.stages.results.evaluate import Result as Evaluated
from ecgshared.stages.results.survival_evaluate import Result as SurvivalEvaluated
from ecgshared.study.study import EligibilityConfig, Study
from server.report.cohorts import cohort_size
from server.report.evaluation import group_auc
from server.report.evaluation_tables import span
from server.report.labels import Labels, counted
from server.report.sections import Cell, Table

Typed = Mapping[str, StageResult]
"""Results by step, those that this version can read."""


@dataclass(frozen=True)
class Summary:
    """Paragraphs, and one row a hospital; ``hospitals`` is None before anything is known of them."""

    paragraphs: tuple[str, ...]
    hospitals: Table | None


def summarise(study: Study | None, results: Typed, labels: Labels) -> Summary:
    """Return the summary of what is known so far; nothing is said of what has no result."""
    described = next((r for r in results.values() if isinstance(r, Described)), None)
    paragraphs = [_who(study, described), _for_whom(study, described), *_how_good(results, labels)]
    return Summary(tuple(text for text in paragraphs if text), _hospitals(study, described, results, labels))


def _who(study: Study | None, described: Described | None) -> str:
    if described is None or not described.sites:
        # Who they are is known; how many patients is not before a hospital has told.
        return "" if study is None else f"{counted(len(study.sites.all), 'hospital')}. {_roles(study)}"
    sizes = [cohort_size(s) for s in described.sites.values()]
    patients, ecgs = [p for p, _ in sizes], [e for _, e in sizes]
    count = len(described.sites)
    known = sum(n for n in patients if n is not None)
    least = "at least " if None in patients else ""
    words = f"{counted(count, 'hospital')}, {least}{known:,.0f} patients, "
    words += f"{'at least ' if None in ecgs else ''}{sum(n for n in ecgs if n is not None):,.0f} ECGs"
    if study is None:
        return f"{words}."
    return f"{words}. {_roles(study)}"


_PART = {"training": "trains", "zero_shot": "evaluated", "case_control": "case-control series"}


def _roles(study: Study) -> str:
    trained, unseen = len(study.sites.train), len(study.sites.zero_shot)
    role = f"{trained} trained the model" if "train" in study.used_stages else f"{trained} took part in the fits"
    series = len(study.sites.case_control)
    drawn = f"; {series} case-control series {'is' if series == 1 else 'are'} judged by ranks alone" if series else ""
    judged = f"; {unseen} never trained and {'was' if unseen == 1 else 'were'} only evaluated" if unseen else ""
    return f"{role}{judged}{drawn}."


def eligibility_words(e: EligibilityConfig) -> str:
    """Return who and which ECG counts, in words; "every ECG with a recording" where the study sets no rule."""
    rules = []
    if e.min_age is not None and e.max_age is not None:
        rules.append(f"aged {e.min_age:g} to under {e.max_age:g} years")
    elif e.max_age is not None:
        rules.append(f"aged under {e.max_age:g} years")
    elif e.min_age is not None:
        rules.append(f"aged {e.min_age:g} years or more")
    elif e.known_age:
        rules.append("of known age")
    if e.known_sex:
        rules.append("of known sex")
    if e.exclude_defibrillator:
        rules.append("without a defibrillator at the ECG")
    text = f"people {', '.join(rules)}" if rules else "all people with a usable recording"
    days = []
    if e.min_days_before_index is not None:
        days.append(f"at least {e.min_days_before_index:g} days")
    if e.max_days_before_index is not None:
        days.append(f"at most {e.max_days_before_index:g} days")
    if days:
        text += f"; ECGs {' and '.join(days)} before the index date"
    return text + ("; the last such ECG of each person" if e.most_recent_only else "")


def _for_whom(study: Study | None, described: Described | None) -> str:
    parts = []
    if study is not None:
        words = eligibility_words(study.eligibility)
        parts.append(f"{words[:1].upper()}{words[1:]}.")
    if described is not None:
        ages = [m for s in described.sites.values() if (m := _mean(s, "age")) is not None]
        men = [m for s in described.sites.values() if (m := _mean(s, "male")) is not None]
        told = [f"mean age {_range(ages, 1)} years"] if ages else []
        told += [f"{_range([100 * m for m in men], 0)}% men"] if men else []
        if told:
            words = ", ".join(told) + (" by hospital" if len(described.sites) > 1 else "")
            parts.append(f"{words[:1].upper()}{words[1:]} (over ECGs).")
    return " ".join(parts)


def _mean(s: SiteDescription, variable: str) -> float | None:
    cell = s.table1.get("all", {}).get(variable)
    return None if cell is None else cell.mean


def _range(values: list[float], digits: int) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def _how_good(results: Typed, labels: Labels) -> list[str]:
    sentences = []
    # Beside figures of a part of them, those of everybody say so.
    parts = any(labels.whom(step) for step, r in results.items() if isinstance(r, Evaluated))
    for step, r in results.items():
        if isinstance(r, Evaluated):
            sentences += _evaluated(step, r, labels, labels.whom(step) or ("everybody eligible" if parts else ""))
        elif isinstance(r, SurvivalEvaluated):
            for group, pooled in r.pooled.items():
                for name, m in pooled.models.items():
                    if (words := span(m.harrell)) is not None:
                        sentences.append(
                            f"Concordance of {name} ({labels.step(step)}) for {labels.event(r.event)}, "
                            f"{labels.group(group)}: {words}."
                        )
    return sentences


def _evaluated(step: str, r: Evaluated, labels: Labels, whom: str) -> list[str]:
    sentences = []
    whom = f", {whom}" if whom else ""
    for group, heads in r.pooled.items():
        for head, p in heads.items():
            found, what = group_auc(r, head, p), "AUC"
            if found.value is None and p.auc_within_sites is not None:
                found, what = p.auc_within_sites, "AUC of pairs within a hospital"
            auc = span(found)
            if auc is None:
                continue
            told = [] if found.low is None else ["95% interval in brackets"]
            if p.events is not None and p.ecgs is not None:
                told.append(f"{p.events:,.0f} of {p.ecgs:,.0f} ECGs with the event")
            words = f" ({'; '.join(told)})" if told else ""
            whose = (
                f"{labels.group(group)} ({labels.site(p.sites[0])} alone)" if len(p.sites) == 1 else labels.group(group)
            )
            text = f"{what} for {labels.endpoint(head)}, {whose}{whom}: {auc}{words}."
            at = p.threshold
            if at is not None and at.share is not None and (ppv := span(at.ppv)) is not None:
                text += f" Above the fixed cut-off, {100 * at.share:.1f}% of ECGs, the event rate was {ppv}."
            sentences.append(text)
    return sentences


def _hospitals(study: Study | None, described: Described | None, results: Typed, labels: Labels) -> Table | None:
    judged = [(step, r) for step, r in results.items() if isinstance(r, Evaluated) and r.heads]
    # That in which most hospitals tell; of several such, of everybody rather than of a part of them, then the last.
    evaluated = max(
        enumerate(judged), key=lambda one: (_telling(one[1][1]), not labels.whom(one[1][0]), one[0]), default=(0, None)
    )[1]
    if described is None and evaluated is None:
        return None
    names: dict[str, Any] = dict.fromkeys(
        (*(study.sites.all if study else ()), *(described.sites if described else ()))
    )
    columns = ["hospital", "part", "patients", "ECGs"]
    note = "Patients and ECGs: the whole cohort, lockboxes among it."
    if evaluated is not None:
        names |= dict.fromkeys(evaluated[1].sites)
        columns += ["ECGs judged", "with the event", "AUC (95% CI)", "observed rate", "expected/observed"]
        head = evaluated[1].heads[0]
        whom = f", {labels.whom(evaluated[0])}" if labels.whom(evaluated[0]) else ""
        note += f" Judged: step {labels.step(evaluated[0])}, {labels.endpoint(head)}{whom}."
    rows: list[list[Cell]] = []
    for name in names:
        s = described.sites.get(name) if described else None
        part = "-" if study is None else _PART[study.sites.group_of(name)]
        counts: list[Cell] = ["-", "-"] if s is None else [*cohort_size(s)]
        rows.append([labels.site(name), part, *counts, *(_judged(evaluated[1], name, labels) if evaluated else [])])
    return Table("Hospitals", columns, rows, note=note)


def _telling(r: Evaluated) -> int:
    return sum(site.heads[r.heads[0]].ecgs is not None for site in r.sites.values())


def _judged(r: Evaluated, site: str, labels: Labels) -> list[Cell]:
    found = r.sites.get(site)
    if found is not None and not labels.offers(site, r.heads[0]):
        return ["not offered", "-", "-", "-", "-"]
    if found is None:
        return ["no answer" if site in r.absent else "not asked", "-", "-", "-", "-"]
    v = found.heads[r.heads[0]]
    if found.group == "case_control":
        return [v.ecgs, v.events, span(v.auc), "-", "-"]
    return [v.ecgs, v.events, span(v.auc), v.base_rate, span(v.expected_over_observed)]
