"""A made hospital's table as an OMOP CDM 5.4 with the OHDSI Waveform Extension: folders of Parquet, or PostgreSQL.

Only what the cohort of sudden cardiac death needs is filled. The vocabulary is no part of OMOP's licensed one: of each
code that is used one concept of our own (numbers from two thousand million on, as the CDM leaves them to a site), and
one narrower concept below each diagnosis, so that a query that forgets descendants finds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from client.cohort.table import CohortTable, usable_table
from client.site.settings import load_site
from ecgshared.errors import ConfigError, RunError

_OWN = 2_000_000_000
_CODES = {
    "ecg": ("SNOMED", "268400002"),
    "vf": ("SNOMED", "71908006"),
    "vt": ("SNOMED", "25569003"),
    "mi": ("SNOMED", "57054005"),
    "old_mi": ("SNOMED", "1755008"),
    "heart_failure": ("SNOMED", "84114007"),
    "diabetes": ("SNOMED", "73211009"),
    "hypertension": ("SNOMED", "38341003"),
    "defibrillator": ("CPT4", "33249"),
    "lvef": ("LOINC", "10230-1"),
    "bmi": ("LOINC", "39156-5"),
}
_IDS = {name: _OWN + number for number, name in enumerate(_CODES)}
_NARROWER = {name: _OWN + 1_000 + number for number, name in enumerate(_CODES)}
_VISITS = {"inpatient": (9201, "IP"), "outpatient": (9202, "OP")}
_KNOWN_BEFORE = ("heart_failure", "diabetes", "hypertension", "previous_mi")
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Cdm:
    """The tables by name; ``persons`` and ``ecgs`` are how many the CDM holds."""

    tables: dict[str, pd.DataFrame]
    persons: int
    ecgs: int


def make_cdm(site_file: Path) -> Cdm:
    """Turn a made hospital's cohort table into the tables of a CDM.

    Raises
    ------
    CohortError : the site's table has faults.
    ConfigError : it does not tell its patients apart, or has no dates.
    """
    table = usable_table(load_site(site_file))
    absent = [name for name in ("recorded_at", "sex", "age") if name not in table.columns]
    if absent or "patient_id" not in table.ids:
        raise ConfigError(f"the table has no {', '.join([*absent, 'patient_id'])}", where=site_file)
    ecg = _ecgs(table)
    first = (
        ecg.sort_values(["person_id", "recorded_at", "ecg_id"], kind="stable").groupby("person_id", sort=True).first()
    )
    persons = first.reset_index()
    tables = {
        "person": _person(persons),
        "death": _death(persons),
        "visit_occurrence": _visits(ecg, persons),
        "condition_occurrence": _conditions(ecg, persons),
        "procedure_occurrence": _procedures(persons),
        "device_exposure": _frame({}, DEVICE),
        "measurement": _measurements(ecg),
        "cdm_source": _source(persons),
        **_vocabulary(),
        **_waveforms(ecg),
    }
    return Cdm(tables, len(persons), len(ecg))


def write_folder(cdm: Cdm, folder: Path) -> None:
    """Write each table as ``folder/<table>.parquet``."""
    if folder.exists() and any(folder.iterdir()):
        raise RunError("the folder is not empty", where=folder, remedy="choose another one")
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in cdm.tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)


def write_postgres(cdm: Cdm, uri: str, schema: str) -> None:
    """Write every table into a schema of a PostgreSQL database, which must not hold them yet.

    Raises
    ------
    RunError : the database cannot be reached, or holds such tables.
    """
    import adbc_driver_postgresql.dbapi as postgres
    import pyarrow

    try:
        with postgres.connect(uri) as connection:
            with connection.cursor() as cursor:
                cursor.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
                for name, table in cdm.tables.items():
                    arrow = pyarrow.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
                    cursor.adbc_ingest(name, arrow, mode="create", db_schema_name=schema)
            connection.commit()
    except postgres.Error as error:
        raise RunError("the database does not take the tables", where=uri, value=str(error)[:300]) from None


def _ecgs(table: CohortTable) -> pd.DataFrame:
    ids = pd.Series(table.ids["patient_id"].texts(), dtype=str)
    frame = pd.DataFrame(table.columns | {"file": list(table.file)})
    frame["person_id"] = pd.factorize(ids, sort=True)[0] + 1
    frame["ecg_id"] = np.arange(1, len(frame) + 1)
    return frame


def _born(frame: pd.DataFrame) -> pd.Series:
    """Birth dates that give the ages back: of the first ECG, at noon of the day its age says."""
    return (frame["recorded_at"] - pd.to_timedelta(np.round(frame["age"] * 365.25 + 60), unit="D")).dt.floor("D")


def _person(persons: pd.DataFrame) -> pd.DataFrame:
    born = _born(persons)
    gender = persons["sex"].map({"F": 8532, "M": 8507}).fillna(0).astype(np.int64)
    return _frame(
        {
            "person_id": persons["person_id"], "gender_concept_id": gender, "year_of_birth": born.dt.year,
            "month_of_birth": born.dt.month, "day_of_birth": born.dt.day, "birth_datetime": born,
            "person_source_value": "P" + persons["person_id"].astype(str),
        },
        PERSON,
    )  # fmt: skip


def _death(persons: pd.DataFrame) -> pd.DataFrame:
    if "death_date" not in persons:
        return _frame({}, DEATH)
    dead = persons[persons["death_date"].notna()]
    cause = dead["death_cause"] if "death_cause" in dead else pd.Series("", index=dead.index)
    return _frame(
        {
            "person_id": dead["person_id"], "death_date": dead["death_date"], "death_datetime": dead["death_date"],
            "cause_source_value": cause.replace("", None),
        },
        DEATH,
    )  # fmt: skip


def _visits(ecg: pd.DataFrame, persons: pd.DataFrame) -> pd.DataFrame:
    """A visit for each ECG, the stay in which a patient died, and the last contact."""
    parts = [_visit(ecg, ecg["recorded_at"], ecg["recorded_at"], "outpatient")]
    if {"admission_time", "death_date"} <= set(persons):
        died = persons[persons["admission_time"].notna() & persons["death_date"].notna()]
        parts.append(_visit(died, died["admission_time"], died["death_date"], "inpatient"))
    if "last_encounter" in persons:
        seen = persons[persons["last_encounter"].notna()]
        parts.append(_visit(seen, seen["last_encounter"], seen["last_encounter"], "outpatient"))
    visits = pd.concat(parts, ignore_index=True)
    return _frame(_numbered(visits, "visit_occurrence_id"), VISIT)


def _numbered(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    return {name: np.arange(1, len(rows) + 1), **{str(column): rows[column] for column in rows}}


def _visit(rows: pd.DataFrame, start: pd.Series, end: pd.Series, kind: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "person_id": rows["person_id"], "visit_concept_id": _VISITS[kind][0], "visit_start_date": start,
            "visit_start_datetime": start, "visit_end_date": end, "visit_end_datetime": end,
        }
    )  # fmt: skip


def _conditions(ecg: pd.DataFrame, persons: pd.DataFrame) -> pd.DataFrame:
    """Diagnoses by a narrower concept than the one asked for, the way hospitals code them."""
    parts = []
    for column, concept in (("vf_date", "vf"), ("vt_date", "vt"), ("vfvt_date", "vf"), ("mi_date", "mi")):
        if column not in persons or (column == "vfvt_date" and {"vf_date", "vt_date"} & set(persons)):
            continue
        have = ecg[ecg[column].notna()].drop_duplicates(["person_id", column])
        parts.append(_condition(have, have[column], concept))
    for column in _KNOWN_BEFORE:
        if column not in ecg:
            continue
        known = ecg[ecg[column] == 1].sort_values("recorded_at").drop_duplicates("person_id")
        parts.append(_condition(known, known["recorded_at"] - _DAY, {"previous_mi": "old_mi"}.get(column, column)))
    if not parts:
        return _frame({}, CONDITION)
    conditions = pd.concat(parts, ignore_index=True)
    return _frame(_numbered(conditions, "condition_occurrence_id"), CONDITION)


def _condition(rows: pd.DataFrame, at: pd.Series, concept: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "person_id": rows["person_id"], "condition_concept_id": _NARROWER[concept], "condition_start_date": at,
            "condition_start_datetime": at,
        }
    )  # fmt: skip


def _procedures(persons: pd.DataFrame) -> pd.DataFrame:
    if "icd_date" not in persons:
        return _frame({}, PROCEDURE)
    have = persons[persons["icd_date"].notna()]
    return _frame(
        {
            "procedure_occurrence_id": np.arange(1, len(have) + 1), "person_id": have["person_id"],
            "procedure_concept_id": _IDS["defibrillator"], "procedure_date": have["icd_date"],
            "procedure_datetime": have["icd_date"],
        },
        PROCEDURE,
    )  # fmt: skip


def _measurements(ecg: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for name in ("lvef", "bmi"):
        if name in ecg:
            have = ecg[ecg[name].notna()]
            parts.append(
                pd.DataFrame(
                    {
                        "person_id": have["person_id"],
                        "measurement_concept_id": _IDS[name],
                        "measurement_date": have["recorded_at"],
                        "value_as_number": have[name],
                    }
                )
            )
    if not parts:
        return _frame({}, MEASUREMENT)
    rows = pd.concat(parts, ignore_index=True)
    return _frame(_numbered(rows, "measurement_id"), MEASUREMENT)


def _source(persons: pd.DataFrame) -> pd.DataFrame:
    end = persons["data_end"].max() if "data_end" in persons else persons["recorded_at"].max()
    return _frame({"cdm_source_name": ["made by ecgfed"], "cdm_version": ["5.4"], "source_release_date": [end]}, SOURCE)


def _vocabulary() -> dict[str, pd.DataFrame]:
    names = list(_CODES)
    concept = pd.DataFrame(
        {
            "concept_id": [
                *(_IDS[n] for n in names),
                *(_NARROWER[n] for n in names),
                *(v[0] for v in _VISITS.values()),
            ],
            "concept_name": [*names, *(f"a kind of {n}" for n in names), *_VISITS],
            "vocabulary_id": [*(_CODES[n][0] for n in names), *("made" for _ in names), *("Visit" for _ in _VISITS)],
            "concept_code": [*(_CODES[n][1] for n in names), *names, *(v[1] for v in _VISITS.values())],
        }
    )
    ancestor = pd.DataFrame(
        {
            "ancestor_concept_id": [*(_IDS[n] for n in names), *(_IDS[n] for n in names)],
            "descendant_concept_id": [*(_IDS[n] for n in names), *(_NARROWER[n] for n in names)],
        }
    )
    return {"concept": concept, "concept_ancestor": ancestor}


def _waveforms(ecg: pd.DataFrame) -> dict[str, pd.DataFrame]:
    end = ecg["recorded_at"] + np.timedelta64(10, "s")
    ids = {"visit_occurrence_id": ecg["ecg_id"], "waveform_occurrence_id": ecg["ecg_id"], "person_id": ecg["person_id"]}
    occurrence = {
        "waveform_occurrence_concept_id": _IDS["ecg"], "waveform_occurrence_start_datetime": ecg["recorded_at"],
        "waveform_occurrence_end_datetime": end, "num_of_files": 1,
    }  # fmt: skip
    registry = {
        "waveform_registry_id": ecg["ecg_id"], "waveform_file_start_datetime": ecg["recorded_at"],
        "waveform_file_end_datetime": end, "waveform_target_file_uri": ecg["file"],
        "file_extension_source_value": ecg["file"].map(lambda name: Path(name).suffix),
    }  # fmt: skip
    return {
        "waveform_occurrence": _frame(ids | occurrence, OCCURRENCE),
        "waveform_registry": _frame(ids | registry, REGISTRY),
        "waveform_channel_metadata": _frame({}, CHANNEL),
        "waveform_feature": _frame({}, FEATURE),
    }


def _frame(values: dict[str, Any], columns: dict[str, str]) -> pd.DataFrame:
    """Return a table of exactly ``columns``, in the CDM's kinds; what is not given is empty."""
    index = next((v.index for v in values.values() if isinstance(v, pd.Series)), None)
    if index is None:
        index = pd.RangeIndex(max((len(v) for v in values.values() if not isinstance(v, str | int)), default=0))
    frame = pd.DataFrame({name: pd.Series(values.get(name), index=index, dtype=object) for name in columns})
    for name, kind in columns.items():
        column = frame[name].where(frame[name].notna(), None)
        if kind in ("date", "time"):
            column = pd.to_datetime(column).dt.floor("s" if kind == "time" else "D")
        frame[name] = column.astype(_arrow(kind))
    return frame.reset_index(drop=True)


