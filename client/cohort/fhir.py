"""FHIR R4 as tables: Bundles and NDJSON in a folder, or a server's search, each resource held to the official model.

What a query may speak of, times without zone, as the hospital's clock showed them:

patient(patient_id, gender, birth_date, birth_year, deceased, died_at)
observation(resource_id, patient_id, system, code, happened_at, value, unit, value_system, value_code, file)
condition, procedure(resource_id, patient_id, system, code, happened_at)
encounter(resource_id, patient_id, class, start_at, end_at)

One row a coding: a resource under two codes stands there twice. ``fhir.resources`` and ``httpx`` are extras
(``pip install 'ecgfed[fhir]'``).
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from ecgshared.errors import CohortError, ConfigError

TOKEN_VARIABLE = "ECGFED_FHIR_TOKEN"
KINDS = ("Patient", "Observation", "Condition", "Procedure", "Encounter")
_ENDINGS = (".json", ".json.gz", ".ndjson", ".ndjson.gz")
_NOT_SO = {"entered-in-error", "refuted", "not-done", "cancelled"}
_PAGE = 500
_MOST_PAGES = 200_000
_TIMEOUT_SECONDS = 120.0
_DATE = re.compile(r"^(\d{4})(?:-(\d{2})(?:-(\d{2})(?:T(\d{2}:\d{2}(?::\d{2})?)[^+Z-]*(?:Z|[+-]\d{2}:\d{2})?)?)?)?$")

COLUMNS: dict[str, dict[str, str]] = {
    "patient": {
        "patient_id": "text", "gender": "text", "birth_date": "time", "birth_year": "number", "deceased": "flag",
        "died_at": "time",
    },
    "observation": {
        "resource_id": "text", "patient_id": "text", "system": "text", "code": "text", "happened_at": "time",
        "value": "number", "unit": "text", "value_system": "text", "value_code": "text", "file": "text",
    },
    "condition": {"resource_id": "text", "patient_id": "text", "system": "text", "code": "text", "happened_at": "time"},
    "procedure": {"resource_id": "text", "patient_id": "text", "system": "text", "code": "text", "happened_at": "time"},
    "encounter": {
        "resource_id": "text", "patient_id": "text", "class": "text", "start_at": "time", "end_at": "time",
    },
}  # fmt: skip


def fhir_tables(source: str, codes: tuple[str, ...], said: Callable[[str], None]) -> dict[str, Any]:
    """Read a folder, a file or a server, and return the tables by name, as ``pyarrow.Table``.

    Parameters
    ----------
    source : what stands behind ``fhir:``.
    codes : of observations, as ``system|code``, that a server is asked for; a folder is read whole.
    said : is told what was counted and what could not be used.

    Raises
    ------
    ConfigError : a library is not installed, or the address is none.
    CohortError : nothing is there, a file or page cannot be read, or a resource is none of FHIR R4.
    """
    try:
        from fhir.resources.R4B import get_fhir_model_class
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed", where="table.query", remedy="pip install 'ecgfed[fhir]'"
        ) from None
    models = {kind: get_fhir_model_class(kind) for kind in KINDS}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}
    seen: set[tuple[str, str]] = set()
    counted: Counter[str] = Counter()
    found = _from_server(source, codes) if "://" in source else _from_files(Path(source))
    for where, resource in found:
        kind = resource.get("resourceType")
        if kind not in models:
            counted[f"of kind {kind}: not read"] += 1
            continue
        _check(models[kind], resource, where)
        key = (kind, str(resource.get("id")))
        if key in seen:
            raise CohortError("a resource stands there twice", where=where, value="/".join(key))
        seen.add(key)
        made = _ROWS[kind](resource)
        if not made:
            counted[f"{kind}: withdrawn, or without patient or code"] += 1
        vague = bool(made) and "happened_at" in made[0] and made[0]["happened_at"] is None
        counted[f"{kind} without a full date"] += vague
        counted["Patient who died at a time that is not told: left out by fhir-scd"] += sum(
            bool(row.get("deceased")) and row["died_at"] is None for row in made
        )
        rows[kind.lower()] += made
    if not rows["patient"]:
        raise CohortError("no Patient was found", where=source, remedy="see table.query.database")
    said("FHIR: " + ", ".join(f"{sum(k == kind for k, _ in seen):,} {kind}" for kind in KINDS))
    for what, n in sorted(counted.items()):
        if n:
            said(f"FHIR: {n:,} {what}")
    return {name: _table(rows[name], columns) for name, columns in COLUMNS.items()}


def _from_files(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.name.lower().endswith(_ENDINGS))
    if not files:
        raise CohortError("there is no Bundle and no NDJSON file", where=path, allowed=", ".join(_ENDINGS))
    for file in files:
        try:
            raw = file.read_bytes()
            text = (gzip.decompress(raw) if file.name.lower().endswith(".gz") else raw).decode("utf-8-sig")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise CohortError(f"the file cannot be read ({type(error).__name__})", where=file) from None
        lines = text.splitlines() if ".ndjson" in file.name.lower() else [text]
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"{file.name}, line {number}" if len(lines) > 1 else file.name
                yield from _resources(_json(line, place), place)


def _from_server(base: str, codes: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Search each kind of resource, page by page. A page's next one must be of the same server: it gets the token."""
    import httpx

    token = os.environ.get(TOKEN_VARIABLE)
    headers = {"Accept": "application/fhir+json", **({"Authorization": f"Bearer {token}"} if token else {})}
    with httpx.Client(headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=False) as client:
        for kind in KINDS:
            asked: dict[str, str | int] = {"_count": _PAGE}
            if kind == "Observation" and codes:
                asked["code"] = ",".join(codes)
            address = str(httpx.URL(f"{base.rstrip('/')}/{kind}", params=asked))
            for page in range(1, _MOST_PAGES + 1):
                bundle = _page(client, address, f"{kind}, page {page}")
                yield from _resources(bundle, f"{kind}, page {page}")
                following = next(
                    (one.get("url") for one in bundle.get("link", []) if one.get("relation") == "next"), None
                )
                if following is None:
                    break
                address = urljoin(address, following)
                if urlsplit(address)[:2] != urlsplit(base)[:2]:
                    raise CohortError("the next page is of another server", where=base, value=urlsplit(address).netloc)


