"""What the report says of the run itself: its facts, its steps, who was absent, and what left each site."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from server.report.cells import byte_count, duration
from server.report.folder import Absence, Event, MessageSummary, Run, absences, spans, summarise_releases

MAX_ROUNDS_DRAWN = 200


def facts(run: Run) -> list[tuple[str, str]]:
    """Return what stands at the top in any case: sites, steps, rounds, time, bytes."""
    info = run.results.run
    found = [("Sites", str(len(info.sites)))]
    if run.study is not None:
        trained, unseen = len(run.study.sites.train), len(run.study.sites.zero_shot)
        found = [("Sites", f"{trained} training" + (f" + {unseen} zero-shot" if unseen else ""))]
    found.append(("Steps done", f"{len(run.results.steps)} of {len(run.plan)}"))
    rounds = {(line.step, line.phase, line.round) for line in run.history}
    found.append(("Requests to sites", f"{len(rounds):,}"))
    found.append(("Time", _elapsed(run)))
    if run.releases:
        found.append(("Left the sites", byte_count(sum(release.bytes for release in run.releases))))
    return found


def _elapsed(run: Run) -> str:
    info = run.results.run
    if info.ended is not None:
        try:
            span = datetime.fromisoformat(info.ended) - datetime.fromisoformat(info.started)
            return duration(span.total_seconds())
        except (ValueError, TypeError):
            # A time that is no ISO time, or only one of the two with a zone: the rounds' own clock is left.
            pass
    return duration(sum(line.seconds for line in run.history)) + " in requests"


@dataclass(frozen=True)
class StepRow:
    """One line of the table of steps; ``rounds`` by phase."""

    id: str
    stage: str
    uses: str
    sites: str
    requests: str
    time: str
    received: str
    sent: str
    state: str
    hash: str


def graph_rows(run: Run) -> list[StepRow]:
    """Return the table of steps: what each used, on whom it ran, what it took."""
    rows = []
    for step in run.plan:
        lines = [line for line in run.history if line.step == step.id]
        phases: dict[str, set[int]] = {}
        for line in lines:
            phases.setdefault(line.phase, set()).add(line.round)
        result = run.results.steps.get(step.id)
        members = run.members(step)
        rows.append(
            StepRow(
                step.id,
                step.stage,
                ", ".join(step.uses),
                "all" if set(members) == set(run.results.run.sites) else ", ".join(members),
                ", ".join(f"{name} × {len(rounds)}" if len(rounds) > 1 else name for name, rounds in phases.items()),
                duration(sum(line.seconds for line in lines)) if lines else "",
                byte_count(sum(sum(line.bytes_in.values()) for line in lines)) if lines else "",
                byte_count(sum(sum(line.bytes_out.values()) for line in lines)) if lines else "",
                _state(run, step.id, begun=bool(lines)),
                (result.arrays_sha256 or "")[:12] if result is not None else "",
            )
        )
    return rows


def _state(run: Run, step: str, *, begun: bool) -> str:
    if step in run.results.steps:
        return "done"
    return "left out" if step in run.results.run.left_out else "begun" if begun else "not begun"


@dataclass(frozen=True)
class Strip:
    """Attendance at one phase of one step: for each site one mark a round (True answered, None not asked)."""

    step: str
    phase: str
    rounds: tuple[int, ...]
    sites: tuple[tuple[str, tuple[bool | None, ...]], ...]


@dataclass(frozen=True)
class Presence:
    """Who answered when. ``strips`` only where there are rounds to see."""

    strips: tuple[Strip, ...]
    absences: tuple[Absence, ...]
    requests: int


def presence(run: Run) -> Presence:
    """Return who was absent, in which rounds, and why."""
    groups: dict[tuple[str, str], dict[int, dict[str, bool]]] = {}
    for line in run.history:
        marks = groups.setdefault((line.step, line.phase), {}).setdefault(line.round, {})
        marks.update(dict.fromkeys(line.absent, False))
        marks.update(dict.fromkeys(line.answered, True))
    strips = []
    for (step, phase), rounds in groups.items():
        if not 1 < len(rounds) <= MAX_ROUNDS_DRAWN:
            continue
        numbers = tuple(sorted(rounds))
        sites = [site for site in run.results.run.sites if any(site in marks for marks in rounds.values())]
        by_site = tuple((site, tuple(rounds[n].get(site) for n in numbers)) for site in sites)
        strips.append(Strip(step, phase, numbers, by_site))
    return Presence(tuple(strips), absences(run.history), len(run.history))


@dataclass(frozen=True)
class Loss:
    """What went wrong between the coordinator and one site for one reason; ``made_good``: in how many rounds it
    answered all the same."""

    site: str
    step: str
    phase: str
    reason: str
    times: int
    rounds: str
    made_good: int


@dataclass(frozen=True)
class Return:
    """A site that was left out for some rounds, ``away``, and answered again in round ``back``."""

    site: str
    step: str
    phase: str
    away: str
    back: int


@dataclass(frozen=True)
class Happenings:
    """What befell the run: ``events`` from outside in their order, what was lost on the way, and who came back."""

    events: tuple[Event, ...]
    losses: tuple[Loss, ...]
    returns: tuple[Return, ...]

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.events or self.losses or self.returns)


def happenings(run: Run) -> Happenings:
    """Return restarts and resumptions, and the questions that had to be asked again."""
    times: Counter[tuple[str, str, str, str]] = Counter()
    rounds: dict[tuple[str, str, str, str], set[int]] = {}
    good: dict[tuple[str, str, str, str], set[int]] = {}
    for line in run.history:
        for site, reasons in line.lost.items():
            for reason in reasons:
                key = (site, line.step, line.phase, reason)
                times[key] += 1
                rounds.setdefault(key, set()).add(line.round)
                if site in line.answered:
                    good.setdefault(key, set()).add(line.round)
    losses = tuple(Loss(*key, times[key], spans(sorted(rounds[key])), len(good.get(key, ()))) for key in times)
    # That a run was submitted once is no news.
    events = run.events[1:] if run.events and run.events[0].what == "submitted" else run.events
    return Happenings(events, losses, _returns(run))


def _returns(run: Run) -> tuple[Return, ...]:
    present: dict[tuple[str, str, str], dict[int, bool]] = {}
    for line in run.history:
        # A round that was cut off stands twice; the second time counts.
        for site in (*line.absent, *line.answered):
            present.setdefault((site, line.step, line.phase), {})[line.round] = site in line.answered
    found = []
    for key, rounds in present.items():
        away: list[int] = []
        for number in sorted(rounds):
            if not rounds[number]:
                away.append(number)
            elif away:
                found.append(Return(*key, spans(away), number))
                away = []
    return tuple(found)


@dataclass(frozen=True)
class Departures:
    """What left the sites. ``by_site``: (site, messages, bytes, withheld cells); ``sites`` in run order."""

    by_site: tuple[tuple[str, int, int, int], ...]
    messages: tuple[MessageSummary, ...]
    sites: tuple[str, ...]


def departures(run: Run) -> Departures:
    """Return the account of everything that left each site."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    withheld: Counter[str] = Counter()
    for release in run.releases:
        count[release.site] += 1
        size[release.site] += release.bytes
        withheld[release.site] += sum(field.withheld for field in release.fields.values())
    known: dict[str, Any] = dict.fromkeys((*run.results.run.sites, *count))
    by_site = tuple((site, count[site], size[site], withheld[site]) for site in known)
    return Departures(by_site, summarise_releases(run.releases), tuple(known))
