"""What travels with `flwr run`: two text files and Flower's own list of them, no code."""

from __future__ import annotations

import io
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

from flwr.cli.build import build_fab_from_disk

ENVELOPE = Path(__file__).resolve().parents[2] / "deploy" / "envelope"


def test_the_fab_holds_no_code():
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ENVELOPE))) as fab:
        names = set(fab.namelist())
    assert {"pyproject.toml", "README.md"} <= names
    assert {name for name in names if not name.startswith(".info/")} == {"pyproject.toml", "README.md"}


def test_it_names_apps_that_are_installed():
    components = tomllib.loads((ENVELOPE / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]
    for reference in components.values():
        module, _, attribute = reference.partition(":")
        assert hasattr(import_module(module), attribute)
