"""Flower's insides: their names stand in one module a side, and are what they were when the code was written."""

from __future__ import annotations

import ast
import enum
import inspect
import json
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import ecgshared

ROOT = Path(ecgshared.__file__).parents[1]
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}
"""What Flower documents; all else may change with any version."""

INSIDES = ("client.network.flower_insides", "server.rounds.flower_insides")

GOLDEN = Path(__file__).parents[1] / "golden" / "flower_insides.json"
"""What each name takes or holds; ``python tests/unit/test_flower_insides.py`` writes it anew for another Flower."""


def imports(path: Path):
    """Yield (module, names) of every import of Flower in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names if alias.name.split(".")[0] == "flwr")


def test_nobody_else_imports_them():
    found = {}
    for package in ("ecgshared", "client", "server", "simulations"):
        for path in (ROOT / package).rglob("*.py"):
            private = [module for module, _ in imports(path) if module not in PUBLIC]
            if private:
                found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = private
    assert set(found) == set(INSIDES)


@pytest.mark.parametrize("module", INSIDES)
def test_every_name_is_there(module):
    made = import_module(module)
    assert version("flwr").startswith("1.41."), "see what changed inside, then pin the new version"
    for where, names in imports(Path(made.__file__)):
        for name in names:
            held = import_module(where)
            # A submodule is no attribute before it is imported.
            assert hasattr(held, name) or import_module(f"{where}.{name}"), f"{where} has no {name} any more"


def shape(value) -> list[str] | None:
    """Return the fields of a message, the parameters of what is called; None where neither can be told."""
    if hasattr(value, "DESCRIPTOR"):
        return [field.name for field in value.DESCRIPTOR.fields]
    if isinstance(value, enum.EnumType):
        return None
    try:
        return list(inspect.signature(value).parameters)
    except (TypeError, ValueError):
        return None


def shapes() -> dict[str, dict[str, list[str] | None]]:
    found = {}
    for module in INSIDES:
        made = import_module(module)
        names = [n for where, ns in imports(Path(made.__file__)) if where not in PUBLIC for n in ns if hasattr(made, n)]
        found[module] = {name: shape(getattr(made, name)) for name in sorted(names)}
    return found


def test_every_name_takes_what_it_took():
    held = shapes()
    assert held == json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert {module: len(names) for module, names in held.items()} == dict(zip(INSIDES, (36, 33), strict=True))


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(shapes(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
