"""What a client stage works with: one site, its approved study, its data, and its folder of state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from client.dataset.data import SiteData
from client.dataset.remembered import Remembered
from client.egress.ledger import Ledger
from client.egress.memory import Asked, Keys
from client.rows.told import Told
from client.site.settings import SiteSettings
from ecgshared.arrays import Floats
from ecgshared.errors import RefusalCode, Refused
from ecgshared.study.study import Study
from ecgshared.wire.protocol import StepConfig


@dataclass(frozen=True)
class SiteContext:
    """One step at one site.

    Attributes
    ----------
    data : the site's cohort under this study, its step's population alone, with the lockbox rows
        removed unless the step may open it.
    state : owner-only folder of this run at this site.
    trains : False where the study only evaluates this site: then all its patients stand in the lockbox.
    ledger : what private training is charged to before it begins; None where nothing can leave (a preview).
    rng : from the site's own seed (or the system's entropy), never from the study's.
    memory : the opened cohort's own; use :meth:`remembered`.
    spoken : the sets that any answer of this step speaks of. told : what the answer's cells would tell beside them.
    present : ECGs of the whole cohort and whose they are, by lasting keys; without those who wait.
    """

    settings: SiteSettings
    study: Study
    step: StepConfig
    data: SiteData
    state: Path
    run: str
    trains: bool
    ledger: Ledger | None
    rng: np.random.Generator
    memory: Remembered = field(default_factory=Remembered)
    spoken: tuple[Asked, ...] = ()
    told: Told | None = None
    present: tuple[Keys, Keys] = field(default_factory=lambda: (np.zeros(0, np.uint64), np.zeros(0, np.uint64)))

    @cached_property
    def cells(self) -> Told:
        """What was told before, to hold an answer's cells against."""
        return Told.of_nobody(self.settings.limits) if self.told is None else self.told

    @property
    def case_control(self) -> bool:
        """Whether the table is a case-control series, by the site file or by the study: then only ranks leave."""
        return self.settings.design == "case_control" or self.settings.site in self.study.sites.case_control

    def require_cohort(self) -> None:
        """Raise :class:`Refused` at a case-control series."""
        if self.case_control:
            raise Refused(RefusalCode.CASE_CONTROL, "this hangs on how often the event is", value=self.step.id)

    def remembered(
        self, kind: str, model: str, arrays: tuple[np.ndarray, ...], compute: Callable[[], Floats], *, most: int
    ) -> Floats:
        """Return what a model says of rows, computed once.

        Parameters
        ----------
        model : id of the train step.
        arrays : weights, standardisation and rows.
        """
        # Lockbox and population are part of it: row numbers then mean other ECGs.
        return self.memory.get(
            kind, (model, str(self.step.opens_lockbox), str(self.step.population), self.run), arrays, compute, most=most
        )
