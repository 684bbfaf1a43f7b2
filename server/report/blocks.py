"""What a block of the study says as a whole: its contrast steps in one table and one forest plot an outcome."""

from __future__ import annotations

from collections.abc import Mapping

from ecgshared.stages.results.base import StageResult
from ecgshared.stages.results.contrast import Pair, Result
from ecgshared.study.study import Study
from server.report.contrast import RISK_COLUMNS, risk_figures
from server.report.evaluation_tables import p_of, span
from server.report.forest import ForestRow, forest
from server.report.labels import Labels
from server.report.sections import Block, Cell, Section, Table


def block_sections(step: str, study: Study | None, results: Mapping[str, StageResult], labels: Labels) -> list[Section]:
    """Return a block's section behind the last of its contrast steps; none behind others, or for a block of one."""
    block = None if study is None else next((s.block for s in study.steps if s.id == step), None)
    if study is None or block is None:
        return []
    members = [s.id for s in study.steps if s.block == block and s.stage == "contrast"]
    if members[-1:] != [step] or len(members) < 2:
        return []
    lines = [
        (outcome, labels.site(site), r.score, other, pair)
        for member in members
        if isinstance(r := results.get(member), Result)
        for site, found in r.sites.items()
        for outcome, pairs in found.pairs.items()
        for other, pair in pairs.items()
    ]
    rows: list[list[Cell]] = [
        [hospital, labels.endpoint(outcome), labels.score(score), labels.score(other), *_figures(pair)]
        for outcome, hospital, score, other, pair in lines
    ]
    columns = ["judged at", "outcome", "score", "other score", "ECGs", "with the event", "AUC", "its AUC"]
    blocks: list[Block] = [
        Table(
            "In pairs",
            [*columns, "difference (95% CI)", "p"],
            rows,
            note="Each line is of the ECGs of one hospital that have both scores; AUC less its AUC, by patient.",
        )
    ]
    as_risks: list[list[Cell]] = [
        [hospital, labels.endpoint(outcome), labels.score(score), labels.score(other), *risk_figures(pair)]
        for outcome, hospital, score, other, pair in lines
        if pair.risks is not None
    ]
    if as_risks:
        note = "On the same ECGs; Brier less its Brier: below zero where the first is closer."
        blocks.append(Table("In pairs, as risks", [*columns[:4], *RISK_COLUMNS], as_risks, note=note))
    for outcome in dict.fromkeys(line[0] for line in lines):
        drawn = [
            ForestRow(f"{hospital}: {labels.score(other)}", p.difference.value, p.difference.low, p.difference.high)
            for of, hospital, _, other, p in lines
            if of == outcome and p.difference.value is not None
        ]
        if len(drawn) > 1:
            title = f"Difference of AUC, {labels.endpoint(outcome)}"
            blocks.append(forest(title, drawn, "difference of AUC (95% interval)", reference=0.0))
    return [Section(f"Together: {block.replace('_', ' ')}", blocks)]


def _figures(p: Pair) -> list[Cell]:
    return [p.ecgs, p.events, span(p.auc), span(p.other_auc), span(p.difference), p_of(p.p, p.difference)]
