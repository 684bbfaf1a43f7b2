"""Preprocessed signals on disk: one growing file of int16 microvolts, and an index that names nobody.

``state/cache/<fingerprint>/`` holds ``signals.i16`` (slots of 12 x T samples) and ``index.sqlite``, whose rows go
by keyed pseudonyms of recording and patient. The signals of a batch are on the disk before the index speaks of
them, and the index remembers size and time of the file it speaks of: where they differ, every slot is checked
against its checksum, and what does not agree is dropped and read again. No slot is ever given away a second time
(``slots.py``), so that a reader who knows the index of yesterday sees nobody in another's place.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.cache.beats import FILE as BEATS
from client.cache.beats import wipe as wipe_beats
from client.cache.entries import CacheLookup, Entry, nothing, row_of
from client.cache.generation import INDEX, CacheGeneration
from client.cache.lock import alone
from client.cache.slots import FILE as SIGNALS
from client.cache.slots import SlotFile
from ecgshared.errors import RunError
from ecgshared.service.files import private_folder

ALWAYS_CHECKED_BYTES = 2**28
"""Caches up to this size are checked at every opening: it takes less than a second."""

LOCK = "lock.sqlite"
_FORMAT = 1
_SIZE = ("amplitude_mv", "step_mv", "units_per_mv")
_SPARE_BYTES, _ENTRY_BYTES = 64 * 2**20, 512
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    record BLOB PRIMARY KEY, patient BLOB NOT NULL, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    version INTEGER NOT NULL, status INTEGER NOT NULL, slot INTEGER UNIQUE, crc INTEGER, content BLOB,
    findings TEXT NOT NULL, age REAL, sex TEXT NOT NULL, recorded_at INTEGER, fs REAL, seconds REAL,
    device TEXT NOT NULL, format TEXT NOT NULL, amplitude_mv REAL, step_mv REAL, units_per_mv REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_patient ON entry (patient);
CREATE TABLE IF NOT EXISTS freed (slot INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
"""


