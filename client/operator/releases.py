"""What has left this site and what it has cost, read from the site's own books."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from client.site.settings import SiteSettings
from ecgshared.errors import ConfigError


def read_releases(state: Path) -> list[dict[str, Any]]:
    """Return every line of the log of releases, the oldest first; a damaged one is ``{"damaged": its number}``.

    A crash can cut the last line: the answer it tells of had not left yet.
    """
    path = state / "releases.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the log of releases cannot be read ({type(error).__name__})", where=path) from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError
        except ValueError:
            entry = {"damaged": number}
        found.append(entry)
    return found


def as_table(found: list[dict[str, Any]]) -> list[str]:
    """Return releases as lines for a terminal: when, which run, what, how much."""
    if not found:
        return ["nothing has left this site"]
    rows: list[tuple[str, ...]] = [("at (UTC)", "run", "step", "phase", "round", "kind", "bytes", "withheld", "")]
    for line in found:
        if "damaged" in line:
            rows.append((f"line {line['damaged']} is damaged", *[""] * 8))
            continue
        withheld = sum(int(field.get("withheld", 0)) for field in line.get("fields", {}).values())
        again = "again" if line.get("replayed") else ""
        shown = [str(line.get(key, "?")) for key in ("at", "run", "step", "phase", "round", "kind", "bytes")]
        rows.append((*shown, str(withheld), again))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    size = sum(int(line.get("bytes", 0)) for line in found)
    return [*lines, f"{len(found)} answer(s), {size:,} bytes"]


def budget_lines(settings: SiteSettings) -> list[str]:
    """Return what each study has spent of the site's cap, in plain words."""
    from client.egress.ledger import Ledger

    cap = settings.privacy
    period = "for ever" if cap.total_days is None else f"in {cap.total_days:g} days"
    lines = [
        f"cap: epsilon {cap.max_epsilon:g} at delta {cap.max_delta:g} for each study, over all its runs",
        f"cap: epsilon {cap.most_in_all:g} for all studies together, {period}",
    ]
    ledger = Ledger(settings.state)
    charges = ledger.entries()
    studies = {charge.study: charge.study_name for charge in charges}
    for sha256, name in studies.items():
        epsilon, delta = ledger.spent(sha256)
        left = max(0.0, cap.max_epsilon - epsilon)
        rounds = sum(charge.study == sha256 for charge in charges)
        cost = f"spent epsilon {epsilon:.3f} at delta {delta:g} in {rounds} round(s)"
        lines.append(f"{name} ({sha256[:12]}): {cost}, {left:.3f} left")
    if studies:
        epsilon, delta = ledger.total()
        lines.append(f"all studies together: epsilon {epsilon:.3f} at delta {delta:g} of {cap.most_in_all:g} granted")
    else:
        lines.append("no private training has been charged yet")
    return lines
