"""Messages on the site's disk from the moment they are fetched until their answers were sent.

One folder a message, one file a part, named by the sha256 of its content; the answer lies in the same folder. A
daemon that is killed at any moment finds here what it had promised to answer, and what it had already answered.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ecgshared.service.files import private_folder, sync_folder, write_atomically

_HEAD = "head"


@dataclass(frozen=True)
class Parcel:
    """The head and the parts of one message, on disk."""

    folder: Path

    def __getitem__(self, object_id: str) -> bytes:
        """Return a part; raise KeyError where it is absent or is not what its name says."""
        try:
            content = self._path(object_id).read_bytes()
        except OSError:
            raise KeyError(object_id) from None
        if hashlib.sha256(content).hexdigest() != object_id:
            raise KeyError(object_id)
        return content

    def head(self) -> bytes | None:
        """Return the head, or None where there is none."""
        try:
            return (self.folder / _HEAD).read_bytes()
        except OSError:
            return None

    def write_head(self, data: bytes, *, sync: bool = True) -> None:
        """Write the head."""
        write_atomically(private_folder(self.folder) / _HEAD, data, private=True, sync=sync)

    def keep(self, object_id: str, content: bytes, *, sync: bool = True) -> None:
        """Write one part."""
        write_atomically(self._path(object_id), content, private=True, sync=sync)

    def lacks(self, object_ids: list[str]) -> list[str]:
        """Return the parts that are not here."""
        return [name for name in object_ids if not self._path(name).exists()]

    def _path(self, object_id: str) -> Path:
        if len(object_id) != 64 or not set(object_id) <= set("0123456789abcdef"):
            raise KeyError(object_id)
        return self.folder / object_id


class Inbox:
    """The messages that wait for an answer, the oldest first."""

    def __init__(self, folder: Path) -> None:
        self._folder = private_folder(folder)

    def open(self, message_id: str, head: bytes) -> Parcel:
        """Make a place for a message and write its head; raises OSError where the disk is full."""
        parcel = Parcel(self._folder / f"{time.time_ns():020d}-{message_id[:16]}")
        parcel.write_head(head)
        sync_folder(self._folder)
        return parcel

    def waiting(self) -> list[Parcel]:
        """Return what a former life left behind, the oldest first; a folder without a head was never promised."""
        parcels = []
        for folder in sorted(path for path in self._folder.iterdir() if path.is_dir()):
            parcel = Parcel(folder)
            if parcel.head() is None:
                self.remove(parcel)
            else:
                parcels.append(parcel)
        return parcels

    def remove(self, parcel: Parcel) -> None:
        """Forget a message: its answer was sent, or nobody wants one. The head goes first."""
        (parcel.folder / _HEAD).unlink(missing_ok=True)
        shutil.rmtree(parcel.folder, ignore_errors=True)


def answer_of(parcel: Parcel) -> Parcel:
    """Return where the answer to a message lies; it is complete when it has a head."""
    return Parcel(parcel.folder / "answer")
