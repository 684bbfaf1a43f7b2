"""A cohort out of FHIR R4: bundles of a made hospital in a folder, and behind a server that pages."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cohort import fhir
from client.cohort.table import usable_table
from client.operator.cli import app
from client.site.settings import load_site
from ecgshared.errors import CohortError, ConfigError, EcgFedError
from simulations.hospitals.fhir import write_bundles
from simulations.hospitals.make import make_hospitals
from simulations.patients.scenario import load_scenario

TOKEN = "s3cret"


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a made hospital."""
    out = tmp_path_factory.mktemp("fhir")
    make_hospitals(load_scenario("demo"), out, seed=3, patients_scale=0.03)
    return out / "sites" / "north"


@pytest.fixture(scope="module")
def bundles(north: Path) -> Path:
    write_bundles(north / "site.yaml", north / "bundles")
    return north / "bundles"


def _end(north: Path) -> str:
    return str(np.datetime_as_string(usable_table(load_site(north / "site.yaml")).columns["data_end"].max(), "D"))


def _init(north: Path, database: str, out: Path) -> str:
    arguments = ["init", "--folder", str(north / "records"), "--database", database, "--site", "north"]
    done = CliRunner().invoke(app, [*arguments, "--set", f"data_end={_end(north)}", "--out", str(out)])
    if done.exception is not None:
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def _require_same(site: Path, north: Path) -> None:
    """The cohort drawn must say of every ECG what the hospital's own table says."""
    drawn, own = usable_table(load_site(site)), usable_table(load_site(north / "site.yaml"))
    left, right = np.argsort(drawn.file), np.argsort(own.file)
    assert [drawn.file[i] for i in left] == [own.file[i] for i in right]
    for name in ("sex", "death_cause"):
        assert list(drawn.columns[name][left]) == list(own.columns[name][right]), name
    for name in ("lvef", "bmi"):
        np.testing.assert_allclose(drawn.columns[name][left], own.columns[name][right], rtol=1e-12)
    for name in ("recorded_at", "death_date", "admission_time", "vfvt_date", "mi_date", "icd_date", "data_end"):
        np.testing.assert_array_equal(drawn.columns[name][left], own.columns[name][right], err_msg=name)
    np.testing.assert_allclose(drawn.columns["age"][left], own.columns["age"][right], atol=1.0)
    for name in ("heart_failure", "diabetes", "hypertension", "previous_mi"):
        known = ~np.isnan(own.columns[name][right])
        np.testing.assert_array_equal(drawn.columns[name][left][known], own.columns[name][right][known], err_msg=name)
    mine, theirs = (t.ids["patient_id"].texts()[o] for t, o in ((drawn, left), (own, right)))
    assert len(set(zip(mine, theirs, strict=True))) == len(set(mine)) == len(set(theirs))


def test_a_cohort_out_of_bundles_says_what_the_table_says(north: Path, bundles: Path, tmp_path: Path) -> None:
    said = _init(north, f"fhir:{bundles}", tmp_path / "site.yaml")
    assert "Patient" in said
    _require_same(tmp_path / "site.yaml", north)
    # Drawn again it is the same, and the site file names the folder and not what was in it.
    again = CliRunner().invoke(app, ["cohort", str(tmp_path / "site.yaml")])
    assert "as it was" in again.output
    assert "fhir-scd" in (tmp_path / "site.yaml").read_text()


