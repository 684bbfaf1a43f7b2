"""Secure sums in the language of studies: which answers are added under masks, and how many sites open a sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Protocol

from pydantic import Field

from ecgshared.config import Config
from ecgshared.study.registry import shared_room
from ecgshared.wire.protocol import StepConfig

LEAST_SITES = 3
"""Of two sites, each would learn the other's numbers from the sum."""
TOGETHER = "together"
"""Who answers where only the sum of the sites' answers is known."""

Group = Literal["own", "pooled"]
"""Whose group meets a site's limits before a sum is opened: each site's own, or that of all sites together."""


class SecureSumConfig(Config):
    """Sums of the sites' answers, of which nobody sees the parts."""

    threshold: Annotated[int, Field(ge=LEAST_SITES)] | Literal["majority"] = Field(
        default="majority",
        description="sites that must send and open a sum: more than half of a step's, and 3 at least; more resist more "
        "sites that side with the coordinator",
    )
    colluding: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="sites whose share of a sum's noise is not counted on, as they may tell it; a site knows its own, "
        "so that one never is",
        exclude_if=lambda value: value == 1,
    )

    def least(self, sites: int) -> int:
        """Return how many of a step's sites must send their part, and reveal, for a sum to be opened."""
        return least_threshold(sites) if self.threshold == "majority" else self.threshold


class Study(Protocol):
    """What is asked of a study here."""

    @property
    def secure_sum(self) -> SecureSumConfig | None:
        """How its sums are hidden; None where they are not."""

    def members(self, step: StepConfig) -> tuple[str, ...]:
        """Return the sites a step is run on."""


def least_threshold(sites: int) -> int:
    """Return the fewest sites that may open a sum of ``sites``: more than half, so that no two disjoint sets can."""
    return max(LEAST_SITES, sites // 2 + 1)


def summed_phases(stage: str) -> Mapping[str, Group]:
    """Return the phases of a stage whose answers can be added under masks, and whose group the limits are held to."""
    found: Mapping[str, Group] = getattr(shared_room(stage), "SUMMED", {})
    return found


def secure_sum_in_use(study: Study, step: StepConfig) -> bool:
    """Whether what this step's sites would send as sums or weights is added under masks."""
    return study.secure_sum is not None and step.frozen is None and bool(summed_phases(step.stage))


def check_secure_sum(study: Study, step: StepConfig) -> None:
    """Raise ValueError where a step cannot be summed so."""
    config = study.secure_sum
    if config is None or not secure_sum_in_use(study, step):
        return
    members = len(study.members(step))
    if members < LEAST_SITES:
        raise ValueError(
            f"step {step.id!r}: secure_sum needs at least {LEAST_SITES} sites, the step has {members}; of two, each "
            "would learn the other's numbers"
        )
    least, most = least_threshold(members), members
    if not least <= config.least(members) <= most:
        raise ValueError(
            f"step {step.id!r}: secure_sum.threshold {config.threshold} does not fit its {members} sites; allowed: "
            f"{least} to {most}"
        )
    if config.least(members) - config.colluding < 1:
        raise ValueError(
            f"step {step.id!r}: secure_sum.colluding {config.colluding} leaves no site whose noise could be counted "
            f"on; allowed: below the {config.least(members)} sites that open a sum"
        )
    strategy = getattr(step, "strategy", None)
    if strategy is not None and strategy.name in ("fedmedian", "fedtrimmedavg", "krum"):
        raise ValueError(
            f"step {step.id!r}: strategy {strategy.name} compares the sites' own weights, which secure_sum hides; "
            "allowed: fedavg, fedprox, fedadam, fedbn"
        )
