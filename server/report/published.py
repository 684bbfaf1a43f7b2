"""The figures of a published study beside a run's own, where the study file names it: what stands in both.

Schubert et al., Nature 2026, doi 10.1038/s41586-026-10674-6: text, figures 1 to 3, tables 1 and 2. ``training`` are the
run's training hospitals, where the paper has Sweden; ``zero_shot`` the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ecgshared.stages.results.arrhythmia import Incidence
from ecgshared.stages.results.arrhythmia import Result as Arrhythmia
from ecgshared.stages.results.base import EstimateResult, Number, StageResult
from ecgshared.stages.results.contrast import Result as Contrast
from ecgshared.stages.results.evaluate import Result as Evaluate
from ecgshared.stages.results.high_risk import Result as HighRisk
from ecgshared.stages.results.overlap import Result as Overlap
from ecgshared.stages.results.regress import Result as Regress
from ecgshared.study.endpoints import TimeToEventEndpoint
from ecgshared.study.study import Study
from server.report.labels import Labels
from server.report.overlap import rate_span
from server.report.sections import Cell, Section, Table

DOI = "10.1038/s41586-026-10674-6"
Row = tuple[str, str, Cell, str]
"""What it is, as published, ours, and the step it is from."""


def beside_published(study: Study | None, results: Mapping[str, StageResult], labels: Labels) -> list[Section]:
    """Return the section; none where the study names no publication, or has nothing that stands in it."""
    if study is None or study.published is None:
        return []
    rows = [
        [what, published, ours, labels.step(step)]
        for step, result in results.items()
        for what, published, ours, step in _rows(step, result, study, labels)
    ]
    if not rows:
        return []
    kind = {"in_silico": "in-silico (made) data", "real": "real data"}[study.published.data]
    note = (
        f"Ours: {kind}. Published: Nature 2026, doi {DOI}; 113,072 ECGs of 35,417 patients in Sweden, 251,858 ECGs in "
        "the US, 257 arrests and 4,011 controls in Taiwan. With 95% intervals where there are any."
    )
    if study.published.data == "in_silico":
        note += (
            " The made hospitals were given the paper's shape, not its values: agreement proves nothing of the paper."
        )
    return [
        Section(
            "Published values beside ours",
            [Table("The published study", ["", "published", "ours", "step"], rows, note=note)],
        )
    ]


def _rows(step: str, result: StageResult, study: Study, labels: Labels) -> Iterator[Row]:
    match result:
        case Evaluate():
            yield from _evaluated(step, result, study)
        case Arrhythmia():
            yield from _arrhythmia(step, result)
        case Overlap():
            yield from _overlap(step, result, study)
        case Contrast():
            yield from _contrast(step, result, labels)
        case HighRisk():
            yield from _spread(step, result, labels)
        case Regress():
            yield from _devices(step, result, study)


def _event(study: Study, head: str) -> str:
    """Return the event of an endpoint as the paper counts it, within a year of the ECG; empty for any other."""
    endpoint = study.endpoints.get(head)
    if not isinstance(endpoint, TimeToEventEndpoint) or endpoint.after_years or endpoint.horizon_years != 1:
        return ""
    return str(endpoint.event)


def _auc(e: EstimateResult) -> Cell:
    if e.value is None:
        return None
    return f"{e.value:.3f}" if e.low is None or e.high is None else f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})"


def _percent(value: Number) -> Cell:
    return None if value is None else f"{100 * value:.1f}%"


def _evaluated(step: str, r: Evaluate, study: Study) -> Iterator[Row]:
    # Published is the part under 80: where a study judges a part and everybody, that part stands beside it.
    judged = {s.id: s.population for s in study.steps if s.stage == "evaluate"}
    if judged.get(step) is None and any(judged.values()):
        return
    for group, by_head in r.pooled.items():
        for head, p in by_head.items():
            event = _event(study, head)
            if group == "training" and event == "scd":
                yield "AUC, sudden cardiac death, Sweden", "0.872 (0.843 to 0.899)", _auc(p.auc), step
                yield "rate of all ECGs, Sweden", "0.6%", _percent(p.base_rate), step
                if p.threshold is not None:
                    yield "share at high risk, Sweden", "2.2%", _percent(p.threshold.share), step
                    yield "rate at high risk, Sweden", "7.0% (4.9 to 9.5)", rate_span(p.threshold.ppv), step
            if event == "vfvt":
                where = "Sweden" if group == "training" else "abroad (US)"
                published = "0.717 (0.676 to 0.756)" if group == "training" else "0.822 (0.812 to 0.831)"
                yield f"AUC, VF/VT, {where}", published, _auc(p.auc), step


def _arrhythmia(step: str, r: Arrhythmia) -> Iterator[Row]:
    home, away = r.pooled.get("training"), r.pooled.get("zero_shot")
    if home is not None and (point := home["added"].at_cutoff) is not None:
        yield "VF/VT on top of sudden death, at high risk", "3.8% (2.2 to 7.0)", rate_span(point.rate), step
    if away is not None:
        found: Incidence = away["vfvt"]
        base = found.points[-1].rate if found.points else None
        yield "VF/VT of all ECGs, abroad", "3.8%", None if base is None else rate_span(base), step
        if found.same_share is not None:
            yield (
                "VF/VT abroad, the same share at high risk",
                "29.1% (26.5 to 31.9)",
                rate_span(found.same_share.rate),
                step,
            )
        if found.at_cutoff is not None:
            yield "share above the absolute cut-off, abroad", "3.4%", _percent(found.at_cutoff.share), step
            yield "VF/VT abroad, the absolute cut-off", "25.7% (23.6 to 28.0)", rate_span(found.at_cutoff.rate), step
    for coded in r.coding.sites.values():
        e = coded.odds_ratio
        span = None if e.value is None else f"{e.value:.1f}"
        if span and e.low is not None and e.high is not None:
            span += f" ({e.low:.1f} to {e.high:.1f})"
        yield "VF/VT written down abroad at the same risk, times as likely", "6", span, step


def _overlap(step: str, r: Overlap, study: Study) -> Iterator[Row]:
    home = r.pooled.get("training")
    if home is None or not r.marker.startswith("lvef") or _event(study, r.outcome) != "scd":
        return
    g = home.fixed.groups
    for what, name, share, rate in (
        ("ejection fraction measured", "measured", "22.5%", None),
        ("ejection fraction of 35% or less", "marker", "1.9%", "4.6%"),
        ("high-risk ECG", "high", "2.2%", "7.0%"),
        ("both", "both", "0.3%", "10.7%"),
        ("low ejection fraction alone", "marker_only", "1.6%", "3.4%"),
        ("high-risk ECG, normal or unknown ejection fraction", "high_only", "1.9%", "6.4%"),
    ):
        yield f"share: {what}", share, _percent(g[name].share), step
        if rate is not None:
            yield f"rate: {what}", rate, rate_span(g[name].rate), step
    both, high = g["both"].ecgs, g["high"].ecgs
    known = both / high if both is not None and high else None
    yield "of the high-risk ECGs, known to have a low ejection fraction", "13.9%", _percent(known), step
    if home.matched is not None:
        yield "rate: high-risk ECG, matched in size", "7.3%", rate_span(home.matched.groups["high"].rate), step


def _contrast(step: str, r: Contrast, labels: Labels) -> Iterator[Row]:
    for found in r.pooled.values():
        if r.score in found.placebo:
            p = found.placebo[r.score]
            yield "AUC, arrhythmic arrests", "0.767 (0.706 to 0.823)", _auc(p.auc), step
            yield "AUC, other arrests (placebo)", "0.582 (0.529 to 0.636)", _auc(p.placebo_auc), step
            difference = _auc(p.difference)
            told = (
                None
                if difference is None or p.p is None
                else f"{difference}, P {'< 0.001' if p.p < 0.001 else f'= {p.p:.3f}'}"
            )
            yield "difference of the two", "0.185, P < 0.001", told or difference, step


def _spread(step: str, r: HighRisk, labels: Labels) -> Iterator[Row]:
    for group, where, published in (
        ("training", "Sweden", "0.38% (1.23%)"),
        ("zero_shot", "abroad (US)", "0.64% (1.85%)"),
    ):
        profile = r.pooled.get(group)  # type: ignore[call-overload]
        if profile is not None and profile.distribution.mean is not None:
            d = profile.distribution
            yield (
                f"mean (SD) of the predicted risk, {where}",
                published,
                f"{100 * d.mean:.2f}% ({100 * (d.sd or 0):.2f}%)",
                step,
            )


_DEVICES = {
    ("scd", "ecg"): ("-3.62 points of 6.65 (-54.4%)", "high_risk:defibrillator"),
    ("scd", "lvef"): ("-2.99 points of 4.43 (-67.5%)", "lvef<=0.35:defibrillator"),
    ("death", "ecg"): ("-12.6 points of 32.4 (-39.0%)", "high_risk:defibrillator"),
    ("death", "lvef"): ("-0.5 points of 11.5 (-4.6%)", "lvef<=0.35:defibrillator"),
}


def _devices(step: str, r: Regress, study: Study) -> Iterator[Row]:
    words = {"scd": "sudden death", "death": "death", "ecg": "high-risk ECG", "lvef": "low ejection fraction"}
    for model in r.models:
        key = (_event(study, model.outcome), model.name)
        if key not in _DEVICES or model.method != "ols":
            continue
        published, term = _DEVICES[key]
        product = model.pooled.coefficients.get(term)
        expected = next((rate.expected.value for rate in model.pooled.rates if rate.group == term.split(":")[0]), None)
        ours: Cell = None
        if product is not None and product.value is not None:
            ours = f"{100 * product.value:.2f} points"
            if product.low is not None and product.high is not None:
                ours += f" ({100 * product.low:.2f} to {100 * product.high:.2f})"
            if expected:
                ours += f" of {100 * expected:.2f}"
        yield f"defibrillator x {words[key[1]]}, {words[key[0]]}", published, ours, step
