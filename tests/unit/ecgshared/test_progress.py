"""Lines where there is no terminal, bars where there is one."""

from __future__ import annotations

import io

from rich.console import Console

from ecgshared.service import progress
from ecgshared.service.progress import Bars


def test_a_log_has_the_first_and_the_last_line_of_each_task_with_counts() -> None:
    said = io.StringIO()
    with Bars(Console(file=said, force_terminal=False, width=40)) as bars:
        moved = bars.add("read north")
        moved(0, 0, "looking over the table")
        for done in range(1, 901):
            moved(done, 900, "3 refused [bad]")
        bars.add("risk", started=False)(20, 20, "loss 0.31")
    lines = said.getvalue().splitlines()
    assert [line.split() for line in lines] == [
        ["read", "north", "0", "looking", "over", "the", "table"],
        ["read", "north", "900/900", "3", "refused", "[bad]"],
        ["risk", "20/20", "loss", "0.31"],
    ]


def test_a_log_grows_while_the_task_goes_on(monkeypatch) -> None:
    at = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: at[0])
    said = io.StringIO()
    with Bars(Console(file=said)) as bars:
        moved = bars.add("risk")
        for done in range(61):
            moved(done, 61)
            at[0] += 1
    lines = said.getvalue().splitlines()
    assert len(lines) == 13
    assert lines[1].split() == ["risk", "5/61", "5", "s"]


def test_a_terminal_has_a_bar() -> None:
    said = io.StringIO()
    with Bars(Console(file=said, force_terminal=True, width=80)) as bars:
        bars.add("read [north]")(3, 3, "done")
    assert "[north]" in said.getvalue()
    assert "3/3" in said.getvalue()