class SignalCache:
    """The cache of one fingerprint; use :func:`opened`."""

    def __init__(self, folder: Path, samples: int, database: sqlite3.Connection) -> None:
        self.folder, self.samples, self._db = folder, samples, database
        self._slots = SlotFile(folder, samples)
        self.dropped = 0

    def lookup(self, records: Sequence[bytes], signatures: Sequence[tuple[int, int]], version: int) -> CacheLookup:
        """Return what is kept of ``records``; what another file or other code made is not found."""
        n = len(records)
        found = nothing(n)
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (row INTEGER, record BLOB, bytes, mtime_ns)")
        self._db.execute("DELETE FROM temp.wanted")
        rows = ((i, record, *signatures[i]) for i, record in enumerate(records))
        self._db.executemany("INSERT INTO temp.wanted VALUES (?, ?, ?, ?)", rows)
        query = f"""SELECT row, status, slot, content, findings, age, sex, recorded_at, fs, seconds, device,
            {", ".join(_SIZE)} FROM temp.wanted AS w JOIN entry AS e
            ON e.record = w.record AND e.bytes = w.bytes AND e.mtime_ns = w.mtime_ns WHERE e.version = ?"""
        texts: dict[str, str] = {}
        for i, status, slot, content, findings, age, sex, at, fs, seconds, device, *size in self._db.execute(
            query, (version,)
        ):
            found.size[i] = [np.nan if value is None else value for value in size]
            found.status[i], found.slot[i] = status, -1 if slot is None else slot
            found.content[i] = content or b""
            found.findings[i] = texts.setdefault(findings, findings)
            found.age[i] = np.nan if age is None else age
            found.sex[i], found.device[i] = sex, texts.setdefault(device, device)
            found.recorded_at[i] = np.datetime64("NaT", "s") if at is None else np.datetime64(at, "s")
            found.fs[i] = np.nan if fs is None else fs
            found.seconds[i] = np.nan if seconds is None else seconds
        return found

    def stored(self) -> int:
        """Return how many signals are here."""
        return int(self._db.execute("SELECT count(slot) FROM entry").fetchone()[0])

    def require_room(self, new_signals: int) -> None:
        """Raise RunError where the disk has no room for ``new_signals`` more."""
        need = new_signals * (self._slots.slot_bytes + _ENTRY_BYTES) + _SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise RunError(
                f"the cache needs {need / 2**20:,.0f} MiB for {new_signals:,} ECGs, the disk has {free / 2**20:,.0f}",
                where=self.folder,
                remedy="free some space, or set `state` to a folder on a larger disk",
            )

    def store(self, entries: Sequence[Entry]) -> None:
        """Write a batch: first the signals, then, in one transaction, what the index says of them.

        Every signal gets a slot that nobody had before; that of an earlier reading of the recording is wiped.
        """
        signals = [np.ascontiguousarray(e.signal, dtype="<i2") for e in entries if e.signal is not None]
        for signal in signals:
            if signal.shape != (12, self.samples):
                raise RunError("a signal has the wrong shape", value=signal.shape, allowed=str((12, self.samples)))
        first = self._meta()["next"]
        try:
            self._slots.write(first, (signal.data for signal in signals))
        except OSError as error:
            raise RunError(
                f"the cache cannot be written ({error.strerror})", where=self.folder, remedy="free some space"
            ) from None
        places = iter([(first + i, zlib.crc32(signal.data)) for i, signal in enumerate(signals)])
        rows = [row_of(entry, *(next(places) if entry.signal is not None else (None, None))) for entry in entries]
        with self._transaction():
            self._release([entry.record for entry in entries])
            self._db.executemany(f"INSERT INTO entry VALUES ({', '.join('?' * 20)})", rows)
            self._note(next=first + len(signals))
            self._remember_file()
        self._wipe_freed()

    def reassign(self, records: Sequence[bytes], patients: Sequence[bytes]) -> None:
        """Note whose each recording is by today's table: :meth:`forget` finds all of a person's."""
        with self._transaction():
            moved = self._db.executemany(
                "UPDATE entry SET patient = ?1 WHERE record = ?2 AND patient <> ?1",
                zip(patients, records, strict=True),
            ).rowcount
            if moved > 0:
                self._note(changes=self._meta()["changes"] + 1)

    def persons(self, records: Sequence[bytes]) -> tuple[NDArray[np.float64], NDArray[np.str_], NDArray[np.object_]]:
        """Return what tells whose each recording is: age and sex its file states, and a hash of its signals.

        NaN and "" where the file states none; b"" for a recording that is not stored.
        """
        age, sex = np.full(len(records), np.nan), np.full(len(records), "", dtype="<U1")
        content = np.full(len(records), b"", dtype=object)
        for i, record in enumerate(records):
            row = self._db.execute("SELECT age, sex, content, slot FROM entry WHERE record = ?", (record,)).fetchone()
            if row is not None:
                age[i], sex[i] = np.nan if row[0] is None else row[0], row[1]
                content[i] = row[2] if row[3] is not None and row[2] else b""
        return age, sex, content

    def forget(self, patients: Sequence[bytes]) -> int:
        """Overwrite and drop every recording of ``patients``; return how many there were."""
        found: list[bytes] = []
        for patient in patients:
            theirs = self._db.execute("SELECT record FROM entry WHERE patient = ?", (patient,))
            found += [record for (record,) in theirs]
        self._drop(found)
        return len(found)

    def signals(self) -> NDArray[np.int16]:
        """Return all slots in use as a read-only memory map, shape = (slots, 12, T)."""
        return self._slots.mapped(int(self._db.execute("SELECT coalesce(max(slot) + 1, 0) FROM entry").fetchone()[0]))

    def generation(self) -> CacheGeneration:
        """Return the state that the cache is in now."""
        meta = self._meta()
        return CacheGeneration(self.folder, meta["made"], meta["changes"])

    def announce(self) -> None:
        """End the generation: who opened a cohort before may lack recordings that were added since."""
        with self._transaction():
            self._note(changes=self._meta()["changes"] + 1)

    def check(self) -> int:
        """Compare every slot with its checksum unless the file is as the index left it; drop what differs."""
        stat, remembered = self._slots.stat(), self._meta()
        same = remembered.get("bytes") == stat.st_size and remembered.get("mtime_ns") == stat.st_mtime_ns
        if same and stat.st_size > ALWAYS_CHECKED_BYTES:
            return 0
        known = self._db.execute("SELECT record, slot, crc FROM entry WHERE slot IS NOT NULL ORDER BY slot").fetchall()
        found = self._slots.read(slot for _, slot, _ in known)
        bad = [
            record
            for (record, _, crc), data in zip(known, found, strict=True)
            if len(data) != self._slots.slot_bytes or zlib.crc32(data) != crc
        ]
        self._drop(bad)
        self.dropped += len(bad)
        return len(bad)

    def prepare(self) -> None:
        """Create file and tables on first use, and end what a crash cut short.

        Raises ``sqlite3.DatabaseError`` where the index is damaged.
        """
        self._slots.create()
        self._db.executescript("PRAGMA secure_delete = ON; PRAGMA synchronous = FULL;" + _SCHEMA)
        meta = self._meta()
        if not meta:
            self._note(format=_FORMAT, samples=self.samples)
        elif (meta.get("format"), meta.get("samples")) != (_FORMAT, self.samples):
            raise sqlite3.DatabaseError("another format")
        if "next" not in meta:
            # A cache of earlier software gave slots away again: all that its file reaches into count as used.
            used = int(self._db.execute("SELECT coalesce(max(slot) + 1, 0) FROM entry").fetchone()[0])
            self._note(next=max(used, self._slots.slots()), changes=0, made=secrets.randbits(62))
        # A cache of earlier software does not know sizes; its columns end before them.
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(entry)")}
        for name in _SIZE:
            if name not in columns:
                self._db.execute(f"ALTER TABLE entry ADD COLUMN {name} REAL")
        self._wipe_freed()
        self._slots.end_after(self._meta()["next"])

    def _meta(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT name, value FROM meta"))

    def _note(self, **values: int) -> None:
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    def _drop(self, records: Sequence[bytes]) -> None:
        with self._transaction():
            self._release(records)
            self._remember_file()
        self._wipe_freed()

    def _release(self, records: Sequence[bytes]) -> None:
        """Take recordings out of the index, inside a transaction: their slots are free, and the generation is over.

        The index comes first. Who reads zeros where a signal was finds the generation over when it has read, and a
        crash leaves a list of what is still to be wiped.
        """
        before = self._db.total_changes
        these = [(record,) for record in records]
        self._db.executemany(
            "INSERT OR IGNORE INTO freed SELECT slot FROM entry WHERE record = ? AND slot IS NOT NULL", these
        )
        self._db.executemany("DELETE FROM entry WHERE record = ?", these)
        if self._db.total_changes > before:
            self._note(changes=self._meta()["changes"] + 1)

    def _wipe_freed(self) -> None:
        slots = [slot for (slot,) in self._db.execute("SELECT slot FROM freed ORDER BY slot")]
        if not slots:
            return
        self._slots.wipe(slots)
        wipe_beats(self.folder, slots)
        with self._transaction():
            self._db.execute("DELETE FROM freed")
            self._remember_file()

    def _remember_file(self) -> None:
        stat = self._slots.stat()
        self._note(bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


@contextmanager
def opened(folder: Path, samples: int, *, waiting: Callable[[], None] | None = None) -> Iterator[SignalCache]:
    """Open a cache alone, checked and ready; a damaged index is made anew.

    ``waiting`` is called about once a second while another process of this site holds it.
    """
    private_folder(folder.parent)
    private_folder(folder)
    with alone(folder / LOCK, waiting):
        index = folder / INDEX
        for attempt in (0, 1):
            os.close(os.open(index, os.O_RDWR | os.O_CREAT, 0o600))
            database = sqlite3.connect(index, isolation_level=None)
            cache = SignalCache(folder, samples, database)
            try:
                cache.prepare()
                cache.check()
            except sqlite3.DatabaseError:
                database.close()
                if attempt:
                    raise
                # All of it can be read again from the recordings.
                _discard(folder)
                continue
            break
        try:
            yield cache
        finally:
            database.close()


def forget_everywhere(root: Path, patients: Sequence[bytes], *, waiting: Callable[[], None] | None = None) -> list[int]:
    """Forget ``patients`` in every cache below ``root``; return the recordings removed from each.

    ``waiting`` is called about once a second while another process of this site holds one. A cache whose index is
    damaged is emptied: nobody can say who is in it.
    """
    removed = []
    for index in sorted(root.glob(f"*/{INDEX}")):
        with alone(index.parent / LOCK, waiting):
            samples = None
            with closing(sqlite3.connect(index)) as database, suppress(sqlite3.DatabaseError):
                samples = database.execute("SELECT value FROM meta WHERE name = 'samples'").fetchone()
            if samples is None:
                _discard(index.parent)
                continue
        with opened(index.parent, int(samples[0]), waiting=waiting) as cache:
            removed.append(cache.forget(patients))
    return removed


def holds(root: Path, patient: bytes) -> int:
    """Return how many recordings of a patient the caches below ``root`` hold; a damaged one tells of none."""
    found = 0
    for index in sorted(root.glob("*/index.sqlite")):
        with closing(sqlite3.connect(index)) as database, suppress(sqlite3.DatabaseError):
            found += database.execute("SELECT count(*) FROM entry WHERE patient = ?", (patient,)).fetchone()[0]
    return found


def _discard(folder: Path) -> None:
    for name in (INDEX, f"{INDEX}-journal", SIGNALS, BEATS):
        (folder / name).unlink(missing_ok=True)
