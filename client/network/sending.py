"""An answer on its way over a line that may be slow and is cut: sent again until it is there, from where it stopped.

The coordinator says which pieces it lacks, so a cut costs the pieces that were under way. They are as small as what the
line carries in two seconds, within limits: on a fast line fewer of them cost less.
"""

from __future__ import annotations

import threading
import time

from client.network.fleet import FleetLink
from client.network.fleet_failures import LinkError, RunOver
from client.network.fleet_messages import Head, Objects

SMALLEST_PIECE, LARGEST_PIECE = 1 << 19, 5 << 20
_PIECE_SECONDS = 2.0
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 5.0
_WENT_WELL_SECONDS = 5.0


def piece_bytes(bytes_per_second: float | None) -> int:
    """Return the size of the pieces that an answer is cut into, by what the line carried last."""
    if bytes_per_second is None:
        return LARGEST_PIECE
    return int(min(max(_PIECE_SECONDS * bytes_per_second, SMALLEST_PIECE), LARGEST_PIECE))


def send_until_there(link: FleetLink, head: Head, objects: Objects, seconds: float, stop: threading.Event) -> bool:
    """Send an answer until the coordinator has it whole; return False where it had no use for it.

    Raises
    ------
    RunOver : nobody waits for it any more. LinkError : the daemon is told to end. KeyError : a part is gone from here.
    """
    wait = _FIRST_WAIT
    while True:
        begun = time.monotonic()
        try:
            return link.push(head, objects, seconds)
        except RunOver:
            raise
        except LinkError:
            # The fetching thread tells the trouble and mends the connection.
            if head.seconds_left <= 0:
                raise RunOver("nobody waits for the answer any more") from None
            if time.monotonic() - begun > _WENT_WELL_SECONDS:
                wait = _FIRST_WAIT  # a line that is cut now and then is no coordinator that is away
            if stop.wait(wait):
                raise
            wait = min(_LONGEST_WAIT, 2 * wait)
