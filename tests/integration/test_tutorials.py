"""The tutorials and the README's session, typed: every block of a page runs in its order, in a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
LEFT = {
    "researcher": ("runs/first/report.html", "runs/first/results.json", "risk.ecgfed", "predicted.html"),
    "operator": ("mine/site.yaml", "mine/state/ingest/quality.html"),
    "coordinator": ("coordinator/admitted/north.crt", "hospital/site.yaml"),
    "README": ("runs/first/report.html", "predicted.html", "ecg.png", "made/first.yaml", "mine/site.yaml"),
    "statistician": ("forest.svg", "curves.svg", "model.json", "risks.csv"),
}
"""Files that stand in the folder when a page is done."""


def script(page: Path) -> str:
    """Return a page's blocks as one script; `ecgfed` is this code's, whatever is installed."""
    lines = ["set -euo pipefail", f'ecgfed() {{ "{sys.executable}" -P -m ecgshared "$@"; }}']
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
        lines.append(block if language == "sh" else f"\"{sys.executable}\" -P - <<'PROGRAM'\n{block}PROGRAM")
    return "\n".join(lines)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page", [*PAGES, pytest.param(ROOT / "README.md", marks=pytest.mark.slow)], ids=lambda page: page.stem
)
def test_what_a_tutorial_types_works(page: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = ["bash", "-c", script(page)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=880
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    for name in LEFT[page.stem]:
        assert (tmp_path / name).stat().st_size > 0


def test_every_tutorial_says_what_it_leaves() -> None:
    assert {page.stem for page in PAGES} | {"README"} == set(LEFT)


def test_the_pages_that_the_site_names_are_there() -> None:
    named = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert len(named) > 12
    # A notebook becomes a page of its name (mkdocs_hooks.py).
    sources = [f"{name[:-3]}.py" if name.startswith("notebooks/") else name for name in named]
    assert [name for name in sources if not (ROOT / "docs" / name).exists()] == []
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "docs" / "notebooks").glob("*.py")}
    assert notebooks == {name for name in named if name.startswith("notebooks/")}
