"""The operator's ledger of ingestion: every file, what became of it, and why; and the features of those read.

``state/ingest/ledger.sqlite``, owner-only. It names files, as nothing else of the site's state does, because it is for
the operator alone and never leaves. Of a recording it holds nothing but findings, rate, length, format and device.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.cache.entries import REFUSED, UNREADABLE, CacheLookup, Entry
from ecgshared.ecg.quality import NOTES, REPAIRED
from ecgshared.errors import RunError
from ecgshared.service.files import private_folder

FOLDER, FILE = "ingest", "ledger.sqlite"

Outcome = Literal["read", "flagged", "repaired", "refused", "unreadable", "missing", "not needed", "without a row"]

OUTCOMES: dict[Outcome, str] = {
    "read": "read, nothing found",
    "flagged": "read, with findings",
    "repaired": "read, an exchange of electrodes undone",
    "refused": "read, refused by the site's quality policy",
    "unreadable": "could not be read",
    "missing": "named in the table, not there",
    "not needed": "named in the table, left out before reading",
    "without a row": "named by no row of the table",
}
"""What can become of a file, and what the word means."""

_FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS file (
    path TEXT PRIMARY KEY, record BLOB, patient BLOB, bytes INTEGER, mtime_ns INTEGER, version INTEGER,
    outcome TEXT NOT NULL, codes TEXT NOT NULL, why TEXT NOT NULL, device TEXT NOT NULL, fs_hz REAL, seconds REAL,
    format TEXT NOT NULL, run INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS file_by_patient ON file (patient);
CREATE INDEX IF NOT EXISTS file_by_codes ON file (outcome, codes);
CREATE TABLE IF NOT EXISTS feature (
    record BLOB PRIMARY KEY, patient BLOB NOT NULL, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    version INTEGER NOT NULL, row BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS feature_by_patient ON feature (patient);
CREATE TABLE IF NOT EXISTS size (
    path TEXT PRIMARY KEY, patient BLOB NOT NULL, amplitude_mv REAL NOT NULL, step_mv REAL, units_per_mv REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outlier (
    path TEXT PRIMARY KEY, patient BLOB, device TEXT NOT NULL, code TEXT NOT NULL, why TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Line:
    """One file: its path below the records folder, what became of it, codes of its findings, and why.

    ``why`` is JSON ``[[code, lead, value], ...]``, or the reader's sentence where it could not be read.
    """

    path: str
    outcome: Outcome
    codes: str
    why: str
    device: str
    fs_hz: float | None
    format: str


class IngestLedger:
    """The ledger of one site; use :func:`opened_ledger`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        value = database.execute("SELECT value FROM meta WHERE name = 'run'").fetchone()
        self.run = 1 + (value[0] if value else 0)

    def note(self, paths: Sequence[str], entries: Sequence[Entry]) -> None:
        """Write down what became of the files just read, and their features."""
        with self._db:
            self._db.executemany(
                f"INSERT OR REPLACE INTO file VALUES ({', '.join('?' * 14)})",
                (self._row(path, entry) for path, entry in zip(paths, entries, strict=True)),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO feature VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (e.record, e.patient, e.size_bytes, e.mtime_ns, e.version, e.features.astype("<f4").tobytes())
                    for e in entries
                    if e.features is not None
                ),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO size VALUES (?, ?, ?, ?, ?)",
                (
                    (path, entry.patient, *entry.size)
                    for path, entry in zip(paths, entries, strict=True)
                    if entry.size[0] is not None
                ),
            )

    def keep(
        self,
        paths: Sequence[str],
        records: Sequence[bytes],
        patients: Sequence[bytes],
        signatures: Sequence[tuple[int, int]],
        found: CacheLookup,
        version: int,
    ) -> None:
        """Confirm files that the cache holds already; what the ledger lacks of them is written from the cache."""
        # A study whose cache was made under another policy may know other findings than the last one did.
        told = dict(zip(paths, found.findings, strict=True))
        known = {
            path
            for path, outcome, why in self._fresh(paths, signatures, version)
            if outcome == "unreadable" or why == told[path]
        }
        entries = [
            Entry(
                records[i],
                patients[i],
                *signatures[i],
                version,
                int(found.status[i]),
                findings=found.findings[i],
                fs=None if np.isnan(found.fs[i]) else float(found.fs[i]),
                seconds=None if np.isnan(found.seconds[i]) else float(found.seconds[i]),
                device=found.device[i],
                size=_size(found.size[i]),
            )
            for i in range(len(paths))
            if paths[i] not in known
        ]
        self.note([path for path in paths if path not in known], entries)
        with self._db:
            self._db.executemany(
                "UPDATE file SET run = ?, patient = ? WHERE path = ?",
                ((self.run, patient, path) for path, patient in zip(paths, patients, strict=True) if path in known),
            )

    def explained(self, paths: Sequence[str], signatures: Sequence[tuple[int, int]], version: int) -> set[str]:
        """Return those of ``paths`` whose fate the ledger tells as it is today."""
        return {
            path for path, outcome, why in self._fresh(paths, signatures, version) if outcome != "unreadable" or why
        }

    def mark(self, paths: Sequence[str], outcome: Outcome) -> None:
        """Note files that were not read: a line that tells of a reading stays, unless the file is gone."""
        with self._db:
            if outcome == "missing":
                self._db.executemany("DELETE FROM file WHERE path = ?", ((path,) for path in paths))
            self._db.executemany(
                """INSERT INTO file VALUES (?1, NULL, NULL, NULL, NULL, NULL, ?2, '', '', '', NULL, NULL, '', ?3)
                ON CONFLICT (path) DO UPDATE SET run = ?3,
                outcome = CASE WHEN record IS NULL THEN ?2 ELSE outcome END""",
                ((path, outcome, self.run) for path in paths),
            )

    def without_features(
        self, records: Sequence[bytes], signatures: Sequence[tuple[int, int]], version: int
    ) -> set[int]:
        """Return which of ``records`` have no features made from the file as it is today."""
        lacking = set()
        for i, (record, signature) in enumerate(zip(records, signatures, strict=True)):
            row = self._db.execute(
                "SELECT bytes, mtime_ns, version FROM feature WHERE record = ?", (record,)
            ).fetchone()
            if row != (*signature, version):
                lacking.add(i)
        return lacking

    def features(self, records: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the features of ``records``, shape = (n, len(features.NAMES)), NaN where there are none."""
        from ecgshared.ecg.features import NAMES

        out = np.full((len(records), len(NAMES)), np.nan, dtype=np.float32)
        for i, record in enumerate(records):
            row = self._db.execute("SELECT row FROM feature WHERE record = ?", (record,)).fetchone()
            if row is not None and len(row[0]) == 4 * len(NAMES):
                out[i] = np.frombuffer(row[0], dtype="<f4")
        return out

    def finish(self) -> None:
        """End a whole run: files that it did not meet are gone from the folder, and from the ledger."""
        with self._db:
            self._db.execute("DELETE FROM file WHERE run <> ?", (self.run,))
            self._db.execute("DELETE FROM size WHERE path NOT IN (SELECT path FROM file)")
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('run', ?)", (self.run,))

    def forget(self, patients: Sequence[bytes]) -> None:
        """Drop every line and all features of ``patients``."""
        with self._db:
            for table in ("file", "feature", "size", "outlier"):
                self._db.executemany(f"DELETE FROM {table} WHERE patient = ?", ((patient,) for patient in patients))

    def sizes(self) -> list[tuple[str, bytes, str, float, float | None, float | None]]:
        """Return (path, patient, device, amplitude, step, units per mV) of each recording that is used, by path.

        Where the file names no device, recordings of one format and rate count as one device's.
        """
        return self._db.execute(
            """SELECT path, s.patient, CASE WHEN device <> '' THEN device
                ELSE 'no device told, ' || CASE WHEN format <> '' THEN format || ', ' ELSE '' END
                || CAST(round(fs_hz, 1) AS TEXT) || ' Hz' END, amplitude_mv, step_mv, units_per_mv
            FROM size AS s JOIN file USING (path) WHERE outcome IN ('read', 'flagged', 'repaired') ORDER BY path"""
        ).fetchall()

    def stand_out(self, outliers: Sequence[tuple[str, bytes, str, str, str]]) -> None:
        """Note (path, patient, device, code, why) of the recordings that stand out, in place of those of the last run.

        Their lines in the ledger carry the code, and are flagged.
        """
        with self._db:
            for (path,) in self._db.execute("SELECT path FROM outlier").fetchall():
                self._carry(path, None)
            self._db.execute("DELETE FROM outlier")
            self._db.executemany("INSERT INTO outlier VALUES (?, ?, ?, ?, ?)", outliers)
            for path, _, _, code, _ in outliers:
                self._carry(path, code)

    def outliers(self) -> list[tuple[str, str, str, str]]:
        """Return (device, code, path, why) of the recordings that stand out among their device's, by path."""
        return self._db.execute("SELECT device, code, path, why FROM outlier ORDER BY device, code, path").fetchall()

    def reasons(self, most: int) -> list[tuple[str, int]]:
        """Return why files could not be read, and how many each, the most frequent first."""
        return self._db.execute(
            """SELECT why, count(*) FROM file WHERE outcome = 'unreadable'
            GROUP BY why ORDER BY count(*) DESC, why LIMIT ?""",
            (most,),
        ).fetchall()

    def grouped(self, outcome: Outcome, most: int) -> list[tuple[str, int, str]]:
        """Return (reason, files, one of them) of an outcome, the most frequent first; why is codes or a sentence."""
        reason = "why" if outcome == "unreadable" else "codes"
        return self._db.execute(
            f"""SELECT {reason}, count(*), min(path) FROM file WHERE outcome = ?
            GROUP BY {reason} ORDER BY count(*) DESC, {reason} LIMIT ?""",
            (outcome, most),
        ).fetchall()

    def counts(self, *columns: str) -> list[tuple[str | float | int | None, ...]]:
        """Return (value of each column, files) for every combination, the most frequent first."""
        allowed = {"outcome", "codes", "device", "fs_hz", "format"}
        if not set(columns) <= allowed:
            raise RunError("no such column of the ledger", value=columns, allowed=", ".join(sorted(allowed)))
        names = ", ".join(columns)
        return self._db.execute(
            f"SELECT {names}, count(*) FROM file GROUP BY {names} ORDER BY count(*) DESC, {names}"
        ).fetchall()

    def examples(self, outcome: str, codes: str, most: int) -> list[Line]:
        """Return the first lines, by path, of one outcome and one set of findings."""
        rows = self._db.execute(
            """SELECT path, outcome, codes, why, device, fs_hz, format FROM file
            WHERE outcome = ? AND codes = ? ORDER BY path LIMIT ?""",
            (outcome, codes, most),
        )
        return [Line(*row) for row in rows]

    def lines(self) -> Iterator[Line]:
        """Give every line, by path."""
        rows = self._db.execute("SELECT path, outcome, codes, why, device, fs_hz, format FROM file ORDER BY path")
        return (Line(*row) for row in rows)

    def _carry(self, path: str, code: str | None) -> None:
        """Give a file's line the codes of its findings, and one more."""
        row = self._db.execute("SELECT outcome, why FROM file WHERE path = ?", (path,)).fetchone()
        if row is None or row[0] not in ("read", "flagged", "repaired"):
            return
        codes = {found for found, *_ in json.loads(row[1])} | ({code} if code else set())
        outcome = row[0] if row[0] == "repaired" else "flagged" if codes - NOTES else "read"
        self._db.execute(
            "UPDATE file SET outcome = ?, codes = ? WHERE path = ?", (outcome, " ".join(sorted(codes)), path)
        )

    def _fresh(
        self, paths: Sequence[str], signatures: Sequence[tuple[int, int]], version: int
    ) -> Iterator[tuple[str, str, str]]:
        for path, signature in zip(paths, signatures, strict=True):
            row = self._db.execute(
                "SELECT bytes, mtime_ns, version, outcome, why FROM file WHERE path = ?", (path,)
            ).fetchone()
            if row is not None and row[:3] == (*signature, version):
                yield path, row[3], row[4]

    def _row(self, path: str, entry: Entry) -> tuple[object, ...]:
        codes = sorted({code for code, *_ in json.loads(entry.findings)})
        outcome: Outcome = "flagged" if set(codes) - NOTES else "read"
        if entry.status == UNREADABLE:
            outcome = "unreadable"
        elif entry.status == REFUSED:
            outcome = "refused"
        elif REPAIRED in codes:
            outcome = "repaired"
        why = entry.fault if entry.status == UNREADABLE else entry.findings
        signature = (entry.size_bytes, entry.mtime_ns, entry.version)
        told = (outcome, " ".join(codes), why, entry.device, entry.fs, entry.seconds, entry.format, self.run)
        return (path, entry.record, entry.patient, *signature, *told)


def _size(values: NDArray[np.float64]) -> tuple[float | None, float | None, float | None]:
    amplitude, step, units = (None if np.isnan(value) else float(value) for value in values)
    return amplitude, step, units


@contextmanager
def opened_ledger(state: Path) -> Iterator[IngestLedger]:
    """Open the site's ledger, made on first use and owner-only; one that is damaged is made anew by the next run.

    Raises
    ------
    RunError : it cannot be opened or is of another version.
    """
    path = private_folder(state / FOLDER) / FILE
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(path, timeout=60)
    try:
        database.executescript("PRAGMA secure_delete = ON; PRAGMA synchronous = NORMAL;" + _SCHEMA)
        made = database.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
        if made is None:
            with database:
                database.execute("INSERT INTO meta VALUES ('format', ?)", (_FORMAT,))
        elif made[0] != _FORMAT:
            raise RunError("the ledger is of another version", where=path, remedy="delete it; it is made anew")
        yield IngestLedger(database)
    except sqlite3.DatabaseError as error:
        raise RunError(
            f"the ledger cannot be used ({error})", where=path, remedy="free some space, or delete it; it is made anew"
        ) from None
    finally:
        database.close()


def ledger_exists(state: Path) -> bool:
    """Tell whether this site has a ledger."""
    return (state / FOLDER / FILE).exists()
