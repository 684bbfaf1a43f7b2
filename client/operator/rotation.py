"""Another key for a site's pseudonyms, which keeps the split, the logs and all that is remembered of anybody.

Whoever has read the site's key could find out whom a pseudonym means, by trying every id. Under one more key each
pseudonym becomes a keyed function of what it was, so that also those are carried over who stand in no table any more:
the forgotten, and everybody of whom figures were told. Caches, the ledger of ingestion, the opt-out list, the memory of
groups and the record of questions are rewritten beside themselves; then all take their places together. Cut short
anywhere, the site does nothing until the command has been run again, which ends what was begun.
"""

from __future__ import annotations

import base64
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.cache.generation import INDEX
from client.cache.lock import alone
from client.cache.signals import LOCK
from client.cohort.optout import OPT_OUT_FILE
from client.egress import memory, questions
from client.ingest import register
from client.rows.cut_sets import CUTS
from client.site.keys import (
    LATER_KEYS,
    LATER_MARK,
    UNFINISHED,
    later_keys,
    load_keys,
    log_key,
    mark_of,
    under_another_key,
)
from client.site.settings import SiteSettings
from ecgshared.errors import PrivacyError
from ecgshared.service.chain import ChainedLog
from ecgshared.service.files import rename, write_atomically, write_once

_BESIDE = ".rotated"
_READY = "keys/pseudonyms.ready"
"""There once everything is written beside: from then on it takes its place, whatever happens."""
_SETS = Path("keys/sets")
"""There until it is done: new names of sets by the old ones."""
_COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("entry", ("record", "patient")),
    ("file", ("record", "patient")),
    ("feature", ("record", "patient")),
    ("size", ("patient",)),
    ("outlier", ("patient",)),
)
"""Of the caches' indices and of the ledger of ingestion: where pseudonyms stand."""


@dataclass(frozen=True)
class Rotated:
    """What was done: how many keys pseudonyms are under now, and the files that were rewritten."""

    keys: int
    files: tuple[str, ...]


def rotate(settings: SiteSettings) -> Rotated:
    """Put a site's pseudonyms under one more key; end what an earlier call began.

    Waits for commands that hold a cache; the daemon must not run.

    Raises
    ------
    PrivacyError : a log was tampered with, or a store cannot be read; then nothing is changed.
    """
    with ExitStack() as held:
        for index in sorted((settings.state / "cache").glob(f"*/{INDEX}")):
            held.enter_context(alone(index.parent / LOCK))
        return _rotated(settings)


def _rotated(settings: SiteSettings) -> Rotated:
    state, ready = settings.state, settings.state / _READY
    pending = state / UNFINISHED
    if not pending.exists():
        load_keys(settings)
        write_once(pending, secrets.token_bytes(32).hex().encode() + b"\n")
    key = bytes.fromhex(pending.read_text(encoding="ascii").strip())
    if not ready.exists():
        try:
            _write_beside(state, key)
        except (PrivacyError, sqlite3.Error, OSError, KeyError, ValueError) as error:
            for path in _beside(state):
                path.unlink()
            pending.unlink()
            if isinstance(error, PrivacyError):
                raise
            raise PrivacyError(f"nothing was changed: a store cannot be read ({type(error).__name__})") from error
        write_atomically(ready, b"", private=True)
    files = []
    for path in _beside(state):
        rename(path, path.with_name(path.name.removesuffix(_BESIDE)))
        files.append(str(path.relative_to(state)).removesuffix(_BESIDE))
    _rename_accounts(state)
    # In this order: cut short between the two, all is done once more with the same key.
    ready.unlink()
    pending.unlink()
    return Rotated(len(later_keys(state)), tuple(name for name in files if name != str(_SETS)))


