"""How age and sex from the ECG are shown: the gap, figures by site and group, and another model beside."""

from __future__ import annotations

from ecgshared.stages.results.age_sex import Judged, Result
from ecgshared.stages.results.base import EstimateResult
from server.report.labels import Labels
from server.report.sections import Block, Cell, Section, Table, Text


def sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """Return one section."""
    lines = [(labels.pooled(group), judged) for group, judged in r.pooled.items()]
    lines += [(labels.site(site), judged) for site, judged in r.sites.items()]
    blocks: list[Block] = []
    if r.age is not None:
        blocks.append(Text(_gap(r)))
        blocks.append(_ages(lines))
    if r.sex is not None:
        blocks.append(_sexes(lines))
    blocks.append(_chance(lines))
    if r.against:
        blocks.append(_against(r, lines))
    if r.withheld:
        blocks.append(Text(f"Too few to tell of: {', '.join(map(labels.site, r.withheld))}."))
    return [Section(f"{labels.step(step)}: age and sex from the ECG", blocks)]


def _gap(r: Result) -> str:
    if r.gap is None or r.gap.slope is None or r.gap.intercept is None:
        return "No training site told what the age gap and the interval of a prediction are computed from."
    width = next((w for w in r.conformal.values() if w is not None), None)
    interval = (
        "too few errors were told for an interval of a single prediction"
        if width is None
        else f"a single prediction -/+ {width:g} years holds the age of {r.coverage:.0%} of people like them"
    )
    return (
        f"Over {r.gap.ecgs:.0f} validation ECGs predicted less true age is {r.gap.intercept:.2f} "
        f"{'+' if r.gap.slope >= 0 else '-'} {abs(r.gap.slope):.3f} times age; the age gap is what is left of it "
        f"(SD {r.gap.sd or 0:.1f} years), so that it does not go with age. By conformal prediction {interval}."
    )


def _ages(lines: list[tuple[str, Judged]]) -> Table:
    rows: list[list[Cell]] = [
        [
            *(where, group, f.ecgs, f.patients, _span(f.mae), f.bias, f.sd, f.r2, _span(f.r)),
            "" if f.agreement_low is None else f"{f.agreement_low:.1f} to {f.agreement_high:.1f}",
        ]
        for where, judged in lines
        for group, f in judged.age.items()
    ]
    head = [
        "where",
        "group",
        "ECGs",
        "patients",
        "mean absolute error (95%)",
        "bias",
        "SD",
        "R2",
        "r (95%)",
        "limits of agreement",
    ]
    note = "Years; intervals clustered by patient. Groups that are not listed are too small, or would give one away."
    return Table("Age", head, rows, note=note)


def _sexes(lines: list[tuple[str, Judged]]) -> Table:
    rows: list[list[Cell]] = [
        [where, group, f.ecgs, f.patients, _span(f.accuracy, 3), _span(f.auc, 3), f.men, f.predicted_men]
        for where, judged in lines
        for group, f in judged.sex.items()
    ]
    head = ["where", "group", "ECGs", "patients", "accuracy (95%)", "AUC (95%)", "share of men", "predicted share"]
    note = "Accuracy at a probability of one half. An AUC is a hospital's own: scores of several are not pooled."
    return Table("Sex", head, rows, note=note)


def _chance(lines: list[tuple[str, Judged]]) -> Table:
    rows: list[list[Cell]] = [
        [where, _span(judged.age_chance, 2), _span(judged.sex_chance, 3)] for where, judged in lines
    ]
    head = ["where", "mean absolute error, years", "accuracy"]
    note = "Without an ECG everybody is told the training patients' mean age and more frequent sex."
    return Table("This model less an answer without an ECG", head, rows, note=note)


def _against(r: Result, lines: list[tuple[str, Judged]]) -> Table:
    rows: list[list[Cell]] = [
        [where, _span(judged.age_difference, 2), _span(judged.sex_difference, 3)] for where, judged in lines
    ]
    other = ", ".join(r.against.values())
    head = ["where", "mean absolute error, years", "accuracy"]
    return Table(f"This model less {other}, on the same ECGs", head, rows, note="Below 0 in the error is better here.")


def _span(value: EstimateResult | None, digits: int = 2) -> str:
    if value is None or value.value is None:
        return ""
    if value.low is None or value.high is None:
        return f"{value.value:.{digits}f}"
    return f"{value.value:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"
