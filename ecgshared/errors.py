"""One exception tree. Each error says what is wrong, where, the value, what is allowed, and what to do.

Text of these errors is for the person at this machine. Across the border between a hospital and the
coordinator only a :class:`RefusalCode` travels, never a message.
"""

from __future__ import annotations

from enum import StrEnum


class EcgFedError(Exception):
    """Base of all errors a user can cause or mend.

    Parameters
    ----------
    what : one sentence that names the problem.
    where : file, key, line or row.
    value : the offending value, shown with ``repr``.
    allowed : what would have been accepted.
    remedy : what to do next.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object | None = None,
        value: object | None = None,
        allowed: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.value, self.allowed, self.remedy = what, where, value, allowed, remedy
        super().__init__(self.render())

    def render(self) -> str:
        """Return the error as lines for a terminal."""
        lines = [self.what if self.where is None else f"{self.where}: {self.what}"]
        if self.value is not None:
            lines.append(f"  found:   {self.value!r}")
        if self.allowed is not None:
            lines.append(f"  allowed: {self.allowed}")
        if self.remedy is not None:
            lines.append(f"  to do:   {self.remedy}")
        return "\n".join(lines)


class ConfigError(EcgFedError):
    """A study, site or scenario file is not valid."""


class EcgReadError(EcgFedError):
    """A recording could not be read."""


class CohortError(EcgFedError):
    """A cohort table cannot be used as the site's file describes it."""


class ModelError(EcgFedError):
    """A model, its weights or its layout do not fit."""


class StatisticsError(EcgFedError):
    """A statistic is undefined for these data, or an estimator did not converge."""


class PrivacyError(EcgFedError):
    """A privacy demand cannot be met."""


class RunError(EcgFedError):
    """A run cannot start, go on or be resumed."""


class TooFewError(RunError):
    """No hospital may answer a step: its groups are too small. Other steps may go on without it."""


class RefusalCode(StrEnum):
    """All a hospital ever says about why it did not answer."""

    STUDY_NOT_APPROVED = "study-not-approved"
    STUDY_MISMATCH = "study-mismatch"
    UNKNOWN_STEP = "unknown-step"
    NOT_A_MEMBER = "not-a-member"
    BAD_REQUEST = "bad-request"
    TOO_FEW = "too-few"
    BUDGET_SPENT = "budget-spent"
    PRIVACY_REQUIRED = "privacy-required"
    GATE_CLOSED = "gate-closed"
    DATA_UNAVAILABLE = "data-unavailable"
    INTERNAL = "internal"
    PAUSED = "paused"
    CODE_NOT_APPROVED = "code-not-approved"
    AMENDMENT_NOT_APPROVED = "amendment-not-approved"
    ENVELOPE_NOT_APPROVED = "envelope-not-approved"
    OVERRIDES = "overrides"
    WORKER_LOST = "worker-lost"
    SECURE_SUM_REQUIRED = "secure-sum-required"
    SECURE_SUM_REFUSED = "secure-sum-refused"
    CASE_CONTROL = "case-control"


class Refused(EcgFedError):
    """A site declines a request; only ``code`` leaves the site."""

    def __init__(self, code: RefusalCode, what: str, **details: object) -> None:
        self.code = code
        super().__init__(what, **details)  # type: ignore[arg-type]
