"""How a site's cohort table is read, as its file says: where it is, its columns, and the query that may make it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ecgshared.config import Config

SHIPPED_SQL = ("omop-scd", "mimic-iv-ecg", "fhir-scd", "samitrop")
"""Queries that come with ecgfed, in client/cohort/sql."""
FHIR = "fhir:"
"""Before a folder of bundles, or the address of a server."""
FHIR_CODES = (
    "http://loinc.org|11524-6",
    "http://loinc.org|34534-8",
    "http://snomed.info/sct|268400002",
    "http://loinc.org|10230-1",
    "http://loinc.org|18043-0",
    "http://loinc.org|39156-5",
    "http://loinc.org|79378-6",
)
"""Of what fhir-scd speaks of: ECGs, ejection fraction, body mass index, cause of death."""


class MatchedLabel(Config):
    """A label that is 1 where a regular expression is found in a local column, 0 where not."""

    column: str = Field(description="column that is searched")
    matches: str = Field(description="regular expression that makes the label 1")

    @field_validator("matches")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return pattern


class DateAndTime(Config):
    """A date whose time of day stands in a local column of its own."""

    date: str = Field(description="column of the day")
    time: str = Field(description="column of the time of day")


class InUnit(Config):
    """A number that a study declares, with the unit it stands in here; ``times`` makes the study's unit of it."""

    column: str = Field(description="local column of the number")
    unit: str = Field(description="of the local values multiplied by `times`: it must be the study's")
    times: float = Field(default=1.0, gt=0, lt=1e12, description="factor from the local values to that unit")


class QueryConfig(Config):
    """A query that makes the cohort table. `ecgfed site cohort` runs it and freezes what it gives at `table.path`."""

    database: str = Field(
        description="postgresql://user@host/name (password in PGPASSWORD or ~/.pgpass), a .duckdb file, or a folder of "
        "CSV and Parquet files, each a table; fhir:FOLDER for FHIR R4 bundles and NDJSON, fhir:https://host/base for a "
        "FHIR server (token in ECGFED_FHIR_TOKEN)"
    )
    sql: str = Field(
        default="omop-scd",
        description=f"a file of SQL, one row per ECG, or a shipped one: {', '.join(SHIPPED_SQL)}",
    )
    codes: tuple[str, ...] = Field(
        default=FHIR_CODES, description="system|code of the observations that a FHIR server is asked for; none: for all"
    )
    parameters: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]*$")]] = Field(
        default={}, description="what ${name} stands for in the SQL: {schema: cdm}"
    )

    @model_validator(mode="after")
    def _without_password(self) -> QueryConfig:
        # Of the whole section, as the message of a key would show its value.
        if re.match(r"^(fhir:)?\w+://[^/@]*:[^/@]*@", self.database) or "password=" in self.database.lower():
            raise ValueError("database holds a password; give it in PGPASSWORD or ~/.pgpass")
        return self


class TableConfig(Config):
    """The cohort table, one row per ECG, and how a row finds its file."""

    path: Path = Field(description="CSV, Excel (.xlsx) or Parquet")
    query: QueryConfig | None = Field(
        default=None, description="the query that `ecgfed site cohort` freezes at `path`, a Parquet file then"
    )
    sheet: str | None = Field(default=None, description="of a workbook; null takes the one that has the columns")
    header: int | None = Field(
        default=None, ge=1, description="line of the column names; null finds it, below title lines where there are any"
    )
    separator: Literal[",", ";", "\t", "|"] | None = Field(
        default=None, description="null takes what `sep=` says, or what splits the header"
    )
    decimal: Literal[".", ","] | None = Field(default=None, description="null reads 0.35 and 0,35")
    encoding: str | None = Field(
        default=None, description="null reads UTF-8, UTF-16 by its mark, and all else as Windows-1252"
    )
    date_format: str | None = Field(
        default=None, description="strptime format of every date; null reads ISO, 31.12.2020, 31-Dec-2020 and the like"
    )
    day_first: bool | None = Field(
        default=None,
        description="whether 03/04/2020 is the third of April; null decides by the column's other dates (31/12/2020), "
        "and refuses what they leave open",
    )
    unreadable: Literal["stop", "unknown"] = Field(
        default="stop", description="a value that cannot be read stops the site, or counts as not known; both are named"
    )
    columns: dict[str, str | DateAndTime] = Field(
        description="standard column: local column; a date with its time in another column: {date: ..., time: ...}"
    )
    declared: dict[str, str | DateAndTime | InUnit] = Field(
        default={},
        description="column that a study declares: local column; a number in a unit of its own: {column, unit, times}",
    )
    labels: dict[str, str | MatchedLabel] = Field(
        default={}, description="name of a 0/1 label: local column of flags, or {column, matches}"
    )
    values: dict[str, dict[str, str]] = Field(
        default={}, description="standard or declared column, or label: {local value: standard value}"
    )
    rows: dict[str, str] = Field(
        default={}, description="local column: value, * and ? allowed; only these rows are its own"
    )
    join: str = Field(
        default="{file}",
        description="a row's file below the records folder, from local columns in braces: 'wfdb/{ExamID}'; "
        "'**/{ExamID}' looks for the name in every folder",
    )
