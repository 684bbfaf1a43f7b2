"""A made hospital's table as FHIR R4: a Bundle of patients, and NDJSON of what befell them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ecgshared.errors import RunError
from simulations.hospitals.omop import Cdm, make_cdm

_ICD = "http://hl7.org/fhir/sid/icd-10"
_SNOMED = "http://snomed.info/sct"
_LOINC = "http://loinc.org"
# As hospitals code: a narrower ICD code than the one asked for, or SNOMED CT.
_CODES = {
    "ecg": (_LOINC, "11524-6"),
    "vf": (_ICD, "I49.0"),
    "vt": (_ICD, "I47.20"),
    "mi": (_ICD, "I21.4"),
    "old_mi": (_SNOMED, "1755008"),
    "heart_failure": (_ICD, "I50.1"),
    "diabetes": (_ICD, "E11.9"),
    "hypertension": (_SNOMED, "38341003"),
    "defibrillator": ("http://www.ama-assn.org/go/cpt", "33249"),
    "lvef": (_LOINC, "10230-1"),
    "bmi": (_LOINC, "39156-5"),
    "cause": (_LOINC, "79378-6"),
}
_UNITS = {"lvef": "%", "bmi": "kg/m2"}


def write_bundles(site_file: Path, folder: Path) -> dict[str, int]:
    """Write a made hospital's resources; return how many of each kind.

    Raises
    ------
    RunError : the folder is not empty. CohortError, ConfigError : as :func:`simulations.hospitals.omop.make_cdm`.
    """
    if folder.exists() and any(folder.iterdir()):
        raise RunError("the folder is not empty", where=folder, remedy="choose another one")
    made = resources(make_cdm(site_file))
    folder.mkdir(parents=True, exist_ok=True)
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in made.pop("Patient")]}
    (folder / "patients.json").write_text(json.dumps(bundle), encoding="utf-8")
    counts = {"Patient": len(bundle["entry"])}
    for kind, found in made.items():
        lines = "".join(json.dumps(one) + "\n" for one in found)
        (folder / f"{kind}.ndjson").write_text(lines, encoding="utf-8")
        counts[kind] = len(found)
    return counts


def resources(cdm: Cdm) -> dict[str, list[dict[str, Any]]]:
    """Return the resources of a CDM's tables by kind."""
    concepts = {int(row.concept_id): str(row.concept_name) for row in _rows(cdm, "concept")}
    named = {number: name.removeprefix("a kind of ") for number, name in concepts.items()}
    return {
        "Patient": list(_patients(cdm)),
        "Encounter": list(_encounters(cdm, named)),
        "Condition": [
            {**_head("Condition", row.condition_occurrence_id, row), **_coded(named[row.condition_concept_id]),
             "onsetDateTime": _time(row.condition_start_datetime)}
            for row in _rows(cdm, "condition_occurrence")
        ],
        "Procedure": [
            {**_head("Procedure", row.procedure_occurrence_id, row), **_coded(named[row.procedure_concept_id]),
             "status": "completed", "performedDateTime": _time(row.procedure_datetime)}
            for row in _rows(cdm, "procedure_occurrence")
        ],
        "Observation": list(_observations(cdm, named)),
    }  # fmt: skip


def _patients(cdm: Cdm) -> Iterator[dict[str, Any]]:
    dead = {row.person_id: row.death_datetime for row in _rows(cdm, "death")}
    for row in _rows(cdm, "person"):
        gender = {8532: "female", 8507: "male"}.get(row.gender_concept_id, "unknown")
        told = {"resourceType": "Patient", "id": f"p{row.person_id}", "gender": gender}
        told["birthDate"] = f"{row.birth_datetime:%Y-%m-%d}"
        if row.person_id in dead:
            told["deceasedDateTime"] = _time(dead[row.person_id])
        yield told


def _encounters(cdm: Cdm, named: dict[int, str]) -> Iterator[dict[str, Any]]:
    classes = {"inpatient": "IMP", "outpatient": "AMB"}
    system = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
    for row in _rows(cdm, "visit_occurrence"):
        yield {
            **_head("Encounter", row.visit_occurrence_id, row),
            "status": "finished",
            "class": {"system": system, "code": classes[named[row.visit_concept_id]]},
            "period": {"start": _time(row.visit_start_datetime), "end": _time(row.visit_end_datetime)},
        }


def _observations(cdm: Cdm, named: dict[int, str]) -> Iterator[dict[str, Any]]:
    final = {"status": "final"}
    for row in _rows(cdm, "waveform_registry"):
        yield {
            **_head("Observation", f"ecg{row.waveform_registry_id}", row), **final, **_coded("ecg"),
            "identifier": [{"value": row.waveform_target_file_uri}],
            "effectiveDateTime": _time(row.waveform_file_start_datetime),
        }  # fmt: skip
    for row in _rows(cdm, "measurement"):
        name = named[row.measurement_concept_id]
        value = float(row.value_as_number) * (100 if name == "lvef" else 1)
        yield {
            **_head("Observation", f"m{row.measurement_id}", row), **final, **_coded(name),
            "effectiveDateTime": f"{row.measurement_date:%Y-%m-%d}",
            "valueQuantity": {"value": value, "unit": _UNITS[name], "code": _UNITS[name]},
        }  # fmt: skip
    for row in _rows(cdm, "death"):
        if not pd.isna(row.cause_source_value):
            yield {
                **_head("Observation", f"c{row.person_id}", row), **final, **_coded("cause"),
                "effectiveDateTime": _time(row.death_datetime),
                "valueCodeableConcept": {"coding": [{"system": _ICD, "code": row.cause_source_value}]},
            }  # fmt: skip


def _rows(cdm: Cdm, table: str) -> list[Any]:
    """Return a table's rows, each with its columns as attributes."""
    return list(cdm.tables[table].itertuples())


def _head(kind: str, number: object, row: Any) -> dict[str, Any]:
    return {"resourceType": kind, "id": str(number), "subject": {"reference": f"Patient/p{row.person_id}"}}


def _coded(name: str) -> dict[str, Any]:
    system, code = _CODES[name]
    return {"code": {"coding": [{"system": system, "code": code}]}}


def _time(at: Any) -> str:
    """Return a time as FHIR writes it: with the zone that every time of day must have."""
    return f"{at:%Y-%m-%dT%H:%M:%S}+01:00"
