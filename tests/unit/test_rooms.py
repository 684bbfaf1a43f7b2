"""The rooms of the four packages and the arrows between them, recomputed from the code's own imports by grimp.

``pytest -s tests/unit/test_rooms.py`` prints the table: rooms, arrows, floors, and arrows that run back up.
"""

from __future__ import annotations

from collections import defaultdict
from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

PACKAGES = ("client", "server", "simulations", "ecgshared")
MOST_ARROWS = {"client": 45, "server": 12, "simulations": 15, "ecgshared": 59}
"""A little above what there is: whoever adds more than a few must say why here.

``ecgshared.applied``, a model on one ECG, leans on nine rooms by its nature: net, score, input, file, its writer;
``learning`` on ``ecg`` for the dipole by whose leads augmentation moves electrodes.
"""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES)


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def rooms(graph: grimp.ImportGraph, package: str) -> dict[str, set[str]]:
    """Return by room the rooms of its package that it imports."""
    found: dict[str, set[str]] = {}
    for module in graph.modules:
        if module.startswith(f"{package}."):
            found.setdefault(room_of(module), set()).update(
                room_of(imported)
                for imported in graph.find_modules_directly_imported_by(module)
                if imported.startswith(f"{package}.") and room_of(imported) != room_of(module)
            )
    return found


def floors(arrows: dict[str, set[str]]) -> int:
    """Return the length of the longest way down."""
    height: dict[str, int] = defaultdict(int)
    for room in TopologicalSorter(arrows).static_order():
        height[room] = 1 + max((height[below] for below in arrows[room]), default=0)
    return max(height.values())


@pytest.mark.parametrize("package", PACKAGES)
def test_no_arrow_runs_back_up(graph: grimp.ImportGraph, package: str) -> None:
    arrows = rooms(graph, package)
    try:
        high = floors(arrows)
    except CycleError as error:
        pytest.fail(f"rooms lean on each other: {' -> '.join(error.args[1])}")
    many = sum(len(below) for below in arrows.values())
    print(f"{package:12} {len(arrows):3} rooms {high:3} floors {many:3} arrows between rooms, 0 back up")
    assert many <= MOST_ARROWS[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(graph: grimp.ImportGraph, package: str) -> None:
    arrows = {
        module: {m for m in graph.find_modules_directly_imported_by(module) if m.startswith(f"{package}.")}
        for module in graph.modules
        if module.startswith(f"{package}.")
    }
    try:
        order = list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")
    assert set(order) == set(arrows)
