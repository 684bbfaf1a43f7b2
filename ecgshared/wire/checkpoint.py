"""A training step's state after a round, in a file that knows its own hash; the state before it is kept beside.

A file that was cut short or changed by a byte is named and never gone on from: the one before it is. Each is written
beside, synced and renamed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ecgshared.errors import RunError
from ecgshared.service.files import rename, write_atomically
from ecgshared.wire.bytes import WireError, pack, unpack

_MAGIC = b"ecgfed checkpoint 1\n"
_DIGEST_BYTES = 32

State = tuple[dict[str, Any], dict[str, NDArray[Any]]]
"""A header of scalars, and arrays by name."""


def save_checkpoint(path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Make this state the last one and keep the last one before it; a crash at any moment leaves one of them whole.

    Raises
    ------
    OSError : the disk is full, or the folder cannot be written.
    """
    body = pack(header, arrays)
    following = path.with_name(f"{path.name}.next")
    write_atomically(following, _MAGIC + hashlib.sha256(body).digest() + body)
    # A damaged file must not take the place of a whole one.
    with suppress(FileNotFoundError, WireError):
        _body(path)
        # By a link, so that at no moment there is no last state.
        link = path.with_name(f"{path.name}.link")
        link.unlink(missing_ok=True)
        os.link(path, link)
        rename(link, before(path))
        link.unlink(missing_ok=True)  # it stays where both were one file already
    rename(following, path)


def load_checkpoint(path: Path, damaged: Callable[[str], object]) -> State | None:
    """Return the last state that is whole, or None where none was ever written.

    Parameters
    ----------
    damaged : is told of each file that is there and cannot be gone on from, in one sentence.

    Raises
    ------
    RunError : there are checkpoints, and none of them is whole.
    """
    faults = []
    for file in (path, before(path)):
        try:
            state = unpack(_body(file))
        except FileNotFoundError:
            continue
        except (OSError, WireError) as error:
            faults.append(f"{file.name} {error.strerror if isinstance(error, OSError) else error}")
            damaged(f"{faults[-1]}; it is left out")
            continue
        return state
    if not faults:
        return None
    raise RunError(
        "no checkpoint of this step is whole",
        where=path.parent,
        value="; ".join(faults),
        remedy="restore the folder from a backup, or remove it: the step then begins anew",
    )


def before(path: Path) -> Path:
    """Return where the state before the last one is kept."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def _body(path: Path) -> bytes:
    """Return what a checkpoint holds; raise :class:`WireError` where it is not what was written."""
    content = path.read_bytes()
    start = len(_MAGIC) + _DIGEST_BYTES
    if not content.startswith(_MAGIC):
        raise WireError("is no checkpoint of this version")
    body = content[start:]
    if hashlib.sha256(body).digest() != content[len(_MAGIC) : start]:
        raise WireError("is cut short or was changed: it does not match its hash")
    return body
