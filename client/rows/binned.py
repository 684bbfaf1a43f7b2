"""One score at this site, cut and binned as its limits allow: the same in every phase that speaks of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.rows.risk import Scored, received
from ecgshared.arrays import Floats, Ints
from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.stats.control_bins import ROOM, ControlBins, answered_cuts, control_bins
from ecgshared.stats.influence import ratio_square_sum
from ecgshared.stats.placement import ControlCurve
from ecgshared.stats.score_scale import HIGHEST, LOWEST, score_of, sketch
from ecgshared.wire.protocol import Request

MAX_CUTS = 64
CURVE = ("lower", "by_lower", "upper", "by_upper", "case_position", "case_weight")


@dataclass(frozen=True)
class CutQuestion:
    """Cuts asked for, the most wanted first; ``fixed``: a decision threshold, which comes before them; ``room``: bins
    of controls that each side of a cut must have room for; ``closed``: those among them that are not answered."""

    cuts: tuple[float, ...]
    fixed: float | None = None
    room: int = ROOM
    closed: frozenset[float] = frozenset()

    @property
    def open_cuts(self) -> tuple[float, ...]:
        """Cuts that may be answered."""
        return tuple(cut for cut in self.cuts if cut not in self.closed)

    @property
    def open_fixed(self) -> float | None:
        """The threshold, where it may be answered."""
        return None if self.fixed in self.closed else self.fixed


def read_cuts(request: Request, n_heads: int, fixed: float | None = None, room: int = ROOM) -> list[CutQuestion]:
    """Read the array ``cuts`` of a request, shape = (n_heads, k); an entry at HIGHEST asks for nothing."""
    asked = np.asarray(request.arrays.get("cuts", np.zeros(0)))
    if asked.ndim != 2 or asked.shape[1] > MAX_CUTS:
        raise Refused(
            RefusalCode.BAD_REQUEST, "cuts are missing or too many", value=asked.shape, allowed=f"<= {MAX_CUTS}"
        )
    cuts = received(request, "cuts", (n_heads, asked.shape[1]))
    return [CutQuestion(tuple(float(c) for c in row), fixed, room) for row in cuts]


def read_curve(request: Request) -> tuple[ControlCurve, Floats, Floats]:
    """Read the pooled control curve and the pooled sketch of cases; refuse what is none."""
    columns = {name: np.atleast_1d(request.arrays.get(name, np.zeros(0))) for name in CURVE}
    read = {name: received(request, name, (len(column),)) for name, column in columns.items()}
    try:
        curve = ControlCurve(read["lower"], read["by_lower"], read["upper"], read["by_upper"])
    except StatisticsError as error:
        raise Refused(RefusalCode.BAD_REQUEST, "no control curve") from error
    position, weight = read["case_position"], read["case_weight"]
    if len(position) != len(weight) or (np.diff(position) < 0).any() or not (weight > 0).all():
        raise Refused(RefusalCode.BAD_REQUEST, "no sketch of cases")
    return curve, position, weight


@dataclass(frozen=True)
class Binned:
    """Scores of one head's ECGs with the bins and the cuts this site may answer.

    Attributes
    ----------
    score : float array, shape = (n,), logit of the risk.
    cuts : float array, shape = (c,), descending, the whole (LOWEST) last.
    patients, events : int arrays, shape = (c,): the smaller of the groups on either side of each cut.
    """

    score: Floats
    bins: ControlBins
    cuts: Floats
    patients: Ints
    events: Ints

    @classmethod
    def of(cls, head: Scored, limits: DisclosureLimits, question: CutQuestion) -> Binned:
        """Bin and cut; deterministic, so that phases agree."""
        score = score_of(head.risk)
        control = head.y == 0
        bins = control_bins(
            score[control],
            head.patient[control],
            limits,
            cuts=question.open_cuts,
            fixed=question.open_fixed,
            room=question.room,
        )
        cuts = answered_cuts(
            score, head.y, head.patient, limits, bins=bins, cuts=question.open_cuts, fixed=question.open_fixed
        )
        tops = [HIGHEST, *cuts][: len(cuts)]
        sizes = [
            group_size(head.patient, head.y, (score >= cut) & (score < top))
            for cut, top in zip(cuts, tops, strict=True)
        ]
        return cls(
            score,
            bins,
            cuts,
            np.array([s.patients for s in sizes], dtype=np.int64),
            np.array([s.events for s in sizes], dtype=np.int64),
        )

    def squares(self, head: Scored, question: CutQuestion, rates: Floats) -> tuple[Floats, Floats]:
        """Return, at each cut answered, the squared influence on the pooled rate above it and the patients there.

        ``rates`` : shape = (len(question.cuts) + 2,): pooled rate above each cut, the threshold, of all.
        """
        pooled = {**dict(zip(question.cuts, rates[:-2], strict=True)), LOWEST: rates[-1]}
        if question.fixed is not None:
            pooled[question.fixed] = rates[-2]
        squares, people = np.zeros(len(self.cuts)), np.zeros(len(self.cuts))
        for i, cut in enumerate(self.cuts):
            inside = (self.score >= cut).astype(np.float64)
            people[i] = len(np.unique(head.patient[inside > 0]))
            squares[i] = ratio_square_sum(inside * head.y, inside, head.patient, float(pooled[float(cut)]))
        return squares, people


def sketches(heads: Sequence[Scored], limits: DisclosureLimits) -> tuple[dict[str, Floats], Ints]:
    """Return sketches of all heads' cases and controls, one after another, and the patients behind each number.

    Nothing where the whole does not meet the limits.
    """
    columns: dict[str, list[Floats]] = {name: [np.zeros(0)] for name in ("head", "case", "mean", "ecgs")}
    patients: list[Ints] = [np.zeros(0, dtype=np.int64)]
    for h, head in enumerate(heads):
        size = group_size(head.patient, head.y)
        if not limits.allow(size.patients, size.events):
            continue
        score = score_of(head.risk)
        for case in (False, True):
            mine = (head.y == 1) == case
            found = sketch(score[mine], head.patient[mine], limits.min_patients, growing=not case)
            k = len(found.mean)
            for name, column in zip(
                columns, (np.full(k, h), np.full(k, float(case)), found.mean, found.ecgs), strict=True
            ):
                columns[name].append(np.asarray(column, dtype=np.float64))
            patients.append(found.patients)
    return {name: np.concatenate(parts) for name, parts in columns.items()}, np.concatenate(patients)
