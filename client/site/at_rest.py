"""Whether a folder lies on a volume that is encrypted, as the kernel says; ecgfed encrypts nothing itself.

A device mapper's volume says what it is (``CRYPT-LUKS2-...``) and what lies below it, so that logical volumes on an
encrypted disk count too. What the kernel does not say (network shares, hardware, other systems) is not known, and not
guessed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

Answer = Literal["encrypted", "not encrypted", "not known"]

_IN_MEMORY = ("tmpfs", "ramfs")


def encryption_of(folder: Path, *, system: Path = Path("/")) -> Answer:
    """Say whether ``folder`` (or the nearest folder above that exists) lies on an encrypted volume.

    Parameters
    ----------
    system : where ``proc`` and ``sys`` are.
    """
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    number = there.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    kind = _file_system(device, system)
    if kind in _IN_MEMORY:
        return "encrypted" if _swap_is_safe(system) else "not known"
    block = system / "sys" / "dev" / "block" / device
    if not block.exists():
        return "not known"
    return "encrypted" if _crypt(block) else "not encrypted"


def _crypt(block: Path) -> bool:
    """Whether a block device is, or lies on nothing but, encrypted ones."""
    uuid = block / "dm" / "uuid"
    if uuid.exists() and uuid.read_text(encoding="ascii", errors="replace").startswith("CRYPT-"):
        return True
    below = block / "slaves"
    parts = list(below.iterdir()) if below.is_dir() else []
    return bool(parts) and all(_crypt(part.resolve()) for part in parts)


def _file_system(device: str, system: Path) -> str:
    try:
        lines = (system / "proc" / "self" / "mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > 2 and fields[2] == device:
            return after.split()[0] if after else ""
    return ""


def _swap_is_safe(system: Path) -> bool:
    """Memory is lost with the power, as long as none of it is swapped out."""
    try:
        return len((system / "proc" / "swaps").read_text(encoding="utf-8").splitlines()) <= 1
    except OSError:
        return False