class _Server(BaseHTTPRequestHandler):
    """A server of one folder's resources, ten a page."""

    resources: dict[str, list[dict]]
    elsewhere = ""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        kind, asked = address.path.rpartition("/")[2], parse_qs(address.query)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send_error(401)
            return
        start = int(asked.get("start", ["0"])[0])
        codes = asked.get("code", [""])[0].split(",")
        found = [
            one
            for one in self.resources.get(kind, [])
            if codes == [""] or any(f"{c['system']}|{c['code']}" in codes for c in one["code"]["coding"])
        ]
        bundle = {
            "resourceType": "Bundle",
            "type": "searchset",
            "entry": [{"resource": one} for one in found[start : start + 100]],
        }
        if start + 100 < len(found):
            query = f"start={start + 100}" + (f"&code={asked['code'][0]}" if "code" in asked else "")
            bundle["link"] = [{"relation": "next", "url": f"{self.elsewhere}/base/{kind}?{query}"}]
        body = json.dumps(bundle).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(bundles: Path) -> Iterator[tuple[str, type[_Server]]]:
    handler = type("Handler", (_Server,), {"resources": {}, "elsewhere": ""})
    for file in bundles.iterdir():
        lines = file.read_text().splitlines()
        if not lines:
            continue
        content = json.loads(lines[0])
        found = [e["resource"] for e in content["entry"]] if "entry" in content else [json.loads(x) for x in lines]
        handler.resources[found[0]["resourceType"]] = found
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/base", handler
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def test_a_cohort_out_of_a_server_that_pages(
    north: Path, server: tuple[str, type[_Server]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, handler = server
    with pytest.raises(CohortError, match="refuses") as refused:
        _init(north, f"fhir:{address}", tmp_path / "none.yaml")
    assert fhir.TOKEN_VARIABLE in str(refused.value)
    monkeypatch.setenv(fhir.TOKEN_VARIABLE, TOKEN)
    _init(north, f"fhir:{address}", tmp_path / "site.yaml")
    _require_same(tmp_path / "site.yaml", north)
    assert TOKEN not in (tmp_path / "site.yaml").read_text()
    # The token goes to nobody else.
    handler.elsewhere = "http://127.0.0.1:9"
    with pytest.raises(CohortError, match="another server"):
        _init(north, f"fhir:{address}", tmp_path / "other.yaml")


def _patient(**told: object) -> dict:
    return {"resourceType": "Patient", "id": "p1", "gender": "male", "birthDate": "1950-04-01", **told}


def _ecg(**told: object) -> dict:
    return {
        "resourceType": "Observation", "id": "e1", "status": "final", "subject": {"reference": "Patient/p1"},
        "code": {"coding": [{"system": "http://loinc.org", "code": "11524-6"}]},
        "effectiveDateTime": "2020-05-06T07:08:09Z", **told,
    }  # fmt: skip


def _tables(folder: Path, *resources: object) -> tuple[dict, list[str]]:
    folder.mkdir(exist_ok=True)
    (folder / "all.ndjson").write_text("".join(json.dumps(one) + "\n" for one in resources))
    said: list[str] = []
    return fhir.fhir_tables(str(folder), (), said.append), said


def test_times_are_the_hospitals_clock_and_what_is_withdrawn_or_vague_is_counted(tmp_path: Path) -> None:
    tables, said = _tables(
        tmp_path / "in",
        _patient(birthDate="1950", deceasedBoolean=True),
        _ecg(effectiveDateTime="2020-05-06T23:30:00+02:00"),
        _ecg(id="e2", status="entered-in-error"),
        {"resourceType": "Condition", "id": "c1", "subject": {"reference": "https://x/Patient/p1"},
         "code": {"coding": [{"system": "s", "code": "1"}, {"system": "t", "code": "2"}]}, "onsetDateTime": "2019-03"},
        {"resourceType": "Device", "id": "d"},
    )  # fmt: skip
    assert tables["observation"]["happened_at"].to_pylist()[0].isoformat() == "2020-05-06T23:30:00"
    assert tables["observation"].num_rows == 1
    assert tables["patient"].to_pylist()[0]["birth_year"] == 1950
    assert tables["patient"].to_pylist()[0]["birth_date"] is None
    assert tables["condition"]["patient_id"].to_pylist() == ["p1", "p1"]
    words = "\n".join(said)
    assert "1 of kind Device: not read" in words
    assert "1 Observation: withdrawn" in words
    assert "1 Condition without a full date" in words
    assert "1 Patient who died at a time that is not told" in words


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ([_patient(), _ecg(), _ecg()], "twice"),
        ([_patient(gender=7)], "is no Patient of FHIR R4: gender"),
        ([_patient(), {**_ecg(), "status": None}], "is no Observation of FHIR R4"),
        ([_ecg()], "no Patient"),
        (["not a resource"], "no FHIR resource"),
        ([{"resourceType": "Bundle", "type": "collection", "entry": [{}]}], "holds no resource"),
    ],
)
def test_what_is_no_fhir_is_named_without_its_values(tmp_path: Path, resources: list, message: str) -> None:
    with pytest.raises(CohortError, match=message) as caught:
        _tables(tmp_path / "in", *resources)
    assert "1950-04-01" not in str(caught.value)


@pytest.mark.parametrize(
    ("database", "message"),
    [
        ("fhir:nowhere", "there is no Bundle"),
        ("fhir:ftp://host/base", "no address of a FHIR server"),
        ("fhir:https://me:secret@host/base", "holds a password"),
        ("fhir:http://127.0.0.1:9/base", "cannot be reached"),
    ],
)
def test_what_cannot_be_drawn_is_said(north: Path, tmp_path: Path, database: str, message: str) -> None:
    with pytest.raises(EcgFedError, match=message) as caught:
        _init(north, database, tmp_path / "site.yaml")
    assert "secret" not in str(caught.value)


def test_without_the_extra_it_says_what_to_install(
    north: Path, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("fhir.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fhir.resources", None)
    with pytest.raises(ConfigError, match=r"ecgfed\[fhir\]"):
        _init(north, f"fhir:{bundles}", tmp_path / "site.yaml")
