"""Which scores a request asks about: what the arrays it sent make of an ECG, and which outputs of them a step reads.

A net has as many outputs as its study has endpoints, so the arrays alone do not tell one score from another.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from client.egress.questions import score_of
from ecgshared.study.score import trained_heads, used_steps
from ecgshared.study.study import Study
from ecgshared.wire.protocol import StepConfig


def sent_scores(study: Study, step: StepConfig, arrays: Mapping[str, Any]) -> list[str]:
    """Name the scores that a step reads of the arrays sent, the same for the same content; none where none were.

    Outputs that a step lists side by side (``scores`` of a contrast) are so many scores, as far as they are one net's;
    outputs that it combines are one.
    """
    made = score_of(arrays, [name for name in arrays if "." in name and _makes_scores(study, name)])
    if not made:
        return []
    heads = set(trained_heads(step, study))
    through = [other for name in sorted(used_steps(step, study)) if (other := study.step(name)).stage != "train"]
    read = sorted({name.partition(".")[2] for one in (step, *through) for name in _texts(one) if name in heads})
    listed = {name for value in _values(step) if not isinstance(value, str) for name in _in(value) if name in heads}
    name = hashlib.sha256("\0".join([made, *read]).encode()).hexdigest()[:32]
    of_one_net = max(Counter(one.partition(".")[0] for one in listed).values(), default=1)
    return [name, *(f"{name}-{i}" for i in range(1, of_one_net))]


def _makes_scores(study: Study, name: str) -> bool:
    """Tell whether an array is part of a score: not the totals that stand before it, nor a cut through it."""
    step = next((step for step in study.steps if step.id == name.partition(".")[0]), None)
    return step is None or step.stage not in ("describe", "threshold")


def _texts(step: StepConfig) -> Iterator[str]:
    return (text for value in _values(step) for text in _in(value))


def _values(step: StepConfig) -> list[Any]:
    return [getattr(step, name) for name in type(step).model_fields if name not in ("id", "stage", "uses")]


def _in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for one in value:
            yield from _in(one)
