"""``ecgfed site columns``, ``codes`` and ``formats``: what a site file may name, from where it is defined."""

from __future__ import annotations

import json
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="as JSON")]


def columns(
    as_json: AsJson = False,
    anatomy: Annotated[bool, typer.Option("--anatomy", help="also what imaging and a tape measure give")] = False,
) -> None:
    """List the standard columns that `table.columns` maps to, with meaning, unit and allowed values."""
    from ecgshared.study.columns import ANATOMY, STANDARD_COLUMNS

    left_out = set() if anatomy or as_json else {column.name for column in ANATOMY}
    rows = [
        {"name": c.name, "kind": c.kind, "unit": c.unit, "meaning": c.meaning, "allowed": c.allowed}
        for c in STANDARD_COLUMNS.values()
        if c.name not in left_out
    ]
    _show(rows, as_json)
    if left_out:
        typer.echo(f"and {len(left_out)} of anatomy: --anatomy lists them")


def codes(as_json: AsJson = False) -> None:
    """List what can be found wrong with a recording, by code, and what a site does about it unless told otherwise."""
    from client.site.settings import QualityPolicy
    from ecgshared.ecg.quality import CODES

    policy = QualityPolicy()
    _show(
        [{"code": c, "by default": policy.actions.get(c, policy.default), "meaning": m} for c, m in CODES.items()],
        as_json,
    )


def formats(as_json: AsJson = False) -> None:
    """List the formats of recordings that can be read; a file's content tells which it is, not its name."""
    from client.readers import formats as known

    _show(known(), as_json)


def _show(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    for row in [dict(zip(rows[0], rows[0], strict=True)), *rows]:
        typer.echo("  ".join(row[key].ljust(widths[key]) for key in row).rstrip())
