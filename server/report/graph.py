"""The study as a drawing: steps from left to right in the order they need each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from server.report.results import StepPlan

NODE_WIDTH, NODE_HEIGHT, GAP_X, GAP_Y, MARGIN = 150, 46, 46, 16, 3


@dataclass(frozen=True)
class Node:
    """One step's box; ``x``, ``y`` its upper left corner."""

    id: str
    stage: str
    done: bool
    x: int
    y: int


@dataclass(frozen=True)
class Graph:
    """Boxes and the paths (SVG path data) between them."""

    nodes: tuple[Node, ...]
    edges: tuple[str, ...]
    width: int
    height: int


def layout(plan: Sequence[StepPlan], done: Collection[str]) -> Graph:
    """Place the steps: a column per depth (longest way from the start), rows near what they use."""
    uses = _reduced(plan)
    depth: dict[str, int] = {}
    for step in plan:
        depth[step.id] = 1 + max((depth[u] for u in uses[step.id]), default=-1)
    row: dict[str, float] = {}
    columns: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=0))]
    for step in plan:
        columns[depth[step.id]].append(step.id)
    tallest = max(map(len, columns), default=1)
    for column in columns:
        column.sort(key=lambda name: _mean([row[u] for u in uses[name]]))
        for i, name in enumerate(column):
            row[name] = i + (tallest - len(column)) / 2
    x = {name: MARGIN + depth[name] * (NODE_WIDTH + GAP_X) for name in depth}
    y = {name: MARGIN + round(row[name] * (NODE_HEIGHT + GAP_Y)) for name in depth}
    nodes = tuple(Node(s.id, s.stage, s.id in done, x[s.id], y[s.id]) for s in plan)
    edges = tuple(
        _edge(x[used] + NODE_WIDTH, y[used] + NODE_HEIGHT // 2, x[name] - 5, y[name] + NODE_HEIGHT // 2)
        for name, needed in uses.items()
        for used in needed
    )
    width = len(columns) * (NODE_WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    return Graph(nodes, edges, width, tallest * (NODE_HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN)


def _reduced(plan: Sequence[StepPlan]) -> dict[str, tuple[str, ...]]:
    """Return what each step uses, without what it also gets through another: fewer arrows, same order."""
    ancestors: dict[str, set[str]] = {}
    reduced: dict[str, tuple[str, ...]] = {}
    for step in plan:
        known = [used for used in step.uses if used in ancestors]
        through = {name for used in known for name in ancestors[used]}
        reduced[step.id] = tuple(used for used in known if used not in through)
        ancestors[step.id] = through | set(known)
    return reduced


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _edge(x0: int, y0: int, x1: int, y1: int) -> str:
    bend = max(18, (x1 - x0) // 2)
    return f"M{x0},{y0} C{x0 + bend},{y0} {x1 - bend},{y1} {x1},{y1}"
