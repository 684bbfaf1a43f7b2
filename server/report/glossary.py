"""What the report's words mean, and why a site may be absent."""

from __future__ import annotations

from collections.abc import Iterable

from ecgshared.errors import RefusalCode
from ecgshared.study.amendment import LEFT

GLOSSARY: tuple[tuple[str, str, str], ...] = (
    (
        "withheld",
        "Withheld",
        "The hospital did not release this number, because the group behind it is smaller than its "
        "own limits allow (by default 10 patients, and 5 with the event), or the number is "
        "undefined there. Nothing was filled in.",
    ),
    (
        "bounds",
        "Bounds",
        "A hospital counts those without the event on bins of at least ten patients, and those with it "
        "only above cuts that divide it into large enough groups. The exact value from all scores lies "
        "between the bounds; they speak of what was not counted, not of chance.",
    ),
    (
        "interval",
        "Interval",
        "A 95% confidence interval with the patient as the unit: several ECGs of one patient count "
        "as one observation of that patient, not as independent ones.",
    ),
    (
        "zero-shot",
        "Zero-shot",
        "A site that took no part in training, calibration or the choice of a threshold, and was only evaluated.",
    ),
    (
        "lockbox",
        "Lockbox",
        "The patients a site set aside by its own lasting key. Only a step of evaluation opens it.",
    ),
    (
        "kinds",
        "Kinds of release",
        "weights: parameters of a model. count: numbers of patients, ECGs or events, one group a "
        "cell. statistic: a mean, rate, AUC, slope or error of one group. sums: totals over many "
        "patients. public: says nothing about a person. Every cell of a count or statistic passes "
        "the site's limits before it leaves.",
    ),
)

_CODES: dict[str, str] = {
    RefusalCode.STUDY_NOT_APPROVED: "the hospital has not approved this study",
    RefusalCode.STUDY_MISMATCH: "the hospital holds another version of the study",
    RefusalCode.UNKNOWN_STEP: "the hospital's study has no such step or request",
    RefusalCode.NOT_A_MEMBER: "the step is not for this site",
    RefusalCode.BAD_REQUEST: "the request did not fit what the step declares",
    RefusalCode.TOO_FEW: "too few patients or events for any answer",
    RefusalCode.BUDGET_SPENT: "the site's privacy budget does not allow it",
    RefusalCode.PRIVACY_REQUIRED: "the site answers only studies with differential privacy",
    RefusalCode.GATE_CLOSED: "the site's egress gate let nothing out",
    RefusalCode.DATA_UNAVAILABLE: "the site's data could not be read",
    RefusalCode.INTERNAL: "a fault at the site; its own log says which",
    RefusalCode.PAUSED: "the site's operator paused it",
    RefusalCode.CASE_CONTROL: "its table is a case-control series, and what was asked for hangs on how often the event "
    "is, or the study takes the site for a cohort",
    RefusalCode.WORKER_LOST: "the process that works at the site ended; it is started again",
    RefusalCode.CODE_NOT_APPROVED: "the hospital has not approved the version of ecgfed it runs",
    RefusalCode.AMENDMENT_NOT_APPROVED: "the run goes on with other members than the hospital approved",
    RefusalCode.ENVELOPE_NOT_APPROVED: "the hospital has not approved the envelope that Flower ships",
    RefusalCode.SECURE_SUM_REQUIRED: "the site gives this under masks alone, and the study asks for it plainly",
    RefusalCode.SECURE_SUM_REFUSED: "the site takes no part in this sum under masks: too few take part, or it was "
    "asked for what would undo a mask",
    RefusalCode.OVERRIDES: "the run came with settings beside the study",
    "deadline": "no answer before the deadline",
    "not-connected": "the site was not connected",
    "revoked": "the coordinator lets the site in no more",
    LEFT: "the site left for good; the others approved to go on without it",
    "not-finite": "the answer held NaN or infinity where none may be",
    "lost": "the message or its answer was lost on the way",
    "malformed": "the answer did not have the declared form",
}


def explain(reason: str) -> str:
    """Return what a reason means in words; empty for one that speaks for itself."""
    return next((words for code, words in _CODES.items() if reason.startswith(code)), "")


def in_words(reasons: Iterable[str]) -> str:
    """Return why a site is absent, in words where there are any: "too few patients or events for any answer"."""
    return "; ".join(dict.fromkeys(explain(reason) or reason for reason in reasons))


REASONS = explain
