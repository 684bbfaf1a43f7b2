"""How far a long task is: bars in a terminal, plain lines with counts in a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

EVERY_SECONDS = 5.0
"""Least time between two lines of one task in a log; its first and last are always written."""


class Moved(Protocol):
    """Takes how much is done of how much, and what is being done."""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Show it."""


class Bars:
    """A bar for each task, on standard error; where that is no terminal, lines.

    >>> with Bars(console) as bars:                  # doctest: +SKIP
    ...     moved = bars.add("read north")
    ...     moved(120, 800, "0 refused")
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._rich: Progress | None = None
        if self._console.is_terminal:
            self._rich = Progress(
                TextColumn("{task.fields[name]:<12}", markup=False),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}", markup=False),
                console=self._console,
            )

    def __enter__(self) -> Self:
        if self._rich is not None:
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    def add(self, name: str, *, started: bool = True) -> Moved:
        """Add a task; return what moves it. One that is not ``started`` has a bar, whose clock begins when it moves."""
        if self._rich is None:
            return self._lines(name)
        rich = self._rich
        task = rich.add_task("", total=None if started else 1, name=name, start=started)

        def moved(done: int, total: int, text: str = "") -> None:
            rich.start_task(task)
            rich.update(task, completed=done, total=total or None, description=text)

        return moved

    def _lines(self, name: str) -> Moved:
        began = time.monotonic()
        last, shown = -EVERY_SECONDS, ""

        def moved(done: int, total: int, text: str = "") -> None:
            nonlocal last, shown, began
            at = time.monotonic()
            if last < 0:
                began = at
            counts = f"{done:,}/{total:,}" if total else f"{done:,}"
            line = " ".join(part for part in (f"{name:<12}", counts, text) if part)
            if line == shown or (at - last < EVERY_SECONDS and not (total and done >= total)):
                return
            last, shown = at, line
            seconds = f"  {at - began:.0f} s" if at - began >= 1 else ""
            self._console.print(line + seconds, markup=False, highlight=False, soft_wrap=True)

        return moved