def _page(client: Any, address: str, place: str) -> dict[str, Any]:
    import httpx

    try:
        answer = client.get(address)
    except httpx.HTTPError as error:
        raise CohortError(
            f"the FHIR server cannot be reached ({type(error).__name__})", where=urlsplit(address).netloc
        ) from None
    if answer.status_code != 200:
        raise CohortError(
            "the FHIR server refuses",
            where=f"{urlsplit(address).netloc}: {place}",
            value=answer.status_code,
            remedy=f"a token comes from {TOKEN_VARIABLE}",
        )
    return _json(answer.text, place)


def _json(text: str, place: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("resourceType"), str):
        raise CohortError("is no FHIR resource in JSON", where=place)
    return content


def _resources(content: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if content["resourceType"] != "Bundle":
        yield place, content
        return
    for number, entry in enumerate(content.get("entry") or [], start=1):
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict):
            raise CohortError("an entry of a Bundle holds no resource", where=f"{place}, entry {number}")
        if resource.get("resourceType") != "OperationOutcome":
            yield f"{place}, entry {number}", resource


def _check(model: Any, resource: dict[str, Any], where: str) -> None:
    """Hold a resource to the official model; the fault is named by its key, and no value is repeated."""
    from pydantic import ValidationError

    try:
        model.model_validate(resource)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise CohortError(
            f"is no {resource['resourceType']} of FHIR R4: {'.'.join(map(str, fault['loc']))}: {fault['type']}",
            where=where,
        ) from None


