"""What left a site, in the form that output checkers of a research environment read: ACRO's results.json and tables.

The values come from the outbox, which keeps the last answers word for word; each is held to the hash in the log of
releases. An answer that the outbox no longer keeps is listed without its values, for a person to look at.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from client.operator.releases import read_releases
from client.site.settings import SiteSettings
from ecgshared.errors import ConfigError
from ecgshared.service.files import write_atomically
from ecgshared.wire.bytes import WireError, unpack

ACRO_VERSION = "1.0.2"
"""Of ACRO's results.json; its reader wants its own."""
_IN_THE_CLEAR = "weights"


def write_acro(settings: SiteSettings, folder: Path, run: str | None = None) -> tuple[int, int]:
    """Write ``results.json`` and a CSV table of each answer that left; return how many, and how many of them to review.

    Parameters
    ----------
    run : of one run only, by its name in the log of releases.

    Raises
    ------
    ConfigError : the folder holds something already, the log is damaged or was edited, or nothing left.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError("the folder is not empty", where=folder, remedy="name a new one")
    lines = read_releases(settings.state)
    if any("damaged" in line or "tampered" in line for line in lines):
        raise ConfigError(
            "the log of releases is not as it was written", where=settings.state, remedy="ecgfed site audit SITE.yaml"
        )
    chosen = [line for line in lines if not line.get("replayed") and run in (None, line["run"])]
    if not chosen:
        runs = sorted({str(line["run"]) for line in lines})
        raise ConfigError("nothing left in such a run", value=run, allowed=", ".join(runs) or "nothing has left yet")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    outputs = {}
    for number, line in enumerate(chosen):
        uid = f"output_{number}"
        name = f"{uid}_{line['step']}_{line['phase']}_{line['round']}.csv"
        body = _kept(settings.state, line)
        rows, withheld = _rows(line, body)
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([("field", "kind", "place", "value"), *rows])
        write_atomically(folder / name, out.getvalue().encode(), private=True)
        outputs[uid] = _record(uid, name, line, settings, withheld, kept=body is not None)
    content = {
        "version": ACRO_VERSION,
        "tool": {"@type": "SoftwareApplication", "name": "ecgfed", "version": version("ecgfed")},
        "results": outputs,
    }
    write_atomically(folder / "results.json", json.dumps(content, indent=4).encode(), private=True)
    return len(outputs), sum(one["status"] == "review" for one in outputs.values())


def _record(
    uid: str, name: str, line: dict[str, Any], settings: SiteSettings, withheld: list[int], *, kept: bool
) -> dict[str, Any]:
    limits = settings.limits
    clear = [field for field, told in line["fields"].items() if told["kind"] == _IN_THE_CLEAR]
    comments = [
        f"groups below {limits.min_patients} patients or {limits.min_events} events are withheld by the gate; "
        f"{len(withheld)} cell(s) were",
        f"{line['bytes']:,} bytes, sha256 {line['sha256']}",
    ]
    if clear:
        comments.append(
            f"{', '.join(clear)}: weights of a model, which no size of a group protects; `ecgfed site budget` tells "
            "what private training cost"
        )
    if not kept:
        comments.append("the answer is no longer kept word for word: its values cannot be shown")
    status = "review" if clear or not kept else "pass"
    reasons = ("negative", "missing", "threshold", "p-ratio", "nk-rule", "all-values-are-same")
    sdc = {
        "summary": {"suppressed": bool(withheld), **{r: len(withheld) if r == "threshold" else 0 for r in reasons}},
        # ACRO names cells by row and column of the table.
        "cells": {r: [[row, 3] for row in withheld] if r == "threshold" else [] for r in reasons},
    }
    return {
        "uid": uid,
        "status": status,
        "type": "table",
        "properties": {"method": line["kind"], "step": line["step"], "phase": line["phase"], "round": line["round"]},
        "files": [{"name": name, "sdc": sdc}],
        "outcome": {},
        "command": f"run {line['run']}, study {line['study']}",
        "summary": status + (f"; threshold: {len(withheld)} cells suppressed" if withheld else ""),
        "timestamp": line["at"],
        "comments": comments,
        "exception": "",
        "fair": {},
    }


def _kept(state: Path, line: dict[str, Any]) -> bytes | None:
    """Return the answer's bytes out of the outbox, where they still are those that the log names."""
    run = hashlib.sha256(f"{line['study']}/{line['run']}".encode()).hexdigest()[:24]
    path = state / "outbox" / run / line["step"] / f"{line['phase']}-{line['round']}.answer"
    try:
        _, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return body if hashlib.sha256(body).hexdigest() == line["sha256"] else None


def _rows(line: dict[str, Any], body: bytes | None) -> tuple[list[tuple[str, str, str, str]], list[int]]:
    """Return a row for each number that left, and the numbers of the rows that were withheld."""
    if body is None:
        shapes = {name: "x".join(map(str, told["shape"])) for name, told in line["fields"].items()}
        return [(name, line["fields"][name]["kind"], shapes[name], "not kept") for name in shapes], []
    try:
        header, arrays = unpack(body)
    except WireError as error:
        raise ConfigError(f"an answer in the outbox cannot be read: {error}", value=line["sha256"]) from None
    rows: list[tuple[str, str, str, str]] = []
    withheld = []
    for name, value in {**header["scalars"], **arrays}.items():
        kind = line["fields"][name]["kind"]
        if kind in (_IN_THE_CLEAR, "hidden"):
            rows.append((name, kind, "", f"{np.size(value):,} numbers, sha256 {_hash(value)}"))
            continue
        if not np.size(value):
            rows.append((name, kind, "", "empty"))
        for place, cell in _cells(value):
            if isinstance(cell, float) and np.isnan(cell):
                withheld.append(len(rows))
                rows.append((name, kind, place, "withheld"))
            else:
                rows.append((name, kind, place, repr(cell) if isinstance(cell, float) else str(cell)))
    return rows, withheld


def _cells(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, np.ndarray):
        return [(" ".join(map(str, place)), value[place].item()) for place in np.ndindex(value.shape)]
    if isinstance(value, list | tuple):
        return [(str(place), one) for place, one in enumerate(value)]
    return [("", value)]


def _hash(value: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
