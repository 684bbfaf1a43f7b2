"""Too large a reply is not fetched, is known for what it is, and does not stay in the SuperLink's memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Error
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.superlink.grid import http_grid

from server.grid import is_too_large, tune


class Tuned(http_grid.HttpGrid):
    """A grid that is connected to nothing and notes what it confirms."""

    def __init__(self) -> None:
        self.confirmed: list[Any] = []
        self.node = Node(node_id=SUPERLINK_NODE_ID)

    @property
    def run(self) -> Any:
        return SimpleNamespace(run_id=7)

    @property
    def _runtime_client(self) -> Any:
        return SimpleNamespace(ConfirmMessageReceived=self.confirmed.append)

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Tuned:
    monkeypatch.setattr(http_grid, "pull_objects", None)
    tuned = Tuned()
    tune(tuned, 10)
    return tuned


def test_a_reply_within_the_limit_is_fetched(grid: Tuned) -> None:
    wanted = [f"{number:064x}" for number in range(60)]
    fetched = http_grid.pull_objects(wanted, lambda name: name.encode())
    assert fetched == {name: name.encode() for name in wanted}
    assert not grid.confirmed


def test_a_larger_one_is_dropped_unfetched(grid: Tuned) -> None:
    wanted, fetched = [f"{number:064x}" for number in range(200)], []
    with pytest.raises(ObjectPullError) as caught:
        http_grid.pull_objects(wanted, fetched.append)
    assert not fetched
    (confirmed,) = grid.confirmed
    assert (confirmed.message_object_id, confirmed.run_id) == (wanted[-1], 7)
    assert is_too_large(Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=f"not available: {caught.value}"))


@pytest.mark.parametrize("error", [
    Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason="the sender may not have completed the upload"),
    Error(code=ErrorCode.MESSAGE_UNAVAILABLE),
    Error(code=ErrorCode.NODE_UNAVAILABLE, reason="a reply of more than 10 MB"),
])  # fmt: skip
def test_another_failure_is_not_taken_for_it(error: Error) -> None:
    assert not is_too_large(error)