def _columns(text: str) -> dict[str, str]:
    return dict(entry.split(":") for entry in text.split())


def _arrow(kind: str) -> Any:
    import pyarrow

    return pd.ArrowDtype(
        {
            "int": pyarrow.int32(), "float": pyarrow.float64(), "text": pyarrow.string(), "date": pyarrow.date32(),
            "time": pyarrow.timestamp("s"), "flag": pyarrow.bool_(),
        }[kind]
    )  # fmt: skip


PERSON = _columns(
    "person_id:int gender_concept_id:int year_of_birth:int month_of_birth:int day_of_birth:int birth_datetime:time "
    "race_concept_id:int ethnicity_concept_id:int person_source_value:text"
)
DEATH = _columns(
    "person_id:int death_date:date death_datetime:time death_type_concept_id:int cause_concept_id:int "
    "cause_source_value:text cause_source_concept_id:int"
)
VISIT = _columns(
    "visit_occurrence_id:int person_id:int visit_concept_id:int visit_start_date:date visit_start_datetime:time "
    "visit_end_date:date visit_end_datetime:time visit_type_concept_id:int"
)
CONDITION = _columns(
    "condition_occurrence_id:int person_id:int condition_concept_id:int condition_start_date:date "
    "condition_start_datetime:time condition_type_concept_id:int condition_source_concept_id:int"
)
PROCEDURE = _columns(
    "procedure_occurrence_id:int person_id:int procedure_concept_id:int procedure_date:date procedure_datetime:time "
    "procedure_type_concept_id:int procedure_source_concept_id:int"
)
DEVICE = _columns(
    "device_exposure_id:int person_id:int device_concept_id:int device_exposure_start_date:date "
    "device_exposure_start_datetime:time device_type_concept_id:int device_source_concept_id:int"
)
MEASUREMENT = _columns(
    "measurement_id:int person_id:int measurement_concept_id:int measurement_date:date value_as_number:float "
    "measurement_type_concept_id:int measurement_source_concept_id:int unit_source_value:text"
)
SOURCE = _columns("cdm_source_name:text cdm_version:text source_release_date:date")
OCCURRENCE = _columns(
    "waveform_occurrence_id:int waveform_occurrence_concept_id:int person_id:int "
    "waveform_occurrence_start_datetime:time waveform_occurrence_end_datetime:time visit_occurrence_id:int "
    "visit_detail_id:int preceding_waveform_occurrence_id:int waveform_format_concept_id:int "
    "waveform_occurrence_source_value:text num_of_files:int waveform_format_source_value:text"
)
REGISTRY = _columns(
    "waveform_registry_id:int waveform_occurrence_id:int waveform_feature_id:int person_id:int "
    "waveform_file_start_datetime:time waveform_file_end_datetime:time visit_occurrence_id:int visit_detail_id:int "
    "file_extension_concept_id:int file_extension_source_value:text waveform_source_file_uri:text "
    "waveform_target_file_uri:text"
)
CHANNEL = _columns(
    "waveform_channel_metadata_id:int waveform_registry_id:int procedure_occurrence_id:int device_exposure_id:int "
    "waveform_channel_source_value:text channel_concept_id:int metadata_source_value:text metadata_concept_id:int "
    "value_as_number:float value_as_concept_id:int value_as_string:text unit_concept_id:int unit_source_value:text"
)
FEATURE = _columns(
    "waveform_feature_id:int waveform_occurrence_id:int waveform_registry_id:int waveform_channel_metadata_id:int "
    "measurement_id:int observation_id:int algorithm_concept_id:int algorithm_source_value:text "
    "anatomic_site_concept_id:int is_feature_overflow:flag value_as_number:float value_as_concept_id:int "
    "value_as_string:text value_is_a_registry_file:flag unit_concept_id:int unit_source_value:text"
)
