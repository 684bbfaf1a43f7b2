"""The envelope that Flower ships with a run: two text files that name the installed apps, and no code."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "flower_app"


@lru_cache(maxsize=1)
def envelope() -> bytes:
    """Return the envelope as Flower builds it from :data:`FOLDER`: the same bytes from the same files."""
    from server.rounds.flower_insides import envelope_of

    return envelope_of(FOLDER)


def envelope_sha256() -> str:
    """Return the hash that sites approve."""
    return hashlib.sha256(envelope()).hexdigest()
