"""What every stage is made of: its step's configuration, requests, and payloads whose fields say what they release.

A payload is a frozen dataclass registered under (stage, phase). Each field is annotated with its kind; the
egress gate (``client/egress/gate.py``) knows nothing but these kinds. A handler answers with an :class:`Answer`:
the payload and, for every field that speaks about people, the size of the group behind each of its cells.
The gate blanks (NaN) every cell whose group is below the site's limits; a field without evidence closes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from numpy.typing import NDArray
from pydantic import Field, field_validator

from ecgshared.config import Config, Label

Array = NDArray[Any]
Split = Literal["train", "validation", "lockbox"]
SPLITS: tuple[Split, ...] = ("train", "validation", "lockbox")


class FrozenFile(Config):
    """A file beside the study, and its hash: the study approves the content, not the name."""

    file: str = Field(description="path of the file, seen from the study's folder")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="as `ecgfed model export` prints it")

    @field_validator("file")
    @classmethod
    def _stays_below(cls, file: str) -> str:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise ValueError("must be a relative path below the study's folder")
        return file


class StepConfig(Config):
    """What every step of a study has; a stage's ``Config`` adds its own keys."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")
    stage: str
    label: Label = Field(default=None, description="how the report calls the step")
    uses: tuple[str, ...] = Field(default=(), description="earlier steps whose results it needs")
    sites: str | tuple[str, ...] | None = Field(
        default=None, description="a group of the study's `sites` (train, zero_shot, case_control, all) or site names"
    )
    population: str | None = Field(
        default=None, description="whom the step is about: one of the study's `populations`; everybody eligible"
    )
    frozen: FrozenFile | None = Field(
        default=None,
        alias="import",
        description="what this step gives is taken from a file that another run exported; no site is asked",
    )
    block: str | None = Field(
        default=None,
        description="the block (`compare`, `leave_one_out`) that this step was made by; none where the study names it",
        exclude_if=lambda block: block is None,
    )
    default_sites: ClassVar[str] = "train"
    opens_lockbox: ClassVar[bool] = False
    alike_for_any_members: ClassVar[bool] = False
    """Whether a site answers the same whoever else is asked: what it answered counts after an amendment too."""
    by_ranks: ClassVar[bool] = False
    """Whether a site with a case-control series may be asked: nothing leaves that hangs on how often the event is."""
    splits_read: ClassVar[tuple[Split, ...]] = SPLITS
    """The splits whose patients figures of the stage speak of, at sites that train."""
    can_be_frozen: ClassVar[bool] = False
    """Whether the step may take what it gives from a file (``import``)."""
    read_later: ClassVar[tuple[str, ...]] = ()
    """Keys that later steps read: an imported file must have been made with the study's own."""

    @property
    def reads_columns(self) -> tuple[str, ...]:
        """Numbers and flags, standard or derived, that the site keeps of every ECG for this step."""
        return ()

    @property
    def reads_splits(self) -> tuple[Split, ...]:
        """The splits whose patients figures of this step speak of; at a site that never trains all are the lockbox."""
        return self.splits_read


@dataclass(frozen=True)
class Request:
    """All a coordinator can say to a site. The configuration is the site's own copy of the study.

    ``amendment`` : the sha256 of the change of membership that the run goes on under; "" where there is none.
    """

    study_hash: str
    run: str
    step: str
    phase: str
    round: int
    arrays: Mapping[str, Array]
    amendment: str = ""


@dataclass(frozen=True)
class Weights:
    """One flat vector of model parameters; ``layout`` in the payload names their order."""


@dataclass(frozen=True)
class Count:
    """Numbers of patients, ECGs or events, one group per cell."""


@dataclass(frozen=True)
class Statistic:
    """Means, AUCs, slopes, rates and their errors: one group per cell (of the leading axes)."""


@dataclass(frozen=True)
class Sums:
    """Sums over one group of many (gradients, Hessians, histograms that were merged to the limits)."""


@dataclass(frozen=True)
class Public:
    """Says nothing about a person: a layout hash, a version, the names of heads a site offers, a duration."""


