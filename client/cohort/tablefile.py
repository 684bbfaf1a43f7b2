"""Reading the site's own table, CSV, Excel or Parquet, with the line of every row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.cohort.delimited import read_csv
from client.cohort.frozen import require_frozen
from client.cohort.localtable import (
    Coded,
    LocalTable,
    absent_columns,
    cell_text,
    clean_name,
    kind_of,
    number_text,
)
from client.cohort.workbook import read_workbook
from client.site.table_settings import TableConfig
from ecgshared.errors import CohortError


def read_table(config: TableConfig, wanted: Iterable[str]) -> LocalTable:
    """Read the ``wanted`` local columns of the site's table.

    Raises
    ------
    CohortError : naming everything that stands in the way: the file, absent columns, lines of a wrong length; or a
        table that a query makes is not the one that was frozen.
    """
    require_frozen(config)
    names = sorted(set(wanted))
    kind = kind_of(config.path)
    if kind == "parquet":
        return _read_parquet(config.path, names)
    if kind == "workbook":
        return read_workbook(config, names)
    return read_csv(config, names)


def _read_parquet(path: Path, names: list[str]) -> LocalTable:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        header = list(file.schema_arrow.names)
        absent_columns(names, header, str(path))
        stored = {clean_name(name): name for name in header}
        coders: list[dict[str, int]] = [{} for _ in names]
        parts: list[list[NDArray[np.int32]]] = [[] for _ in names]
        total = 0
        for batch in file.iter_batches(columns=[stored[clean_name(name)] for name in names]):
            total += batch.num_rows
            for name, coder, part in zip(names, coders, parts, strict=True):
                encoded = batch.column(stored[clean_name(name)])
                if not pyarrow.types.is_dictionary(encoded.type):
                    encoded = encoded.dictionary_encode()
                local = [coder.setdefault(text, len(coder)) for text in parquet_texts(encoded.dictionary)]
                blank = coder.setdefault("", len(coder))
                picked = encoded.indices.fill_null(len(local)).to_numpy(zero_copy_only=False)
                part.append(np.asarray([*local, blank], dtype=np.int32)[picked])
    except CohortError:
        raise
    except Exception as error:
        # A damaged file trips the decoder anywhere: in its footer, in a page, in a text that is none.
        raise CohortError(
            f"is not readable Parquet ({type(error).__name__})", where=path, remedy="export it again"
        ) from None
    columns = {
        name: Coded(np.concatenate([np.zeros(0, np.int32), *part]), tuple(coder))
        for name, coder, part in zip(names, coders, parts, strict=True)
    }
    return LocalTable(path, columns, np.arange(1, total + 1, dtype=np.int64), 0, "parquet")


def parquet_texts(values: object) -> Iterator[str]:
    """Give the texts of an Arrow array, "" where it has none."""
    for value in values.to_pylist():  # type: ignore[attr-defined]
        if isinstance(value, bool):
            yield str(int(value))
        elif isinstance(value, datetime | date):
            yield value.isoformat()
        elif isinstance(value, float):
            yield number_text(value)
        elif isinstance(value, bytes):
            yield cell_text(value.decode("utf-8", errors="replace"))
        else:
            yield cell_text(str(value))
