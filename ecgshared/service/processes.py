"""Further processes of this one: started apart, deaf to Ctrl-C, and never outliving it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from itertools import islice
from multiprocessing import connection
from multiprocessing.context import SpawnContext, SpawnProcess
from signal import SIG_IGN, SIGINT
from signal import signal as on_signal
from types import ModuleType
from typing import TypeVar

from ecgshared.service.memory import memory_kept

Task = TypeVar("Task")
Done = TypeVar("Done")


def in_processes(work: Callable[[Task], Done], tasks: Iterable[Task], workers: int) -> Iterator[tuple[Task, Done]]:
    """Give each task with what ``work`` made of it, in the order of ``tasks``, computed by ``workers`` processes.

    ``work`` is a function of a module, its argument and result can be pickled. No more tasks are taken than a few a
    worker, so that memory does not grow with their number.
    """
    waiting = iter(tasks)
    # Spawned, not forked: this process may hold threads (torch, gRPC) that a fork would copy half-dead.
    pool = ProcessPoolExecutor(workers, mp_context=_Apart(), initializer=_begin)
    try:
        running: deque[tuple[Task, Future[Done]]] = deque()
        while True:
            running.extend((task, pool.submit(work, task)) for task in islice(waiting, 3 * workers - len(running)))
            if not running:
                return
            task, future = running.popleft()
            yield task, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Process(SpawnProcess):
    """A process that does not run the user's script again: without a ``__main__`` guard it would begin anew in each."""

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class _Apart(SpawnContext):
    Process = _Process


_KEPT = ExitStack()
"""What a process that only works for another holds on to until it ends."""


def _begin() -> None:
    """Leave Ctrl-C to the parent, and end with it, however it ends: a killed one leaves nobody working on."""
    on_signal(SIGINT, SIG_IGN)
    _KEPT.enter_context(memory_kept())
    parent = multiprocessing.parent_process()

    def follow() -> None:
        connection.wait([parent.sentinel] if parent is not None else [])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
