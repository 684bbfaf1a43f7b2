"""Flower's grid with two settings it does not offer: a short first wait for a reply's parts, and a largest reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Error
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, pull_objects
from flwr.superlink.grid import http_grid

_TOO_LARGE = "a reply of more than"
_PIECE_MB = 5
_SMALL_PARTS = 64
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS, _PATIENCE_SECONDS = 0.02, 1.0, 120.0


def tune(grid: Grid, max_reply_mb: int) -> None:
    """Have this process fetch replies soon, and none of more than ``max_reply_mb``.

    A reply becomes visible before its parts are uploaded; Flower then waits 1, 2, 4 seconds. Arrays come in pieces of
    5 MB, so that their number bounds the size before anything is fetched. Too large a reply comes back as an error
    that :func:`is_too_large` knows, and the SuperLink, which holds replies in its memory, is told to drop it.
    """
    most = _SMALL_PARTS + max_reply_mb // _PIECE_MB

    def fetch(object_ids: Iterable[str], pull_object_fn: Callable[[str], bytes], **_: Any) -> dict[str, bytes]:
        wanted = list(object_ids)
        if len(wanted) > most:
            _drop(grid, wanted[-1])
            raise ObjectPullError(wanted[-1], f"{_TOO_LARGE} {max_reply_mb} MB")
        return pull_objects(
            wanted,
            pull_object_fn,
            max_time=_PATIENCE_SECONDS,
            max_tries_per_object=None,
            initial_backoff=_FIRST_WAIT_SECONDS,
            backoff_cap=_LONGEST_WAIT_SECONDS,
        )

    http_grid.pull_objects = fetch  # type: ignore[attr-defined]


def is_too_large(error: Error) -> bool:
    """Whether a reply was not fetched because of its size."""
    return error.code == ErrorCode.MESSAGE_UNAVAILABLE and _TOO_LARGE in (error.reason or "")


def _drop(grid: Grid, message_id: str) -> None:
    """Have the SuperLink forget a reply; of its parts that of the message itself comes last."""
    if isinstance(grid, http_grid.HttpGrid):
        grid._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=grid.node, run_id=grid.run.run_id, message_object_id=message_id)
        )
