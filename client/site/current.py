"""Files as they are now: whether one changed since it was read, and the site file, read again whenever it did."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

from client.site.settings import SiteSettings, load_site
from ecgshared.errors import CohortError, ConfigError

_TICK_NS = 2_000_000_000
"""Two changes of one size within so long may leave a file with the same times, on the coarsest of file systems."""

_STILL_SECONDS, _LONGEST_SECONDS = 0.25, 60.0


class FileMark:
    """What a file held when it was looked at. To ask again costs one look at its size and times.

    Only where those differ, or are too young to tell two changes apart, is the content read. A file that is absent,
    or cannot be read, is a state like any other.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._looked_ns = path, time.time_ns()
        self._signature, self._digest = _look(path)

    def changed(self) -> bool:
        """Tell whether the file holds another thing by now."""
        signature = _signature(self.path)
        if signature == self._signature and not self._young():
            return False
        looked_ns = time.time_ns()
        signature, digest = _look(self.path)
        if digest != self._digest:
            return True
        self._signature, self._looked_ns = signature, looked_ns
        return False

    def _young(self) -> bool:
        return max(self._signature[3:], default=0) > self._looked_ns - _TICK_NS


def wait_until_still(path: Path) -> None:
    """Wait while a file is being written, as an export that takes a while does.

    Raises
    ------
    CohortError : it changed for a minute on end.
    """
    end = time.monotonic() + _LONGEST_SECONDS
    before = _signature(path)
    while True:
        time.sleep(_STILL_SECONDS)
        now = _signature(path)
        if now == before:
            return
        if time.monotonic() > end:
            raise CohortError("is being written all the time", where=path, remedy="write beside it, then rename")
        before = now


class SiteFile:
    """The site file of one process: its settings of this moment, and what of them counts only after a restart.

    Parameters
    ----------
    first : what this process began with, where it has read the file already.

    Attributes
    ----------
    path : of the file.
    last : the settings last read, or None where none were.
    """

    def __init__(self, path: Path, first: SiteSettings | None = None) -> None:
        self.path = path
        self.last: SiteSettings | None = None
        self._first = first
        self._mark: FileMark | None = None
        self._lock = threading.Lock()

    def now(self) -> SiteSettings:
        """Return the settings as the file says now; the same object as long as it says the same.

        Raises
        ------
        ConfigError : the file cannot be used, or names another site, another folder of state, or has gained or lost
            its network: what this process has open belongs to the old ones, so that nothing is answered by it.
        """
        with self._lock:
            if self.last is not None and self._mark is not None and not self._mark.changed():
                return self.last
            mark = FileMark(self.path)
            read = load_site(self.path)
            _require_same(self._first or read, read, self.path)
            # Where only a comment changed, the settings are the old ones, and nothing made from them is stale.
            read = self.last if self.last == read else read
            self._first, self.last, self._mark = self._first or read, read, mark
            return read

    def waiting_for_restart(self) -> tuple[str, ...]:
        """Return the keys whose change since the process began counts only after its restart."""
        if self._first is None or self.last is None or self._first.network is None or self.last.network is None:
            return ()
        first, last = self._first.network.model_dump(), self.last.network.model_dump()
        return tuple(f"network.{key}" for key in first if first[key] != last[key])


def _require_same(first: SiteSettings, read: SiteSettings, path: Path) -> None:
    changed = [key for key in ("site", "state") if getattr(first, key) != getattr(read, key)]
    if (first.network is None) != (read.network is None):
        changed.append("network")
    if changed:
        raise ConfigError(
            f"{' and '.join(changed)} changed; until a restart nothing is answered",
            where=path,
            remedy="restart the daemon: ecgfed site stop, ecgfed site start; or change it back",
        )


def _signature(path: Path) -> tuple[int, ...]:
    """Return device, inode, size and times of a file as they are on its server, not as a client remembers them."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        return (-1, error.errno or 0)
    try:
        return _of(os.fstat(handle))
    finally:
        os.close(handle)


def _look(path: Path) -> tuple[tuple[int, ...], bytes]:
    try:
        with path.open("rb") as file:
            return _of(os.fstat(file.fileno())), hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        return (-1, error.errno or 0), str(error.errno).encode()


def _of(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
