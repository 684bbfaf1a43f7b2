"""What every model says of itself, whatever it is. No torch here: a study is read and checked without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ecgshared.config import Config
from ecgshared.ecg.windows import BEAT_S, samples_of
from ecgshared.study.endpoints import Event

Norm = Literal["group", "batch"]
Sees = Literal["recording", "median_beat", "single_beat"]

BEAT_WINDOW_S = (-0.3, 0.5)
"""What a model of median beats sees, seconds from the middle of QRS: 400 samples at 500 Hz."""


@dataclass(frozen=True)
class HeadSpec:
    """One output of a model.

    Heads that share a ``group`` are one event at several horizons: their probabilities never fall with the horizon.
    ``group`` and ``horizon_years`` go together; both are None for a head on its own.
    """

    name: str
    group: str | None = None
    horizon_years: float | None = None


class BaseModelConfig(Config):
    """The base of every model's configuration; what a subclass does not say is as here.

    Attributes
    ----------
    sees : the whole recording, its median beat over :data:`BEAT_WINDOW_S`, or single beats over
        :data:`~ecgshared.ecg.windows.BEAT_S`: one drawn anew whenever an ECG is trained on, and all of them where it
        is judged, their outputs averaged.
    own_objective : it has no heads and learns what its own ``item_losses`` say; see :func:`ecgshared.models.build`.
    makes_beats : its net has ``decode(z, conditions)``, from a latent to a beat of ``samples`` samples a lead.
    net : the module with ``build``, where it is another one: imported, with torch, when a net is built.
    """

    sees: ClassVar[Sees] = "recording"
    own_objective: ClassVar[bool] = False
    makes_beats: ClassVar[bool] = False
    net: ClassVar[str] = ""

    name: str

    @property
    def side_inputs(self) -> tuple[str, ...]:
        """What the net is given beside the signal, in its order: age, male, covariates of the study."""
        return ()

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of what validation judges a model with its own objective by; one with heads is judged by those."""
        return ()

    @property
    def event(self) -> Event | None:
        """The event whose time and status are its labels instead of heads, or None."""
        return None

    @property
    def judge(self) -> str | None:
        """``<train step>.<head>`` of a frozen net that it is trained beside, or None."""
        return None

    @property
    def latent_size(self) -> int:
        """Numbers of the latent that ``forward`` gives of an ECG; 0 where it gives none."""
        return 0

    @property
    def mixes_patients(self) -> bool:
        """Whether a patient's output depends on the others of the batch: such a net cannot be trained privately."""
        return False

    def samples(self, fs_hz: float, seconds: float) -> int:
        """Return the samples per lead the model sees of recordings of ``seconds`` at ``fs_hz``."""
        if self.sees == "median_beat":
            return sum(samples_of(BEAT_WINDOW_S, fs_hz))
        if self.sees == "single_beat":
            return sum(samples_of(BEAT_S, fs_hz))
        return round(fs_hz * seconds)
