"""A cohort table out of a database: one statement of SQL, run read-only, its rows as an Arrow table.

PostgreSQL is reached by ADBC; DuckDB reads its own files and folders of CSV and Parquet. Both are extras
(``pip install 'ecgfed[sql]'``): a hospital that exports its table needs neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from client.site.table_settings import FHIR, SHIPPED_SQL, QueryConfig
from ecgshared.errors import CohortError, ConfigError

_NAME = re.compile(r"\$\{(\w+)\}")


def statement(config: QueryConfig) -> str:
    """Return the SQL with its parameters filled in.

    Raises
    ------
    ConfigError : the file cannot be read, or a parameter is missing or is not in it.
    """
    text = shipped(config.sql) if config.sql in SHIPPED_SQL else _read(Path(config.sql))
    wanted, given = set(_NAME.findall(text)), set(config.parameters)
    if wanted != given:
        faults = [f"{name}: the SQL has it, the site file does not" for name in sorted(wanted - given)]
        faults += [f"{name}: the site file has it, the SQL does not" for name in sorted(given - wanted)]
        raise ConfigError(
            "parameters: " + "; ".join(faults), where="table.query", remedy="give them under table.query.parameters"
        )
    return _NAME.sub(lambda found: config.parameters[found[1]], text)


def shipped(name: str) -> str:
    """Return a query that comes with ecgfed, its ``${parameters}`` open."""
    return (files("client") / "cohort" / "sql" / f"{name.replace('-', '_')}.sql").read_text(encoding="utf-8")


def run_query(config: QueryConfig, said: Callable[[str], None] = lambda _: None) -> Any:
    """Run the query and return a ``pyarrow.Table`` of plain columns.

    ``said`` is told what a source counts beside its rows.

    Raises
    ------
    ConfigError : as :func:`statement`; or the library for this database is not installed.
    CohortError : the database cannot be reached, refuses the SQL, or gives no row, or a column twice.
    """
    sql = statement(config)
    try:
        if config.database.startswith(FHIR):
            table = _fhir(config, sql, said)
        elif re.match(r"^postgres(ql)?://", config.database):
            table = _postgres(config.database, sql)
        elif "://" in config.database:
            raise ConfigError(
                "is no database this reads",
                where="table.query.database",
                value=config.database,
                allowed="postgresql://user@host/name, a .duckdb file, a folder of CSV and Parquet files, fhir:FOLDER, "
                "or fhir:https://host/base",
            )
        else:
            table = _duckdb(Path(config.database), sql)
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed", where="table.query", remedy="pip install 'ecgfed[sql]'"
        ) from None
    return _plain(table, config)


def _postgres(uri: str, sql: str) -> Any:
    import adbc_driver_postgresql.dbapi as postgres

    try:
        with postgres.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            # It holds from the next transaction on.
            connection.commit()
            cursor.execute(sql)
            return cursor.fetch_arrow_table()
    except postgres.Error as error:
        raise _refused(uri, error) from None


def _fhir(config: QueryConfig, sql: str, said: Callable[[str], None]) -> Any:
    import duckdb

    from client.cohort.fhir import fhir_tables

    source = config.database.removeprefix(FHIR)
    if "://" in source and not re.match(r"^https?://", source):
        raise ConfigError("is no address of a FHIR server", where="table.query.database", value=source)
    tables = fhir_tables(source, config.codes, said)
    try:
        with duckdb.connect() as connection:
            for name, table in tables.items():
                connection.register(name, table)
            return connection.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        raise _refused(config.database, error) from None


def _duckdb(path: Path, sql: str) -> Any:
    import duckdb

    try:
        if path.is_dir():
            with duckdb.connect() as connection:
                _views(connection, path)
                return connection.sql(sql).to_arrow_table()
        if not path.is_file():
            raise CohortError("there is no such folder or file", where=path, remedy="see table.query.database")
        with duckdb.connect(str(path), read_only=True) as connection:
            return connection.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        raise _refused(str(path), error) from None


def _views(connection: Any, folder: Path) -> None:
    """Make each CSV and Parquet file of a folder a table of its name, each sub-folder a schema of tables."""
    known: dict[str, Path] = {}
    for file in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        stem, _, ending = file.name.partition(".")
        reader = {"csv": "read_csv", "csv.gz": "read_csv", "parquet": "read_parquet"}.get(ending.lower())
        if reader is None or not file.is_file():
            continue
        schema = "main" if file.parent == folder else file.parent.name
        name = ".".join(f'"{part.lower()}"' for part in (schema, stem))
        if name in known:
            raise CohortError("two files are the same table", where=folder, value=[known[name].name, file.name])
        known[name] = file
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema.lower()}"')
        # A view's file cannot be a parameter of the statement.
        quoted = str(file).replace("'", "''")
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {reader}('{quoted}')")
    if not known:
        raise CohortError("the folder holds no CSV or Parquet file", where=folder)


def _plain(table: Any, config: QueryConfig) -> Any:
    """Return the table with distinct names and storable types; refuse one that is none."""
    import pyarrow

    names = list(table.schema.names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CohortError("the SQL gives a column twice", where=config.sql, value=twice, remedy="name them with AS")
    if table.num_rows == 0:
        raise CohortError("the query gives no row", where=config.sql, remedy="run it in the database's own shell")
    columns = []
    for column in table.columns:
        if isinstance(column.type, pyarrow.BaseExtensionType):
            column = column.cast(column.type.storage_type)
        if pyarrow.types.is_decimal(column.type):
            column = column.cast(pyarrow.float64())
        columns.append(column)
    return pyarrow.table(columns, names=names)


def _refused(where: str, error: Exception) -> CohortError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return CohortError(
        "the database does not answer this query",
        where=where,
        value=" ".join(lines)[:400],
        remedy="the message is the database's own; a password comes from PGPASSWORD or ~/.pgpass",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the SQL cannot be read ({type(error).__name__})",
            where=path,
            allowed=f"a file, or {', '.join(SHIPPED_SQL)}",
        ) from None
