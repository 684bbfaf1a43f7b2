"""A plain table of any result, for a stage that this version cannot lay out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from server.report.sections import Block, Cell, Section, Table, Text

MAX_LISTED = 12


def generic_sections(stage: str, result: dict[str, Any], why: str) -> list[Section]:
    """Return one section: lists of like records as tables of their own, all else as key and value."""
    pairs: list[tuple[str, Cell]] = []
    tables: list[Table] = []
    for key, value in _walk("", result):
        if _is_records(value):
            columns = list(dict.fromkeys(name for record in value for name in record))
            rows = [[_cell(record.get(name)) for name in columns] for record in value]
            tables.append(Table(key, columns, rows))
        else:
            pairs.append((key, _cell(value)))
    blocks: list[Block] = [Text(why)]
    if pairs:
        blocks.append(Table("Values", ("key", "value"), pairs))
    return [Section(f"Result of {stage}", [*blocks, *tables])]


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _walk(f"{path}.{key}" if path else str(key), inner)
    else:
        yield path, value


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(v, dict) and v for v in value)


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list):
        if len(value) > MAX_LISTED or any(isinstance(v, list | dict) for v in value):
            return f"{len(value)} values (in results.json)"
        return ", ".join("withheld" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in value)
    return f"{len(value)} keys (in results.json)" if value else "none"