def _write_beside(state: Path, key: bytes) -> None:
    for path in _beside(state):
        path.unlink()

    def renamed(pseudonym: bytes) -> bytes:
        return under_another_key(key, pseudonym)

    for path in [*sorted((state / "cache").glob(f"*/{INDEX}")), state / register.FOLDER / register.FILE]:
        if path.exists():
            _database(path, renamed)
    opt_outs = state / OPT_OUT_FILE
    if opt_outs.exists():
        lines = opt_outs.read_text(encoding="ascii").split()
        told = [("~" if line[0] == "~" else "") + renamed(bytes.fromhex(line.lstrip("~"))).hex() for line in lines]
        _keep(opt_outs, "".join(f"{line}\n" for line in told).encode())
    sets = _memory(state, renamed)
    asked, anchor = state / questions.FOLDER / questions.FILE, state / "keys" / questions.ANCHOR
    if asked.exists():
        log = ChainedLog(asked, anchor, lambda: log_key(state, questions.FOLDER))
        lines_of = [
            {**line, "group": sets.get(line["group"], line["group"])} if "group" in line else line
            for line in log.lines()
        ]
        for path, content in zip((asked, anchor), log.whole(lines_of), strict=True):
            _keep(path, content)
    keys = (*later_keys(state), key)
    _keep(state / LATER_KEYS, "".join(f"{one.hex()}\n" for one in keys).encode())
    _keep(state / LATER_MARK, mark_of(keys))


def _memory(state: Path, renamed: Callable[[bytes], bytes]) -> dict[str, str]:
    """Rewrite the memory of groups; return the new names of its sets by the old ones."""
    told, anchor = state / memory.FOLDER / memory.FILE, state / "keys" / memory.ANCHOR
    if not told.exists():
        return {}
    log = ChainedLog(told, anchor, lambda: log_key(state, memory.FOLDER))
    found, names, people = list[dict[str, Any]](), dict[str, str](), list[memory.Keys]()
    for line in log.lines():
        new = dict(line)
        if line.get("kind") == "people":
            pair = np.frombuffer(base64.b64decode(line["keys"]), dtype="<u8")
            short = b"".join(renamed(one)[:8] for one in _eight(pair))
            pair = np.frombuffer(short, dtype=">u8").astype(np.uint64).reshape(2, -1)
            people.append(pair[0])
            new["keys"] = base64.b64encode(pair.astype("<u8").tobytes()).decode()
        elif line.get("kind") == "set":
            records = np.concatenate(people)[memory.members(line["bits"])]
            new["set"] = names[line["set"]] = memory.digest_of(records)
        elif line.get("kind") == "told":
            new["set"] = names[line["set"]]
        found.append(new)
    for path, content in zip((told, anchor), log.whole(found), strict=True):
        _keep(path, content)
    _keep(state / _SETS, "".join(f"{old} {new}\n" for old, new in names.items()).encode())
    return names


def _eight(keys: Any) -> Iterator[bytes]:
    raw = keys.astype(">u8").tobytes()
    return (raw[i : i + 8] for i in range(0, len(raw), 8))


def _database(path: Path, renamed: Callable[[bytes], bytes]) -> None:
    """Copy a database beside itself, every pseudonym in it under the new key; whoever has seen it must look again."""
    beside = path.with_name(path.name + _BESIDE)
    write_atomically(beside, b"", private=True)
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(beside)) as new:
        old.backup(new)
        new.execute("PRAGMA secure_delete = ON")
        new.execute("PRAGMA synchronous = FULL")
        new.create_function("renamed", 1, renamed, deterministic=True)
        with new:
            there = {name for (name,) in new.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table, columns in _COLUMNS:
                for column in columns if table in there else ():
                    new.execute(f"UPDATE {table} SET {column} = renamed({column}) WHERE {column} IS NOT NULL")
            new.execute("UPDATE meta SET value = value + 1 WHERE name = 'changes'")
        new.execute("VACUUM")


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path.with_name(path.name + _BESIDE), content, private=True)


def _beside(state: Path) -> list[Path]:
    return sorted(path for path in state.rglob(f"*{_BESIDE}") if path.is_file())


def _rename_accounts(state: Path) -> None:
    """Give the accounts of cuts that were asked about a group the group's new name."""
    sets = state / _SETS
    if not sets.exists():
        return
    names = dict(line.split() for line in sets.read_text(encoding="ascii").splitlines())
    for path in sorted((state / questions.FOLDER).glob(f"{CUTS}*.log")):
        before, _, group = path.stem.rpartition("-")
        if group in names:
            rename(path, path.with_name(f"{before}-{names[group]}.log"))
    sets.unlink()
