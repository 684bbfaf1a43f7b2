"""The quality report of a site: one HTML page of counts and example sheets, for the operator alone."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from client.ingest.register import FOLDER, OUTCOMES, IngestLedger, Line
from client.site.settings import SiteSettings
from ecgshared.ecg.quality import CODES
from ecgshared.errors import EcgReadError
from ecgshared.service.files import write_atomically

FILE, TEMPLATE = "quality.html", "quality_report.html"
EXAMPLES, LISTED = 8, 50
SHEET_DPI = 70


@dataclass(frozen=True)
class Example:
    """One sheet: which file, what was found, and its picture as PNG in base64."""

    path: str
    outcome: str
    codes: str
    png: str


def write_report(settings: SiteSettings, ledger: IngestLedger) -> Path:
    """Write ``state/ingest/quality.html``, owner-only and whole or not at all; return where it lies."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    outcomes = {str(outcome): _whole(files) for outcome, files in ledger.counts("outcome")}
    seen = sum(outcomes.get(outcome, 0) for outcome in ("read", "flagged", "repaired", "refused"))
    groups = [(str(o), str(c), _whole(n)) for o, c, n in ledger.counts("outcome", "codes")]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template(TEMPLATE).render(
        site=settings.site,
        outcomes=[(outcome, meaning, outcomes.get(outcome, 0)) for outcome, meaning in OUTCOMES.items()],
        total=sum(outcomes.values()),
        findings=_findings(groups, seen),
        devices=_by(ledger, "device"),
        rates=_by(ledger, "fs_hz"),
        outliers=_outliers(ledger),
        unreadable=ledger.reasons(LISTED),
        listed=[line.path for line in ledger.examples("unreadable", "", LISTED)],
        examples=_examples(settings, ledger, groups),
    )
    path = settings.state / FOLDER / FILE
    write_atomically(path, page.encode(), private=True)
    return path


def _findings(groups: list[tuple[str, str, int]], seen: int) -> list[tuple[str, str, int, float]]:
    counts: Counter[str] = Counter()
    for _, codes, files in groups:
        counts.update(dict.fromkeys(codes.split(), files))
    return [(code, CODES.get(code, ""), files, files / max(seen, 1)) for code, files in counts.most_common()]


def _outliers(ledger: IngestLedger) -> list[tuple[str, str, str, int, list[str]]]:
    """Return (device, code, why of the first, files, first paths) of what stands out among a device's recordings."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for device, code, path, why in ledger.outliers():
        groups.setdefault((device, code), []).append((path, why))
    found = [
        (device, code, members[0][1], len(members), [path for path, _ in members[:EXAMPLES]])
        for (device, code), members in groups.items()
    ]
    return sorted(found, key=lambda group: -group[3])[:LISTED]


def _by(ledger: IngestLedger, column: str) -> list[tuple[str, dict[str, int]]]:
    table: dict[str, Counter[str]] = {}
    for value, outcome, files in ledger.counts(column, "outcome"):
        if str(outcome) in ("read", "flagged", "repaired", "refused"):
            name = f"{value:g} Hz" if isinstance(value, float) else str(value or "not told")
            table.setdefault(name, Counter())[str(outcome)] += _whole(files)
    return sorted(((name, dict(row)) for name, row in table.items()), key=lambda item: -sum(item[1].values()))[:LISTED]


def _examples(settings: SiteSettings, ledger: IngestLedger, groups: list[tuple[str, str, int]]) -> list[Example]:
    """Draw one file of each of the most frequent sets of findings; no code is shown twice while others are not."""
    shown: set[str] = set()
    found: list[Example] = []
    for outcome, codes, _ in groups:
        if len(found) == EXAMPLES:
            break
        if outcome not in ("flagged", "repaired", "refused") or set(codes.split()) <= shown:
            continue
        for line in ledger.examples(outcome, codes, 1):
            png = _sheet(settings.records.folder / line.path, line)
            if png:
                shown.update(codes.split())
                found.append(Example(line.path, outcome, codes, png))
    return found


def _sheet(path: Path, line: Line) -> str:
    from client.readers import read
    from ecgshared.ecg.plot import twelve_lead_sheet

    try:
        record = read(path)
    except EcgReadError:
        return ""  # gone or changed since it was read: the ledger has its line, the next run its new fate
    buffer = io.BytesIO()
    twelve_lead_sheet(record, title=line.codes).savefig(buffer, format="png", dpi=SHEET_DPI)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _whole(value: object) -> int:
    return int(str(value))
