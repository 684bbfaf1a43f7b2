"""saliency: where in the beat, and in which leads, a net's output comes from, on average over patients.

Of each patient one ECG that no training saw, of at most ``most_patients`` patients, drawn by the hospital's own
randomness: all of them, or no more than half, so that no two draws differ by a few. An ECG's attribution
(:mod:`ecgshared.learning.attribution`) is divided by the sum of its sizes over all leads and samples, so that no ECG
weighs more than another. It is laid under the beats: every beat's window around the middle of QRS is averaged. What
leaves are means over all these patients: the share of each lead and phase of the beat, and the course along the beat
beside the mean beat itself.

One phase, ``tell``. A saliency map shows where a net looks, not what it sees there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from ecgshared.arrays import Floats, Ints
from ecgshared.learning.attribution_methods import Method
from ecgshared.models.config import HeadedConfig
from ecgshared.stages.results.saliency import Result as Result
from ecgshared.study.score import require_shared_model, trained_heads
from ecgshared.wire.protocol import Count, Split, Statistic, StepConfig, payload

if TYPE_CHECKING:
    from ecgshared.stages.train import Config as Train
    from ecgshared.study.study import Study

LEAVES = {
    "tell": "means over patients of how much each lead and phase of the beat adds to a net's output, and the mean beat"
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Every number is a mean over all patients of the step, at least as many as the step and the hospital ask for; each "
    "patient's ECG weighs the same, and which ones are taken is the hospital's own draw."
)
"""What stands between these numbers and one patient."""

WINDOW_S = (-0.3, 0.5)
"""Around the middle of QRS."""
PHASES_S = {"P": (-0.3, -0.06), "QRS": (-0.06, 0.06), "ST": (0.06, 0.16), "T": (0.16, 0.44)}
"""Phases of the beat, seconds from the middle of QRS; what lies outside those of every beat is "between"."""
BEAT_PHASES = (*PHASES_S, "between")


class Config(StepConfig):
    """A saliency step; it uses a train step."""

    default_sites: ClassVar[str] = "all"
    opens_lockbox: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("lockbox",)

    head: str = Field(description="<train step>.<head> whose logit is explained")
    method: Method = Field(default="integrated_gradients", description="or gradient_x_input, which is quicker")
    integration_steps: int = Field(default=32, ge=4, le=200, description="points along the way, integrated gradients")
    most_patients: int = Field(default=200, ge=10, le=5000, description="patients a hospital takes, one ECG each")
    at_least: int = Field(default=30, ge=10, description="patients below which a hospital tells nothing")


@payload("saliency", "tell")
@dataclass(frozen=True)
class Told:
    """Means over one site's patients. ``patients``: (1,). ``share``: (12, P), of an ECG's attribution by size, in each
    lead and phase of :data:`BEAT_PHASES`; ``spread``: (12, P), its SD over patients; ``signed``: the same with sign.
    ``course``: (12, W), by size, along the window, per second; ``beat``: (12, W), mV."""

    patients: Annotated[Floats, Count()]
    share: Annotated[Floats, Statistic()]
    spread: Annotated[Floats, Statistic()]
    signed: Annotated[Floats, Statistic()]
    course: Annotated[Floats, Statistic()]
    beat: Annotated[Floats, Statistic()]


def window(fs_hz: float) -> tuple[int, int]:
    """Return samples before and after the middle of QRS."""
    return round(-WINDOW_S[0] * fs_hz), round(WINDOW_S[1] * fs_hz)


def phase_of(samples: int, centres: Ints, fs_hz: float) -> Ints:
    """Return the phase of each sample, index into :data:`BEAT_PHASES`, shape = (samples,): that of the nearest beat."""
    found = np.full(samples, len(BEAT_PHASES) - 1, dtype=np.int64)
    if not len(centres):
        return found
    at = np.arange(samples)
    nearest = centres[np.abs(at[:, None] - centres[None, :]).argmin(axis=1)]
    seconds = (at - nearest) / fs_hz
    for number, (low, high) in enumerate(PHASES_S.values()):
        found[(seconds >= low) & (seconds < high)] = number
    return found


def explained(step: Config, study: Study) -> tuple[Train, int]:
    """Return the train step and the head's number.

    Raises
    ------
    ValueError : the step uses none with such a head, or its net reads no whole recording.
    """
    heads = trained_heads(step, study)
    if step.head not in heads:
        raise ValueError(
            f"step {step.id!r}: head {step.head!r} is no head of a train step it uses; allowed: {', '.join(heads)}"
        )
    name, _, head = step.head.partition(".")
    train: Train = study.step(name)  # type: ignore[assignment]
    if not isinstance(train.model, HeadedConfig) or train.model.sees != "recording":
        raise ValueError(f"step {step.id!r}: {name!r} trains a net that sees no whole recording")
    return train, train.heads.index(head)


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a saliency step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a saliency step's configuration was expected")
    require_shared_model(step, study)
    explained(step, study)
    if step.at_least > step.most_patients:
        raise ValueError(f"step {step.id!r}: at_least is more than most_patients")
