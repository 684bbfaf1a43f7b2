"""The site's privacy ledger: what private training has cost its patients, over all runs of a study, for ever.

A charge is on the disk BEFORE the work it pays for begins, so a crash can over-count and never under-count. The cost
of a study is the composition of all its charges by the accountant that planned them, never a sum of epsilons.

One charge pays for one answer. A round begun again after a crash finds its charge and costs nothing more, as long as
no answer was made of it; :meth:`Ledger.answered` says that one was, before it can leave, and from then on the same
round is a new charge.
"""

from __future__ import annotations

import calendar
import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from client.egress.ledger_store import LedgerStore
from client.site.settings import PrivacyCap
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.privacy.accounting import PrivacyPlan, Spent, epsilon_spent
from ecgshared.privacy.config import Accountant


@dataclass(frozen=True)
class Charge:
    """What one round of private training cost.

    Attributes
    ----------
    at : UTC, ISO 8601.
    study : sha256 of the study.
    delta, accountant : what the round was planned with.
    epsilon : of ALL charges of the study up to this one together.
    answered : an answer was made of it, and may have left.
    """

    at: str
    study: str
    study_name: str
    run: str
    step: str
    round: int
    spent: Spent
    delta: float
    accountant: Accountant
    epsilon: float
    answered: bool = False

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What the charge is for: study, run, step, round."""
        return self.study, self.run, self.step, self.round


class Ledger:
    """The privacy ledger below a site's ``state`` folder; one object for each request.

    Nothing is opened before it is asked, and any number of processes may use it at once. Reading raises
    :class:`PrivacyError` where the ledger is damaged, gone or edited; :meth:`charge` and :meth:`answered` refuse, as a
    site must answer with a code.
    """

    def __init__(self, state: Path) -> None:
        self._store = LedgerStore(state)
        self._begun: set[tuple[str, str, str, int]] = set()

    def charge(
        self,
        *,
        study: str,
        study_name: str,
        run: str,
        step: str,
        round: int,
        steps: int,
        plan: PrivacyPlan,
        cap: PrivacyCap,
    ) -> float:
        """Pay for ``steps`` steps of a round before they begin; return epsilon of the whole study, this included.

        A round already charged by the same plan, of which no answer was made, costs nothing more.

        Parameters
        ----------
        study : sha256 of the study.
        steps : local steps of this round, at least 1.
        plan : its noise, sampling rate, delta and accountant.
        cap : the site's cap on one study, and on all. Epsilon is counted at its delta where that is below all planned
            ones.

        Raises
        ------
        Refused : BUDGET_SPENT where the study would cost more than the cap, and where the ledger is damaged, gone or
            edited: what cannot be shown to be left counts as spent. DATA_UNAVAILABLE where the disk is full or
            read-only or another process holds the ledger: nothing was spent, and asking again later may do.
            PRIVACY_REQUIRED where the plan promises nothing.
        """
        spent = Spent(float(plan.noise_multiplier), float(plan.sample_rate), int(steps))
        asked = Charge(_now(), study, study_name, run, step, int(round), spent, float(plan.delta), plan.accountant, 0.0)
        promises = 0 < spent.noise_multiplier < math.inf and 0 < spent.sample_rate <= 1 and 0 < asked.delta < 1
        if not promises or spent.steps < 1:
            raise Refused(RefusalCode.PRIVACY_REQUIRED, "no charge can be made of this plan", value=asked)
        with self._refusing(), self._store.transaction() as lines:
            earlier = [c for c in _charges(lines.read) if c.study == study]
            if any(_pays_for(c, asked) for c in earlier):
                self._begun.add(asked.key)
                return earlier[-1].epsilon
            epsilon = _composed([*earlier, asked], least_delta=cap.max_delta)[0]
            # An accountant's grid may differ by a hair between two histories; what was spent stays spent.
            epsilon = max(epsilon, earlier[-1].epsilon if earlier else 0.0)
            if not epsilon <= cap.max_epsilon:
                raise Refused(
                    RefusalCode.BUDGET_SPENT,
                    "the study would cost more than this site grants one study",
                    where="privacy.max_epsilon",
                    value=math.ceil(epsilon * 1e4) / 1e4 if math.isfinite(epsilon) else epsilon,
                    allowed=f"at most {cap.max_epsilon:g}",
                )
            _require_in_all([*_charges(lines.read), asked], cap)
            lines.add({"kind": "charge", **asdict(replace(asked, epsilon=epsilon))})
        self._begun.add(asked.key)
        return epsilon

    def answered(self) -> None:
        """Write that an answer is made of what was charged through this object; called before it can leave.

        Does nothing where nothing was charged.

        Raises
        ------
        Refused : INTERNAL where the charge does not stand open any more: another process answered the round meanwhile,
            and the outbox has its answer. Otherwise as :meth:`charge`.
        """
        if not self._begun:
            return
        with self._refusing(), self._store.transaction() as lines:
            standing = {c.key for c in _charges(lines.read) if not c.answered}
            for key in sorted(self._begun):
                if key not in standing:
                    raise Refused(RefusalCode.INTERNAL, "no charge stands open for this round")
                lines.add({"kind": "answer", "at": _now(), **dict(zip(_KEY, key, strict=True))})
        self._begun.clear()

    def entries(self) -> list[Charge]:
        """Return every charge, the oldest first."""
        try:
            return _charges(self._store.lines())
        except (OSError, sqlite3.OperationalError) as error:
            raise PrivacyError(
                f"the privacy ledger cannot be read ({type(error).__name__})", where=self._store.path
            ) from error

    def spent(self, study: str) -> tuple[float, float]:
        """Return (epsilon, delta) of all charges of a study (sha256) together; (0, 0) where there is none.

        Delta is the least that any of them was planned with.
        """
        charges = [c for c in self.entries() if c.study == study]
        if not charges:
            return 0.0, 0.0
        epsilon, delta = _composed(charges)
        return max(epsilon, charges[-1].epsilon), delta

    def total(self) -> tuple[float, float]:
        """Return (epsilon, delta) of ALL studies together: what the patients of the site have paid."""
        charges = self.entries()
        return _composed(charges) if charges else (0.0, 0.0)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except PrivacyError as error:
            raise Refused(RefusalCode.BUDGET_SPENT, error.what, where=error.where, remedy=error.remedy) from error
        except (OSError, sqlite3.OperationalError) as error:
            raise Refused(
                RefusalCode.DATA_UNAVAILABLE,
                "the privacy ledger cannot be written",
                where=self._store.path,
                remedy="is the disk full or read-only? does another process hang?",
            ) from error


_KEY = ("study", "run", "step", "round")


def _pays_for(charge: Charge, asked: Charge) -> bool:
    """Tell whether ``charge`` already pays for what is asked."""
    same = (charge.key, charge.spent, charge.delta) == (asked.key, asked.spent, asked.delta)
    return same and not charge.answered


def _charges(lines: Sequence[dict[str, Any]]) -> list[Charge]:
    """Return the charges; an answer closes every charge of its round that stood open."""
    charges: list[Charge] = []
    standing: dict[tuple[str, str, str, int], list[int]] = {}
    for line in lines:
        if line["kind"] == "charge":
            values = {name: value for name, value in line.items() if name != "kind"}
            charges.append(Charge(**{**values, "spent": Spent(**values["spent"])}))
            standing.setdefault(charges[-1].key, []).append(len(charges) - 1)
        else:
            for i in standing.pop((line["study"], line["run"], line["step"], line["round"]), []):
                charges[i] = replace(charges[i], answered=True)
    return charges


def _composed(charges: Sequence[Charge], *, least_delta: float | None = None) -> tuple[float, float]:
    """Compose charges at the smallest delta any was planned with: what holds there holds at every larger one.

    Where they were planned with different accountants, all are counted by RDP, the looser.
    """
    delta = min([c.delta for c in charges] + ([] if least_delta is None else [least_delta]))
    accountants = {c.accountant for c in charges}
    accountant: Accountant = accountants.pop() if len(accountants) == 1 else "rdp"
    return epsilon_spent([c.spent for c in charges], delta=delta, accountant=accountant), delta


def _require_in_all(charges: Sequence[Charge], cap: PrivacyCap) -> None:
    """Refuse what would cost patients more than the site grants all studies together in its period.

    A study renamed, or of another seed, is another hash with a cap of its own: this one it does not renew.
    """
    counted = charges if cap.total_days is None else [c for c in charges if _age_days(c.at) <= cap.total_days]
    epsilon = _composed(counted, least_delta=cap.max_delta)[0]
    if not epsilon <= cap.most_in_all * (1 + 1e-6):
        raise Refused(
            RefusalCode.BUDGET_SPENT,
            "all studies together would cost more than this site grants its patients",
            where="privacy.total_epsilon",
            value=math.ceil(epsilon * 1e4) / 1e4 if math.isfinite(epsilon) else epsilon,
            allowed=f"at most {cap.most_in_all:g}" + ("" if cap.total_days is None else f" in {cap.total_days:g} days"),
        )


def _age_days(at: str) -> float:
    return (time.time() - calendar.timegm(time.strptime(at, "%Y-%m-%dT%H:%M:%SZ"))) / 86400


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
