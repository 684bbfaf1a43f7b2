"""The TRIPOD+AI checklist of a study: where this report answers an item, and what its authors must still write.

Collins et al., "TRIPOD+AI statement", BMJ 2024;385:e078378 (doi 10.1136/bmj-2023-078378). The items are told in our own
words; the statement has the full ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ecgshared.stages.results.base import StageResult
from ecgshared.study.study import Study

Status = Literal["here", "partly", "missing"]


@dataclass(frozen=True)
class Item:
    """One item. ``anchor``: where the page answers it, without "#"; empty where it does not. ``note``: what lacks."""

    number: str
    what: str
    status: Status
    anchor: str
    note: str


def checklist(study: Study | None, results: Mapping[str, StageResult], stages: Mapping[str, str]) -> list[Item]:
    """Return the items in their order.

    Parameters
    ----------
    results : by step. stages : stage by step of those with a result.
    """
    first = {stage: step for step, stage in reversed(list(stages.items()))}
    described, judged = first.get("describe"), first.get("evaluate") or first.get("survival_evaluate")
    trained = first.get("train")
    fitted = first.get("calibrate") or first.get("survival") or trained

    def at(step: str | None) -> str:
        return f"step-{step}" if step else ""

    def here(number: str, what: str, anchor: str, lack: str) -> Item:
        return Item(number, what, "here" if anchor else "missing", anchor, "" if anchor else lack)

    def partly(number: str, what: str, anchor: str, note: str) -> Item:
        return Item(number, what, "partly" if anchor else "missing", anchor, note)

    def write(number: str, what: str, note: str = "not known to ecgfed: write it") -> Item:
        return Item(number, what, "missing", "", note)

    told = "methods" if study is not None else ""
    unread = "the study file could not be read"
    nothing = "the study has no such step, or it has no result yet"
    unseen = bool(study and study.sites.zero_shot)
    private = study is not None and any(getattr(s, "privacy", None) is not None for s in study.steps)
    fair = bool(judged and first.get("evaluate"))
    return [
        partly(
            "1",
            "title: development or evaluation, population, outcome",
            "top",
            "the study's name and about; give a title",
        )
        if study is None or not study.about
        else here("1", "title: development or evaluation, population, outcome", "top", ""),
        partly("2", "abstract", "summary", "the summary has the figures; write the rest"),
        write("3a", "clinical context and rationale"),
        write("3b", "intended use and target population in the care pathway"),
        write("3c", "known inequalities between groups of people"),
        partly(
            "4", "objectives", "top" if study and study.about else "", "say whether it develops, evaluates, or both"
        ),
        partly("5a", "sources of data and why they are representative", told, "which registers and archives: write it"),
        write("5b", "dates of data collection and of the end of follow-up", "dates never leave a hospital: ask each"),
        partly("6a", "setting: number and kind of centres", told, "kind and place of each hospital: write it"),
        here("6b", "eligibility criteria", told, unread),
        write("6c", "treatments received and how they were handled"),
        here("7", "preparation and quality checks of the data", told, unread),
        here("8a", "outcome, its horizon, and how it was assessed", told, unread),
        write("8b", "who judged outcomes that need interpretation"),
        write("8c", "blinding of the assessment of outcomes"),
        partly("9a", "choice of predictors", told, "why these: write it"),
        here("9b", "definition and measurement of predictors", told, unread),
        write("9c", "who measured predictors that need interpretation"),
        write(
            "10", "how the size of the study was arrived at", "no calculation of sample size is part of a study file"
        ),
        partly(
            "11", "missing data", at(described), "ECGs without a label or an input are left out and counted; justify it"
        ),
        here("12a", "use of the data: development, validation, evaluation", told, unread),
        partly("12b", "handling and transformation of predictors", told, "standardised over training hospitals"),
        here("12c", "kind of model, its building, its settings", at(trained) or at(fitted), nothing),
        partly(
            "12d", "heterogeneity between hospitals", at(judged), "forest plot, random effects, prediction interval"
        ),
        here("12e", "measures and plots of performance", at(judged), nothing),
        here("12f", "updating of the model, such as recalibration", at(first.get("calibrate")), "no calibrate step"),
        here("12g", "how predictions are computed", at(fitted), nothing),
        write("13", "class imbalance: methods and why", "no resampling or weighting of classes is done; say so"),
        partly("14", "fairness", at(judged) if fair else "", "subgroups of the study; say why these and what was done"),
        here("15", "output of the model and its thresholds", at(first.get("threshold")), "no threshold step"),
        partly(
            "16",
            "differences between development and evaluation data",
            at(described),
            "Table 1 by hospital; discuss it",
        ),
        write("17", "ethics approval and consent"),
        write("18a", "funding"),
        write("18b", "conflicts of interest"),
        partly(
            "18c", "protocol", "ran", "the study file and its hash are the analysis plan; say where it was deposited"
        ),
        write("18d", "registration"),
        write("18e", "availability of data", "recordings stay at the hospitals; say how access is asked for"),
        partly("18f", "availability of code", "ran", "version of ecgfed and hash of the study; say where the code is"),
        write("19", "involvement of patients and the public"),
        here("20a", "flow of participants and follow-up time", at(described), nothing),
        here("20b", "characteristics by hospital, with and without the outcome", at(described), nothing),
        here(
            "20c",
            "comparison of evaluation with development data",
            at(described) if unseen else "",
            "no hospital was held back",
        ),
        here("21", "numbers of participants and events in each analysis", at(judged) or at(fitted), nothing),
        partly(
            "22",
            "full model",
            at(fitted),
            "coefficients are here; weights lie in the run folder: say how to obtain them",
        ),
        here("23a", "performance with intervals, and in subgroups", at(judged), nothing),
        here("23b", "heterogeneity of performance between hospitals", at(judged), nothing),
        here("24", "results of updating", at(first.get("calibrate")), "no calibrate step"),
        write("25", "interpretation, fairness among it"),
        partly(
            "26", "limitations", "left" if not private else "", "what was withheld is named; discuss bias and precision"
        )
        if not private
        else partly(
            "26", "limitations", "left", "what was withheld, and what epsilon does not cover, is named; discuss it"
        ),
        write("27a", "how poor or missing input is handled in use"),
        write("27b", "interaction and expertise that users need"),
        write("27c", "next steps and generalisability"),
    ]
