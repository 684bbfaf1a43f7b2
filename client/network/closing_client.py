"""An HTTP client that leaves no connection open, whoever closes it, and whatever other threads do with it meanwhile."""

from __future__ import annotations

import threading
from typing import Any

import httpx


class ClosingClient(httpx.Client):
    """A client that leaves nothing open.

    Responses are freed when they were read: httpx ties each to its stream in a ring. And a thread that is within a
    request when another closes the client (Flower's parallel pulls do not wait for theirs) would leave the connection
    it opens to nobody: whoever comes out last closes again, and each the connection it came by, which the pool forgot
    where it was still being made.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._busy, self._counting, self._retired = 0, threading.Lock(), False

    def send(self, *arguments: Any, **options: Any) -> httpx.Response:
        """Send a request; of the answer nothing is open when it is returned."""
        with self._counting:
            self._busy += 1
        try:
            response = super().send(*arguments, **options)
        finally:
            with self._counting:
                self._busy -= 1
                last = self._busy == 0
            if last and (self.is_closed or self._retired):
                self.close()
                self._close_transports()
        if self.is_closed and (stream := response.extensions.get("network_stream")) is not None:
            stream.close()
        response.stream = httpx.ByteStream(b"")
        return response

    def retire(self) -> None:
        """Close once nobody is within a request."""
        with self._counting:
            self._retired = True
            idle = self._busy == 0
        if idle:
            self.close()

    def _close_transports(self) -> None:
        for transport in (self._transport, *self._mounts.values()):
            if transport is not None:
                transport.close()
