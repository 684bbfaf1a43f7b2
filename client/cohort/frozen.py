"""A cohort that a query made, frozen: a Parquet file with a note of its hash, its query, and how many it counts.

A study is approved for the people of one table. A database changes by the hour; so nothing reads it but
``ecgfed site cohort``, and a table that is not what was frozen is not used.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.cohort.query import run_query, statement
from client.site.table_settings import QueryConfig, TableConfig
from ecgshared.errors import CohortError
from ecgshared.service.files import now, write_atomically


@dataclass(frozen=True)
class Frozen:
    """What was frozen.

    Attributes
    ----------
    sha256 : of the table's bytes. query_sha256 : of the SQL as it was run.
    rows : of the table. columns : of it, by name. at : when, UTC.
    """

    sha256: str
    query_sha256: str
    rows: int
    columns: tuple[str, ...]
    at: str


@dataclass(frozen=True)
class Change:
    """How a cohort differs from the one frozen before, in rows."""

    added: int
    gone: int
    same: bool


def note_path(table: Path) -> Path:
    """Return where the note of a frozen table lies."""
    return table.with_name(table.name + ".frozen.json")


def draw(config: QueryConfig, said: Callable[[str], None] = lambda _: None) -> bytes:
    """Run the query and return its rows as Parquet: the same rows give the same bytes. ``said``: as of the query.

    Raises
    ------
    ConfigError, CohortError : as :func:`client.cohort.query.run_query`.
    """
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(run_query(config, said).replace_schema_metadata(None), sink, compression="zstd")
    return sink.getvalue()


def compare(path: Path, content: bytes) -> Change | None:
    """Tell how a cohort drawn now differs from what lies at ``path``; None where nothing does.

    A row counts as another one where any of its cells is.
    """
    if not path.exists():
        return None
    try:
        before = _rows(path.read_bytes())
    except Exception:  # what lies there is no table: everything is new
        before = []
    after = _rows(content)
    kept = set(before) & set(after)
    return Change(added=len(after) - len(kept), gone=len(before) - len(kept), same=sorted(before) == sorted(after))


def freeze(config: TableConfig, content: bytes) -> Frozen:
    """Put a drawn cohort at ``table.path``, and beside it the note that it is to be used."""
    import pyarrow.parquet

    assert config.query is not None
    schema = pyarrow.parquet.ParquetFile(io.BytesIO(content))
    frozen = Frozen(
        hashlib.sha256(content).hexdigest(),
        hashlib.sha256(statement(config.query).encode()).hexdigest(),
        schema.metadata.num_rows,
        tuple(schema.schema_arrow.names),
        now(),
    )
    config.path.parent.mkdir(parents=True, exist_ok=True)
    # The table first: where the machine stops between the two, the old note refuses the new table.
    write_atomically(config.path, content, private=True)
    write_atomically(note_path(config.path), (json.dumps(vars(frozen), indent=2) + "\n").encode(), private=True)
    return frozen


def require_frozen(config: TableConfig) -> None:
    """Raise :class:`CohortError` unless the table is the one that was frozen by the query the site file has."""
    if config.query is None:
        return
    remedy = "ecgfed site cohort SITE.yaml freezes it"
    path = note_path(config.path)
    if not config.path.exists() or not path.exists():
        raise CohortError("the cohort was not drawn from the database yet", where=config.path, remedy=remedy)
    try:
        note: dict[str, Any] = json.loads(path.read_bytes())
        table, query = str(note["sha256"]), str(note["query_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CohortError("the note of the frozen cohort is damaged", where=path, remedy=remedy) from None
    if hashlib.sha256(config.path.read_bytes()).hexdigest() != table:
        raise CohortError("the frozen cohort was changed since it was drawn", where=config.path, remedy=remedy)
    if hashlib.sha256(statement(config.query).encode()).hexdigest() != query:
        raise CohortError("was frozen by another query than the site file has now", where=config.path, remedy=remedy)


def _rows(content: bytes) -> list[tuple[str, ...]]:
    """Return every row as texts, numbered where it stands more than once, so that sets of rows can be compared."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(content))
    seen: dict[tuple[str, ...], int] = {}
    found = []
    for row in zip(
        *([name + str(v) for v in table[name].to_pylist()] for name in sorted(table.schema.names)), strict=True
    ):
        seen[row] = seen.get(row, 0) + 1
        found.append((*row, str(seen[row])))
    return found
