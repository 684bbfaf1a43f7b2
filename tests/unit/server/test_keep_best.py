"""Which round a train step keeps where validation speaks, and where it falls silent."""

from __future__ import annotations

import numpy as np
import pytest

from ecgshared.stages.results.train import ValidationRound
from ecgshared.stages.train import Config
from server.stages.train import _keeps_best, _State


class Notes:
    """Stands for a step's context: it only takes notes."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, what: str, why: str) -> None:
        self.said.append(what)


def state(*losses: float | None) -> _State:
    rounds = [ValidationRound(round=i, loss=loss, auc={}, sites={}) for i, loss in enumerate(losses)]
    return _State(weights=np.ones(2), best=np.zeros(2), best_loss=0.5, validation=rounds)


@pytest.mark.parametrize(
    ("keep", "losses", "kept", "noted"),
    [
        ("best", (0.7, 0.5, 0.6), True, []),
        ("last", (0.7, 0.5, 0.6), False, []),
        ("best", (0.7, None, None), False, ["validation withheld"]),
    ],
)
def test_the_best_is_kept_only_where_later_rounds_were_judged_too(keep, losses, kept, noted):
    context = Notes()
    step = Config(id="risk", stage="train", heads=("scd_2y",), keep=keep)
    assert _keeps_best(step, state(*losses), context) is kept
    assert context.said == noted
