"""What has left this site and what it has cost, read from the site's own books."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from client.egress.gate import RELEASES
from client.site.logs import from_its_start
from client.site.settings import SiteSettings
from ecgshared.errors import ConfigError, PrivacyError


def read_releases(state: Path) -> list[dict[str, Any]]:
    """Return every line of the log of releases, the oldest first; a damaged one is ``{"damaged": its number}``.

    A crash can cut a line: the answer it tells of had not left yet. Where somebody edited the log, the last entry is
    ``{"tampered": in words}``.
    """
    path = state / RELEASES
    try:
        return from_its_start(path).lines()
    except PrivacyError as error:
        return [*_as_it_stands(path), {"tampered": error.what}]
    except OSError as error:
        raise ConfigError(f"the log of releases cannot be read ({type(error).__name__})", where=path) from None


def _as_it_stands(path: Path) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.exists() else [], start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"damaged": number}
        if line.strip():
            found.append(entry if isinstance(entry, dict) else {"damaged": number})
    return found


def as_table(found: list[dict[str, Any]]) -> list[str]:
    """Return releases as lines for a terminal: when, which run, what, how much."""
    if not found:
        return ["nothing has left this site"]
    rows: list[tuple[str, ...]] = [("at (UTC)", "run", "step", "phase", "round", "kind", "bytes", "withheld", "")]
    for line in found:
        if "tampered" in line:
            continue
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
    edited = [f"NOT TO BE RELIED ON: {line['tampered']}" for line in found if "tampered" in line]
    return [*lines, f"{len(found) - len(edited)} answer(s), {size:,} bytes", *edited]


def budget_facts(settings: SiteSettings) -> dict[str, Any]:
    """Return what each study has spent of the site's cap, and all of them together."""
    from client.egress.ledger import Ledger

    cap = settings.privacy
    ledger = Ledger(settings.state)
    charges = ledger.entries()
    studies = []
    for sha256, name in {charge.study: charge.study_name for charge in charges}.items():
        epsilon, delta = ledger.spent(sha256)
        rounds = sum(charge.study == sha256 for charge in charges)
        left = max(0.0, cap.max_epsilon - epsilon)
        studies.append(
            {"study": name, "sha256": sha256, "epsilon": epsilon, "delta": delta, "rounds": rounds, "left": left}
        )
    told: dict[str, Any] = {
        "max_epsilon": cap.max_epsilon,
        "max_delta": cap.max_delta,
        "most_in_all": cap.most_in_all,
        "total_days": cap.total_days,
        "studies": studies,
        "total": None,
    }
    if studies:
        epsilon, delta = ledger.total()
        told["total"] = {"epsilon": epsilon, "delta": delta}
    return told


def budget_lines(settings: SiteSettings) -> list[str]:
    """Return what each study has spent of the site's cap, in plain words."""
    told = budget_facts(settings)
    period = "for ever" if told["total_days"] is None else f"in {told['total_days']:g} days"
    lines = [
        f"cap: epsilon {told['max_epsilon']:g} at delta {told['max_delta']:g} for each study, over all its runs",
        f"cap: epsilon {told['most_in_all']:g} for all studies together, {period}",
    ]
    for one in told["studies"]:
        cost = f"spent epsilon {one['epsilon']:.3f} at delta {one['delta']:g} in {one['rounds']} round(s)"
        lines.append(f"{one['study']} ({one['sha256'][:12]}): {cost}, {one['left']:.3f} left")
    total = told["total"]
    if total is None:
        return [*lines, "no private training has been charged yet"]
    spent = f"epsilon {total['epsilon']:.3f} at delta {total['delta']:g} of {told['most_in_all']:g} granted"
    return [*lines, f"all studies together: {spent}"]
