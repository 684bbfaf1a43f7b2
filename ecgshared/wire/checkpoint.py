"""A training step's state after a round, in one file: written beside, synced, renamed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ecgshared.errors import RunError
from ecgshared.service.files import write_atomically
from ecgshared.wire.bytes import WireError, pack, unpack


def save_checkpoint(path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Replace ``path`` by this state; a crash leaves the earlier state whole."""
    write_atomically(path, pack(header, arrays))


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Return (header, arrays), or None where there is none; raise RunError where it cannot be read."""
    if not path.exists():
        return None
    try:
        return unpack(path.read_bytes())
    except WireError as error:
        raise RunError(f"is no checkpoint: {error}", where=path, remedy="remove it; the step begins anew") from None