@dataclass(frozen=True)
class Hidden:
    """Keys, shares, and numbers under masks of a secure sum: whole numbers, which alone say nothing of anybody."""


Kind = Weights | Count | Statistic | Sums | Public | Hidden


@dataclass(frozen=True)
class Evidence:
    """The size of the group behind each released cell, never sent.

    Attributes
    ----------
    patients : int array, broadcastable to the leading axes of the field: distinct patients in the group.
    events : the same for patients with the event; None where the statistic concerns no event.
        For a 0/1 label give ``min(events, patients - events)``: the complement is as telling.
    """

    patients: Array
    events: Array | None = None


@dataclass(frozen=True)
class Together:
    """What limits take of an answer that is told only added to those of other sites, all of it or nothing.

    It is added up too, among the sites, and held against the strictest limits among them.

    Attributes
    ----------
    patients : int array, shape = (k,): distinct patients of each group that must be large enough.
    events : int array, shape = (m,): patients with the event of each, and apart from them those without it.
    carried : float array, shape = (j, 2): sum of the patients' weights in a sum, and of their squares. The square of
        the first over the second is the effective number of patients (Kish 1965): it does not add up, these do.
    least_patients : what the stage asks for beside the limits.
    untold : fields of the payload that stay at the site, since the groups behind them are others.
    """

    patients: Array
    events: Array
    carried: Array
    least_patients: int = 0
    untold: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a client handler returns: a payload and the evidence for its fields (keyed by field name).

    ``together`` : of a phase that can be summed over sites (see :mod:`ecgshared.study.secure`).
    """

    payload: Any
    evidence: Mapping[str, Evidence]
    together: Together | None = None


PayloadT = TypeVar("PayloadT")
_PAYLOADS: dict[tuple[str, str], type[Any]] = {}
_KINDS: dict[type[Any], dict[str, tuple[type[Any], Kind]]] = {}


def payload(stage: str, phase: str) -> Callable[[type[PayloadT]], type[PayloadT]]:
    """Register a frozen dataclass as the reply of ``stage`` to ``phase``; every field must declare its kind."""

    def register(cls: type[PayloadT]) -> type[PayloadT]:
        if not is_dataclass(cls):
            raise TypeError(f"{cls.__name__} must be a frozen dataclass")
        field_kinds(cls)
        _PAYLOADS[stage, phase] = cls
        return cls

    return register


ANY_STAGE = ""
"""Under which the parts of a secure sum are registered: every stage has them."""


def payload_type(stage: str, phase: str) -> type[Any] | None:
    """Return the declared reply of a stage to a phase, or None where there is none.

    ``<phase>+<part>`` is a part of the secure sum of a phase's answers, ``+<part>`` one of what comes before any.
    """
    of, plus, part = phase.rpartition("+")
    if plus and (not of or (stage, of) in _PAYLOADS):
        return _PAYLOADS.get((ANY_STAGE, f"{plus if of else '++'}{part}"))
    return _PAYLOADS.get((stage, phase))


def phases(stage: str) -> tuple[str, ...]:
    """Return the phases a stage declares, in order of declaration."""
    return tuple(phase for name, phase in _PAYLOADS if name == stage)


def field_kinds(cls: type[Any]) -> dict[str, tuple[type[Any], Kind]]:
    """Return ``{field: (python type, kind)}``; raise TypeError for a field that declares none."""
    if cls in _KINDS:
        return _KINDS[cls]
    hints = get_type_hints(cls, include_extras=True)
    kinds: dict[str, tuple[type[Any], Kind]] = {}
    for field in fields(cls):
        hint = hints[field.name]
        found = (
            [a for a in get_args(hint)[1:] if isinstance(a, get_args(Kind))] if get_origin(hint) is Annotated else []
        )
        if len(found) != 1:
            raise TypeError(f"{cls.__name__}.{field.name} declares no kind of release")
        kinds[field.name] = (get_args(hint)[0], found[0])
    _KINDS[cls] = kinds
    return kinds
