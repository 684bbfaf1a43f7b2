"""How the parts of secure sums are numbered: a set of keys has a number of its own, and a sum is one of a set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ecgshared.wire.protocol import Request

MOST_SUMS = 64
"""Of one set of keys."""
STAGE_ROUND = "secure.round"
"""Array that carries the stage's own round number in a part of a sum."""


def sum_round(setup: int, number: int) -> int:
    """Return the round number under which the parts of a sum are asked for."""
    return setup * MOST_SUMS + number


def sum_of(round_number: int) -> tuple[int, int]:
    """Return (set of keys, sum) of a round number."""
    return divmod(round_number, MOST_SUMS)


def without_ours(request: Request, phase: str) -> Request:
    """Return the stage's own request inside a part of a sum."""
    arrays = {name: array for name, array in request.arrays.items() if not name.startswith("secure.")}
    return replace(request, phase=phase, round=int(np.ravel(request.arrays[STAGE_ROUND])[0]), arrays=arrays)
