"""Files that last: whoever reads one after a crash finds the old content or the new, whole.

A whole file is written beside, synced, renamed, and its folder is synced, without which the new name may be gone after
a power failure. A line is appended, synced, and taken back where it did not fit.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PRIVATE = 0o600
_DRAFT = ".part"


def now() -> str:
    """UTC time, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner can enter, and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


def write_atomically(path: Path, content: bytes, *, private: bool = False, sync: bool = True) -> None:
    """Put ``content`` in the place of ``path``; on any error ``path`` stays as it was.

    Parameters
    ----------
    private : readable by its owner only. Else a file that is there keeps its mode, and a new one gets the umask's.
    sync : wait until file and name are on the disk. Without it, what was written may be lost, but never half of it.

    Raises
    ------
    OSError : the disk is full, or the folder cannot be written.
    """
    with _draft(path, content, private=private, sync=sync) as draft:
        draft.rename(path)
    if sync:
        sync_folder(path.parent)


def write_once(path: Path, content: bytes) -> bool:
    """Write an owner-only file unless there is one, and wait until it is on the disk; return whether this wrote it."""
    with _draft(path, content, private=True, sync=True) as draft:
        made = link_once(draft, path)
        draft.unlink()
    return made


def link_once(draft: Path, path: Path) -> bool:
    """Give a finished ``draft`` the name ``path``, unless there is such a file; return whether it was given."""
    made = True
    try:
        # A link, unlike a rename, never replaces what another process made meanwhile.
        os.link(draft, path)
    except FileExistsError:
        made = False
    sync_folder(path.parent)
    return made


def rename(path: Path, to: Path) -> None:
    """Rename a file within its folder, and wait until the new name is on the disk."""
    path.rename(to)
    sync_folder(to.parent)


def append_line(path: Path, line: str, *, private: bool = True) -> None:
    """Append a line and wait until it is on the disk; on any error nothing is appended.

    Parameters
    ----------
    private : the file and its folder are their owner's only, and are made where they are not there.

    Raises
    ------
    OSError : the disk is full, or the file cannot be written.
    """
    append_lines(path, [line], private=private)


def append_lines(path: Path, lines: list[str] | Callable[[], list[str]], *, private: bool = True) -> None:
    """Append several lines as :func:`append_line` does one: all of them, or none.

    Parameters
    ----------
    lines : or what makes them, called while no other process appends, for lines that hang on those before them.
    """
    if private:
        private_folder(path.parent)
    is_new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _PRIVATE if private else 0o666)
    try:
        # One process after the other, so that what is taken back is never another one's line.
        fcntl.flock(handle, fcntl.LOCK_EX)
        made = lines() if callable(lines) else lines
        if not made:
            return
        size = os.fstat(handle).st_size
        # A power failure may have left half a line; it must not swallow this one.
        start = "" if size == 0 or os.pread(handle, 1, size - 1) == b"\n" else "\n"
        try:
            _write_all(handle, (start + "".join(f"{line}\n" for line in made)).encode())
            os.fsync(handle)
        except BaseException:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
    if is_new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _draft(path: Path, content: bytes, *, private: bool, sync: bool) -> Iterator[Path]:
    """Write a draft beside ``path``; it is gone afterwards, renamed or removed.

    Its name is always the same, so that a process killed here leaves one draft at most, and it is locked, so that two
    writers of one file wait for each other.
    """
    draft = path.with_name(path.name + _DRAFT)
    handle = _locked(draft, _PRIVATE if private else 0o666)
    try:
        if private:
            os.fchmod(handle, _PRIVATE)
        elif path.exists():
            os.fchmod(handle, path.stat().st_mode & 0o777)
        os.ftruncate(handle, 0)
        _write_all(handle, content)
        if sync:
            os.fsync(handle)
        yield draft
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    finally:
        os.close(handle)


def _locked(draft: Path, mode: int) -> int:
    """Open and lock the draft, and return its handle; the lock ends when the handle is closed."""
    while True:
        handle = os.open(draft, os.O_RDWR | os.O_CREAT, mode)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Whoever held it before has renamed or removed it: then this is no draft any more.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), draft.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while len(view):
        view = view[os.write(handle, view) :]
