"""Who saw the site's lockbox, over all studies: each opening is written down before it happens, and counted here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.site.logs import chained

LOCKBOX_FILE = "lockbox.jsonl"


@dataclass(frozen=True)
class LockboxOpening:
    """A step of a run that saw the lockbox, and when first."""

    time: str
    study: str
    name: str
    run: str
    step: str

    @property
    def by(self) -> tuple[str, str]:
        """The run that opened it: hash of the study, and name of the run."""
        return self.study, self.run


def lockbox_openings(state: Path) -> tuple[LockboxOpening, ...]:
    """Return who opened the lockbox, over all studies, the first first; each step of a run once.

    Raises
    ------
    PrivacyError : the record was changed, cut or lost.
    """
    found: dict[tuple[str, ...], LockboxOpening] = {}
    for entry in chained(state / LOCKBOX_FILE).lines():
        if "damaged" in entry:
            continue  # cut by a crash: what it tells of had not happened yet
        opening = LockboxOpening(*(str(entry.get(key, "")) for key in ("time", "study", "name", "run", "step")))
        found.setdefault((*opening.by, opening.step), opening)
    return tuple(found.values())


def lockbox_lines(state: Path) -> list[str]:
    """Return the openings as lines for a terminal, and how many runs of how many studies they were."""
    found = lockbox_openings(state)
    if not found:
        return ["the lockbox was never opened"]
    rows = [("first at", "study", "", "run", "step")]
    rows += [(o.time, o.name or "?", o.study[:12], o.run, o.step) for o in found]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    runs, studies = len({o.by for o in found}), len({o.study for o in found})
    return [*lines, f"opened by {runs} run(s) of {studies} study version(s)"]
