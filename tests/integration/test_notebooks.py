"""The notebooks run as they stand: without network, in a folder of their own, on made data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
LONGER = ("bring_your_own_data", "federation_in_five_minutes", "morphing", "private_training")
"""Those that train or ingest."""
WITHOUT_NETWORK = """
import runpy, socket, sys
def refused(*_, **__):
    raise OSError("a notebook reached for the network")
socket.socket.connect = socket.create_connection = refused
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def _marked(path: Path) -> object:
    marks = [pytest.mark.slow] if path.stem in LONGER else []
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("notebook", [_marked(path) for path in NOTEBOOKS])
def test_a_notebook_runs_as_it_stands(notebook: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", WITHOUT_NETWORK, str(notebook)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    (made,) = tmp_path.iterdir()
    assert made.name.startswith("notebook-")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_in_jupyter(notebook: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    cells = jupytext.read(notebook)["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert cells[0]["source"].startswith("# ")
    assert sum(cell["cell_type"] == "code" for cell in cells) >= 4
    assert all(cell["source"].strip() for cell in cells)


def test_there_is_one_of_each_kind() -> None:
    assert len(NOTEBOOKS) == 6
