"""Every line of the table of results (docs/results.md), measured again by the line's own command and held against it.

``pytest -m benchmark -s tests/benchmarks/test_readme_figures.py -k sex`` takes one line; all of them take hours. A
figure must come out again to the digits printed; speed and memory are shown beside, and not judged: another machine has
others. A test without ``-s`` asserts its figures itself, and has but to pass; 1e-5 is a bound. A line without a
command, or whose command is not one that is known here, is a fault.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
_NUMBER = r"[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
_INTERVAL = re.compile(rf"({_NUMBER})%? \(({_NUMBER})%? to ({_NUMBER})%?")
_OF_A_MACHINE = re.compile(
    rf"{_NUMBER}(?: to {_NUMBER})?(?: against {_NUMBER})? ?(?:x|s|GB|GiB|MB|kB|records a second)\b"
)


@dataclass(frozen=True)
class Line:
    """One row of the table: what was measured, its figures, and what measures it."""

    what: str
    figures: str
    command: str

    @property
    def judged(self) -> str:
        """The figures without those that hang on the machine."""
        return _OF_A_MACHINE.sub("", self.figures)


def lines() -> list[Line]:
    """Return the rows; "the same" is the command of the row above."""
    table = RESULTS[RESULTS.index("| what | figure | command |") :]
    found: list[Line] = []
    for row in re.findall(r"^\| (.*) \|$", table, re.M)[2:]:
        what, figures, command = (cell.strip() for cell in row.split(" | "))
        if command == "the same":
            command = found[-1].command
        found.append(Line(what.removeprefix("* "), figures, command))
    return found


LINES = lines()


def typed(word: str) -> str:
    """Return the line that docs/commands.md types to run this study, in the folder it goes to first."""
    (line,) = re.findall(rf"^    (ecgfed simulate run {word}\.yaml .*)$", COMMANDS, re.M)
    return line


def example(folder: Path) -> Path:
    """Copy the real hospitals' files, with a state of their own: one that has answered does not answer another code."""
    copies = folder / "real"
    copies.mkdir(parents=True, exist_ok=True)
    for path in (ROOT / "deploy" / "examples" / "real").glob("*.yaml"):
        text = path.read_text(encoding="utf-8").replace("../../../../shared", str(ROOT.parent / "shared"))
        (copies / path.name).write_text(text.replace("../../../runs/state", str(folder / "state")), encoding="utf-8")
    return copies


def commands(line: Line, folder: Path) -> Iterator[tuple[list[str], Path]]:
    """Yield what to run and where."""
    study = re.search(r"the `(\w+)` study in `docs/commands.md`", line.command)
    if study is not None:
        said = typed(study[1]).replace("ecgfed", f"{sys.executable} -m ecgshared", 1)
        said = re.sub(r"--out \S+", f"--out {folder / 'run'}", said)
        yield ["bash", "-c", said], example(folder)
        return
    for said in re.findall(r"`(pytest [^`]*)`", line.command):
        yield [sys.executable, "-m", "pytest", "-p", "no:randomly", *shlex.split(said)[1:]], ROOT
    for said in re.findall(r"`(ecgfed [^`]*)`", line.command):
        yield [sys.executable, "-m", "ecgshared", *shlex.split(said)[1:]], folder


def number(text: str) -> float:
    """Read a number as the table writes it."""
    return float(text.replace(",", "").replace("−", "-"))


def digits(text: str) -> int:
    """Return how many decimals a number was printed with."""
    return len(text.partition(".")[2])


def results(folder: Path) -> tuple[list[float], list[tuple[float, float, float]]]:
    """Return every number of a run's results, and every estimate that has an interval."""
    numbers: list[float] = []
    estimates: list[tuple[float, float, float]] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if all(isinstance(value.get(k), int | float) for k in ("value", "low", "high")):
                estimates.append((value["value"], value["low"], value["high"]))
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers.append(float(value))

    path = folder / "run" / "results.json"
    if path.exists():
        walk(json.loads(path.read_text(encoding="utf-8"))["steps"])
    return numbers, estimates


def same(printed: str, value: float) -> bool:
    """Say whether a value prints as this; a share may be printed in percent, and 1e-5 is the most it may be."""
    if "e" in printed:
        return 0 < abs(value) < 1.5 * number(printed)
    return any(round(scale * value, digits(printed)) == pytest.approx(number(printed), abs=1e-9) for scale in (1, 100))


@pytest.mark.parametrize("line", LINES, ids=[re.sub(r"\W+", "-", line.what)[:60] for line in LINES])
def test_a_line_of_the_readme_is_measured_again(line: Line, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    output, ran = "", 0
    for command, where in commands(line, tmp_path):
        done = subprocess.run(command, cwd=where, env=environment, text=True, capture_output=True, check=False)
        output += done.stdout
        ran += 1
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert ran, f"no command of {line.what!r} is known: {line.command}"
    if "`pytest" in line.command and " -s " not in line.command:
        return
    numbers, estimates = results(tmp_path)
    numbers += [number(text) for text in re.findall(_NUMBER, output)]
    estimates += [(number(a), number(b), number(c)) for a, b, c in _INTERVAL.findall(output)]
    missing = [
        " ".join(printed)
        for printed in _INTERVAL.findall(line.judged)
        if not any(all(map(same, printed, found)) for found in estimates)
    ]
    missing += [text for text in re.findall(_NUMBER, line.judged) if not any(same(text, value) for value in numbers)]
    print(f"\n{line.what}\n  table: {line.figures}\n  not found again: {', '.join(missing) or 'nothing'}")
    assert not missing


def test_every_line_has_a_command(tmp_path: Path) -> None:
    assert len(LINES) > 10
    for line in LINES:
        assert list(commands(line, tmp_path)), line
