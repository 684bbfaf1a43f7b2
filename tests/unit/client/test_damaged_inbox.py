"""What a damaged disk left in the inbox is no message, and says so as one that is malformed."""

from __future__ import annotations

import pytest

from client.network.fleet_messages import Head
from ecgshared.wire.bytes import WireError


@pytest.mark.parametrize("content", [b"\xff" * 64, b"", b"\x00", b"{}"])
def test_a_damaged_head_is_no_message(content):
    with pytest.raises(WireError):
        Head(content)
