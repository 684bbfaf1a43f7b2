"""One process of a site at a time: SQLite's lock, which works on every system and dies with its holder."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(path: Path, waiting: Callable[[], None] | None = None, *, every_s: float = 1.0) -> Iterator[None]:
    """Hold the lock in the file ``path``, made on first use.

    While another process holds it, ``waiting`` is called and the lock asked for again, every ``every_s`` seconds.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    lock = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        while True:
            try:
                lock.execute("BEGIN EXCLUSIVE")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                if waiting is not None:
                    waiting()
                time.sleep(every_s)
        yield
    finally:
        lock.close()
