"""Learning curves from the history of rounds: one figure per metric, one line per part of the data."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable

from server.report.folder import Round
from server.report.sections import Figure, Section, Series

_PART = re.compile(r"(?:^|(?<=[_/. -]))(training|train|validation|val)(?=$|[_/. -])")
_NAMES = {"train": "training", "val": "validation"}


def learning_curves(history: Iterable[Round], step: str) -> list[Section]:
    """Return a section with a step's metrics over rounds; empty where no metric has two rounds.

    "train_loss" and "validation_loss" share the figure "loss"; "auc/scd" and "auc/death" the figure "auc".
    """
    points: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in history:
        if line.step == step:
            for name, value in line.metrics.items():
                chart, label = split_name(name)
                # A resumed round stands twice; the later counts.
                points[chart][label][line.round] = math.nan if value is None else value
    figures = [
        Figure(
            _title(chart),
            [
                Series(label, sorted(by_round), [by_round[r] for r in sorted(by_round)])
                for label, by_round in lines.items()
            ],
            "Round",
            _title(chart),
        )
        for chart, lines in points.items()
        if any(len(by_round) > 1 for by_round in lines.values())
    ]
    return [Section("Learning curves", figures)] if figures else []


def _title(chart: str) -> str:
    return chart.upper() if chart in ("auc", "ppv") else chart[:1].upper() + chart[1:]


def split_name(name: str) -> tuple[str, str]:
    """Return (figure, line) of a metric's name."""
    found = _PART.search(name)
    part = _NAMES.get(found.group(1), found.group(1)) if found else ""
    rest = _PART.sub("", name, count=1).strip("_/. -") or "value"
    chart, _, detail = rest.partition("/")
    label = ", ".join(word for word in (detail, part) if word)
    return chart.replace("_", " "), label.replace("_", " ")
