"""What a client stage works with: one site, its approved study, its data, and its folder of state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.dataset.data import SiteData
from client.egress.ledger import Ledger
from client.site.settings import SiteSettings
from ecgshared.study.study import Study
from ecgshared.wire.protocol import StepConfig


@dataclass(frozen=True)
class SiteContext:
    """One step at one site.

    Attributes
    ----------
    data : the site's cohort under this study, with the lockbox rows removed unless the step may open it.
    state : owner-only folder of this run at this site.
    trains : False where the study only evaluates this site: then all its patients stand in the lockbox.
    ledger : what private training is charged to before it begins; None where nothing can leave (a preview).
    rng : from the site's own seed (or the system's entropy), never from the study's.
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
