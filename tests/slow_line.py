"""A line of so many bytes a second that is cut now and then: a relay on loopback before a coordinator."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

_PIECE, _BUFFER = 4096, 1 << 16


class SlowLine:
    """Relays 127.0.0.1:``port`` at a port of its own.

    Parameters
    ----------
    bytes_per_second : in each direction, of all connections together.
    cut_every : seconds after which all connections break; None never.
    silent_after : seconds without a byte after which a connection is dropped without a word, as proxies do.

    Attributes
    ----------
    rate : bytes a second; may be changed. up, down : bytes that were passed on. cuts : how often the line was cut.
    """

    def __init__(
        self, port: int, bytes_per_second: float, *, cut_every: float | None = None, silent_after: float | None = None
    ) -> None:
        self._to, self.rate, self._cut_every, self._silent = port, bytes_per_second, cut_every, silent_after
        self.up = self.down = self.cuts = 0
        self._free = {"up": 0.0, "down": 0.0}
        self._open: set[asyncio.StreamWriter] = set()
        listening = socket.socket()
        # What lies in buffers counts as sent at one end and is lost with a cut: a line holds little.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        listening.bind(("127.0.0.1", 0))
        self.port = int(listening.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(listening,), daemon=True)
        self._thread.start()

    def _run(self, listening: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._relay, sock=listening, limit=_BUFFER))
        cutting = self._loop.create_task(self._cut_now_and_then())
        self._loop.run_forever()
        cutting.cancel()
        server.close()
        self._cut()
        rest = asyncio.all_tasks(self._loop)
        for task in rest:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _cut_now_and_then(self) -> None:
        while self._cut_every is not None:
            await asyncio.sleep(self._cut_every)
            self.cuts += 1
            self._cut()

    def _cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to, limit=_BUFFER)
        except OSError:
            writer.transport.abort()
            return
        both = (writer, far_writer)
        self._open.update(both)
        try:
            await asyncio.gather(
                self._pass_on(reader, far_writer, "up"),
                self._pass_on(far_reader, writer, "down"),
            )
        except (TimeoutError, OSError):
            pass
        finally:
            for end in both:
                self._open.discard(end)
                end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        while data := await asyncio.wait_for(reader.read(_PIECE), self._silent):
            # A byte takes its time on the line, one after the other.
            begun = max(time.monotonic(), self._free[way])
            self._free[way] = begun + len(data) / self.rate
            await asyncio.sleep(self._free[way] - time.monotonic())
            setattr(self, way, getattr(self, way) + len(data))
            writer.write(data)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof() if writer.can_write_eof() else None

    def cut(self) -> None:
        """Break all connections now."""
        self._loop.call_soon_threadsafe(self._cut)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
