"""A table out of what WFDB headers say of a patient, for databases that are published without one."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from ecgshared.errors import CohortError
from ecgshared.service.files import write_atomically

HEADERS = ".headers.csv"
"""How the name of such a table ends in a recipe."""
COLUMNS = ("ecg_id", "file", "age", "sex", "dx")
_COMMENT = re.compile(r"^#\s*(age|sex|dx)\s*:\s*(.*?)\s*$", re.IGNORECASE)
_UNKNOWN = {"", "nan", "unknown", "none"}
_MOST_BYTES = 1 << 16


def write_table(folder: Path, pattern: str, out: Path) -> int:
    """Write a row for each header below a folder, as the PhysioNet/CinC challenges wrote their comments.

    Returns
    -------
    int : how many rows there are.

    Raises
    ------
    CohortError : no header is there, or two have one name.
    """
    rows: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.glob(pattern)):
        if path.stem in rows:
            raise CohortError("two recordings have one name", where=folder, value=path.stem)
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", errors="replace")
        told = {match[1].lower(): match[2] for line in text.splitlines() if (match := _COMMENT.match(line))}
        known = {key: "" if value.lower() in _UNKNOWN else value for key, value in told.items()}
        rows[path.stem] = (path.stem, path.relative_to(folder).as_posix(), *(known.get(key, "") for key in COLUMNS[2:]))
    if not rows:
        raise CohortError("no WFDB header was found", where=folder, value=pattern)
    text_out = io.StringIO()
    csv.writer(text_out, lineterminator="\n").writerows([COLUMNS, *rows.values()])
    write_atomically(out, text_out.getvalue().encode(), private=True)
    return len(rows)
