"""A run folder as the report reads it: results, the history of rounds, and what left each site."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from ecgshared.config import load_yaml
from ecgshared.errors import ConfigError, RunError
from ecgshared.study.study import Study, load_study
from server.report.results import Record, Results, StepPlan, checked, read_plan, read_results

_LOG = logging.getLogger(__name__)


class Round(Record):
    """One line of ``history.jsonl``: one phase asked of a step's sites, once."""

    step: str
    phase: str
    round: int = 0
    at: str = Field(default="", description="ISO 8601 time at which it was answered")
    seconds: float = 0.0
    answered: tuple[str, ...] = ()
    absent: dict[str, str] = Field(default={})
    lost: dict[str, tuple[str, ...]] = Field(default={}, description="all that went wrong, also where an answer came")
    bytes_in: dict[str, int] = Field(default={})
    bytes_out: dict[str, int] = Field(default={})
    metrics: dict[str, float | None] = Field(default={})


class Event(Record):
    """One line of ``events.jsonl``: something that befell the run from outside."""

    at: str
    what: str
    why: str = ""


class ReleasedField(Record):
    """One field of a released message: its kind of release, its shape, and how many cells were blanked."""

    kind: str = ""
    type: str
    shape: tuple[int, ...] = ()
    withheld: int = 0


class Release(Record):
    """One line of ``releases.jsonl``: one message that left a site."""

    site: str
    step: str
    phase: str
    round: int = 0
    kind: str
    fields: dict[str, ReleasedField] = Field(default={})
    bytes: int = 0


LineT = TypeVar("LineT", bound=Record)


@dataclass(frozen=True)
class Run:
    """Everything the report is made from. ``notes``: what a reader must know about the record itself."""

    folder: Path
    results: Results
    plan: tuple[StepPlan, ...]
    about: str
    study: Study | None
    history: tuple[Round, ...]
    releases: tuple[Release, ...]
    events: tuple[Event, ...]
    notes: tuple[str, ...]

    def members(self, step: StepPlan) -> tuple[str, ...]:
        """Return the sites of a step: by the study where it is readable, else those that were asked."""
        if self.study is not None:
            return self.study.members(self.study.step(step.id))
        asked = {site for line in self.history if line.step == step.id for site in (*line.answered, *line.absent)}
        return tuple(site for site in self.results.run.sites if site in asked)


def read_run(folder: Path) -> Run:
    """Read a run folder, complete or not.

    Raises
    ------
    RunError : it is no run folder, or one of its files does not fit its format.
    ConfigError : ``study.yaml`` is absent or no YAML.
    """
    results, plan = read_results(folder), read_plan(folder)
    notes: list[str] = []
    study: Study | None = None
    try:
        study = load_study(folder / "study.yaml")
    except (ConfigError, ImportError) as error:
        # The error names a path of this machine, and the report is handed on.
        _LOG.warning("%s", error)
        notes.append("The study file does not fit this version of ecgfed; its steps are shown as written.")
    if study is not None and study.sha256 != results.run.study_sha256:
        notes.append(
            "The study file in this folder is not the one that ran: its hash is "
            f"{study.sha256[:12]}, the run's is {results.run.study_sha256[:12]}."
        )
    history, cut = _read_lines(folder / "history.jsonl", Round)
    releases, cut_too = _read_lines(folder / "releases.jsonl", Release)
    events, cut_as_well = _read_lines(folder / "events.jsonl", Event)
    if cut or cut_too or cut_as_well:
        notes.append("The last line of the run's record was cut off, as when a run is killed; it is left out.")
    about = str(load_yaml(folder / "study.yaml", aliases=True).get("about", ""))
    return Run(folder, results, plan, about, study, history, releases, events, tuple(notes))


def _read_lines(path: Path, model: type[LineT]) -> tuple[tuple[LineT, ...], bool]:
    """Read JSON lines; the second value is True where an unfinished last line was left out."""
    if not path.is_file():
        return (), False
    lines = path.read_text(encoding="utf-8").split("\n")
    found: list[LineT] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line, parse_constant=lambda _: None)
        except ValueError:
            # Only a line without its newline can be half written.
            if number == len(lines):
                return tuple(found), True
            raise RunError("is no JSON", where=f"{path}:{number}", value=line[:80]) from None
        found.append(checked(model, data, f"{path}:{number}"))
    return tuple(found), False


@dataclass(frozen=True)
class Absence:
    """A site that was asked and did not count, for one reason. ``rounds`` is empty if there was but one."""

    step: str
    phase: str
    rounds: str
    site: str
    reason: str


def absences(history: Iterable[Round]) -> tuple[Absence, ...]:
    """Return who was absent, rounds of one step, phase, site and reason together ("1 to 3, 7")."""
    rounds: dict[tuple[str, str, str, str], set[int]] = defaultdict(set)
    held: dict[tuple[str, str], set[int]] = defaultdict(set)
    for line in history:
        held[line.step, line.phase].add(line.round)
        for site, reason in line.absent.items():
            rounds[line.step, line.phase, site, reason].add(line.round)
    return tuple(
        Absence(step, phase, spans(sorted(numbers)) if len(held[step, phase]) > 1 else "", site, reason)
        for (step, phase, site, reason), numbers in rounds.items()
    )


def spans(numbers: Sequence[int]) -> str:
    """Write sorted whole numbers as spans: [1, 2, 3, 7] is "1 to 3, 7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in parts)


@dataclass(frozen=True)
class FieldSummary:
    """One field over all its releases; ``withheld`` counts blanked cells by site."""

    name: str
    kind: str
    type: str
    shapes: tuple[str, ...]
    withheld: dict[str, int]


@dataclass(frozen=True)
class MessageSummary:
    """All messages of one step, phase and kind; ``count`` and ``bytes`` by site."""

    step: str
    phase: str
    kind: str
    count: dict[str, int]
    bytes: dict[str, int]
    fields: tuple[FieldSummary, ...]


def summarise_releases(releases: Iterable[Release]) -> tuple[MessageSummary, ...]:
    """Return what left the sites, by step, phase and message kind, in order of first appearance."""
    groups: dict[tuple[str, str, str], list[Release]] = defaultdict(list)
    for release in releases:
        groups[release.step, release.phase, release.kind].append(release)
    return tuple(_message(*key, group) for key, group in groups.items())


def _message(step: str, phase: str, kind: str, group: Sequence[Release]) -> MessageSummary:
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    kinds: dict[str, dict[str, None]] = defaultdict(dict)
    types: dict[str, dict[str, None]] = defaultdict(dict)
    shapes: dict[str, dict[str, None]] = defaultdict(dict)
    withheld: dict[str, Counter[str]] = defaultdict(Counter)
    for release in group:
        count[release.site] += 1
        size[release.site] += release.bytes
        for name, field in release.fields.items():
            kinds[name][field.kind] = None
            types[name][field.type] = None
            shapes[name][" × ".join(map(str, field.shape)) or "scalar"] = None
            withheld[name][release.site] += field.withheld
    fields = tuple(
        FieldSummary(name, ", ".join(kinds[name]), ", ".join(types[name]), tuple(shapes[name]), dict(withheld[name]))
        for name in types
    )
    return MessageSummary(step, phase, kind, dict(count), dict(size), fields)