def _patient(r: dict[str, Any]) -> list[dict[str, Any]]:
    born = _DATE.match(r.get("birthDate", ""))
    return [
        {
            "patient_id": r["id"],
            "gender": r.get("gender"),
            "birth_date": _moment(r.get("birthDate")),
            "birth_year": None if born is None else float(born[1]),
            "deceased": bool(r.get("deceasedBoolean") or r.get("deceasedDateTime")),
            "died_at": _moment(r.get("deceasedDateTime")),
        }
    ]


def _observation(r: dict[str, Any]) -> list[dict[str, Any]]:
    quantity = r.get("valueQuantity") or {}
    coded: dict[str, Any] = next(iter((r.get("valueCodeableConcept") or {}).get("coding") or []), {})
    identifier: dict[str, Any] = next(iter(r.get("identifier") or []), {})
    told = {
        "happened_at": _moment(r.get("effectiveDateTime") or (r.get("effectivePeriod") or {}).get("start")),
        "value": None if quantity.get("value") is None else float(quantity["value"]),
        "unit": quantity.get("code") or quantity.get("unit"),
        "value_system": coded.get("system"),
        "value_code": coded.get("code"),
        "file": identifier.get("value"),
    }
    return _coded(r, told)


def _condition(r: dict[str, Any]) -> list[dict[str, Any]]:
    start = r.get("onsetDateTime") or (r.get("onsetPeriod") or {}).get("start")
    status = {one.get("code") for one in (r.get("verificationStatus") or {}).get("coding") or []}
    return [] if status & _NOT_SO else _coded(r, {"happened_at": _moment(start) or _moment(r.get("recordedDate"))})


def _procedure(r: dict[str, Any]) -> list[dict[str, Any]]:
    start = r.get("performedDateTime") or (r.get("performedPeriod") or {}).get("start")
    return _coded(r, {"happened_at": _moment(start)})


def _encounter(r: dict[str, Any]) -> list[dict[str, Any]]:
    patient, period = _subject(r), r.get("period") or {}
    if patient is None or r.get("status") in _NOT_SO:
        return []
    return [
        {
            "resource_id": r["id"],
            "patient_id": patient,
            "class": (r.get("class") or {}).get("code"),
            "start_at": _moment(period.get("start")),
            "end_at": _moment(period.get("end")),
        }
    ]


_ROWS: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]]]] = {
    "Patient": _patient,
    "Observation": _observation,
    "Condition": _condition,
    "Procedure": _procedure,
    "Encounter": _encounter,
}


def _coded(r: dict[str, Any], told: dict[str, Any]) -> list[dict[str, Any]]:
    patient = _subject(r)
    if patient is None or r.get("status") in _NOT_SO:
        return []
    return [
        {"resource_id": r["id"], "patient_id": patient, "system": one.get("system"), "code": one.get("code"), **told}
        for one in (r.get("code") or {}).get("coding") or []
        if one.get("code")
    ]


def _subject(r: dict[str, Any]) -> str | None:
    """Return the id of the patient that a resource is of: ``Patient/7``, or the end of an address."""
    reference = str((r.get("subject") or {}).get("reference") or "")
    head, _, identifier = reference.rpartition("/")
    return identifier if identifier and head.endswith("Patient") else None


def _moment(text: str | None) -> Any:
    """Return a full date, or date and time, by the hospital's clock; None where it is only a year or month."""
    from datetime import datetime

    found = _DATE.match(text or "")
    if found is None or found[3] is None:
        return None
    clock = found[4] or "00:00"
    try:
        return datetime.fromisoformat(f"{found[1]}-{found[2]}-{found[3]}T{clock}")
    except ValueError:
        return None


def _table(rows: list[dict[str, Any]], columns: dict[str, str]) -> Any:
    import pyarrow

    kinds = {
        "text": pyarrow.string(), "time": pyarrow.timestamp("s"), "number": pyarrow.float64(), "flag": pyarrow.bool_(),
    }  # fmt: skip
    return pyarrow.table(
        {name: pyarrow.array([r.get(name) for r in rows], kinds[kind]) for name, kind in columns.items()}
    )
