"""Flower's grid with two settings it does not offer: a short first wait for a reply's parts, and a largest reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, pull_objects
from flwr.superlink.grid import http_grid

_PIECE_MB = 5
_SMALL_PARTS = 64
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS, _PATIENCE_SECONDS = 0.02, 1.0, 120.0


def tune(max_reply_mb: int) -> None:
    """Have every ``HttpGrid`` of this process fetch replies soon, and none of more than ``max_reply_mb``.

    A reply becomes visible before its parts are uploaded; Flower then waits 1, 2, 4 seconds. Arrays come in pieces of
    5 MB, so that their number bounds the size before anything is fetched; too large a reply counts as lost.
    """
    most = _SMALL_PARTS + max_reply_mb // _PIECE_MB

    def fetch(object_ids: Iterable[str], pull_object_fn: Callable[[str], bytes], **_: Any) -> dict[str, bytes]:
        wanted = list(object_ids)
        if len(wanted) > most:
            raise ObjectPullError(wanted[0], f"a reply of more than {max_reply_mb} MB")
        return pull_objects(
            wanted,
            pull_object_fn,
            max_time=_PATIENCE_SECONDS,
            max_tries_per_object=None,
            initial_backoff=_FIRST_WAIT_SECONDS,
            backoff_cap=_LONGEST_WAIT_SECONDS,
        )

    http_grid.pull_objects = fetch  # type: ignore[attr-defined]
