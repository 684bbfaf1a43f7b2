"""What travels with `flwr run`: two text files and Flower's own list of them, no code."""

from __future__ import annotations

import hashlib
import io
import tomllib
import zipfile
from importlib import import_module

from flwr.cli.build import build_fab_from_disk

from server.coordinator.envelope import FOLDER, envelope, envelope_sha256


def test_the_fab_holds_no_code():
    with zipfile.ZipFile(io.BytesIO(envelope())) as fab:
        names = set(fab.namelist())
    assert {"pyproject.toml", "README.md"} <= names
    assert {name for name in names if not name.startswith(".info/")} == {"pyproject.toml", "README.md"}


def test_the_same_files_give_the_same_bytes():
    assert hashlib.sha256(build_fab_from_disk(FOLDER)).hexdigest() == envelope_sha256()
    assert "config" not in tomllib.loads((FOLDER / "pyproject.toml").read_text())["tool"]["flwr"]["app"]


def test_it_names_apps_that_are_installed():
    components = tomllib.loads((FOLDER / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]
    for reference in components.values():
        module, _, attribute = reference.partition(":")
        assert hasattr(import_module(module), attribute)
