"""A cohort out of a database: an OMOP CDM of a made hospital, as Parquet and in a PostgreSQL of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.approval.register import in_force, record
from client.cohort.table import CohortTable, usable_table
from client.operator.cli import app
from client.site.settings import load_site
from ecgshared.errors import CohortError, ConfigError, EcgFedError
from simulations.hospitals.make import make_hospitals
from simulations.hospitals.omop import make_cdm, write_folder, write_postgres
from simulations.patients.scenario import load_scenario


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a made hospital."""
    out = tmp_path_factory.mktemp("omop")
    make_hospitals(load_scenario("demo"), out, seed=3, patients_scale=0.03)
    return out / "sites" / "north"


@pytest.fixture(scope="module")
def cdm(north: Path) -> Path:
    folder = north / "cdm"
    write_folder(make_cdm(north / "site.yaml"), folder)
    return folder


def _init(north: Path, database: str, schema: str, out: Path, *more: str) -> None:
    arguments = ["init", "--folder", str(north / "records"), "--database", database, "--set", f"schema={schema}"]
    done = CliRunner().invoke(app, [*arguments, "--site", "north", "--out", str(out), *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def _require_same(drawn: CohortTable, table: CohortTable) -> None:
    """The cohort drawn must say of every ECG what the hospital's own table says."""
    order, own = np.argsort(drawn.file), np.argsort(table.file)
    assert [drawn.file[i] for i in order] == [table.file[i] for i in own]
    for name in ("sex", "death_cause"):
        assert list(drawn.columns[name][order]) == list(table.columns[name][own]), name
    for name in ("lvef", "bmi"):
        np.testing.assert_allclose(drawn.columns[name][order], table.columns[name][own], rtol=1e-12)
    for name in ("recorded_at", "death_date", "admission_time", "vfvt_date", "mi_date", "icd_date", "data_end"):
        left, right = drawn.columns[name][order], table.columns[name][own]
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right, err_msg=name)
    # Birth dates are days; the table's ages are whole years.
    np.testing.assert_allclose(drawn.columns["age"][order], table.columns["age"][own], atol=1.0)
    for name in ("heart_failure", "diabetes", "hypertension", "previous_mi"):
        known = ~np.isnan(table.columns[name][own])
        np.testing.assert_array_equal(drawn.columns[name][order][known], table.columns[name][own][known], err_msg=name)
    # The same ECGs belong to one person, under other names.
    mine, theirs = (t.ids["patient_id"].texts()[o] for t, o in ((drawn, order), (table, own)))
    assert len(set(zip(mine, theirs, strict=True))) == len(set(mine)) == len(set(theirs))


def test_a_cohort_out_of_parquet_says_what_the_table_says(north: Path, cdm: Path, tmp_path: Path) -> None:
    _init(north, str(cdm), "main", tmp_path / "site.yaml")
    settings = load_site(tmp_path / "site.yaml")
    assert settings.table.query is not None
    assert set(settings.table.columns) >= {"icd_date", "vfvt_date", "lvef"}
    _require_same(usable_table(settings), usable_table(load_site(north / "site.yaml")))


def test_what_is_frozen_is_what_is_used(north: Path, cdm: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    _init(north, str(cdm), "main", site)
    settings = load_site(site)
    path = settings.table.path
    before, note = path.read_bytes(), path.with_name(path.name + ".frozen.json")
    assert json.loads(note.read_text())["rows"] == len(usable_table(settings))
    path.write_bytes(before[:-8] + b"x" * 8)
    with pytest.raises(CohortError, match="changed since it was drawn"):
        usable_table(settings)
    path.write_bytes(before)
    note.unlink()
    with pytest.raises(CohortError, match="was not drawn"):
        usable_table(settings)
    # Another query than the one that was frozen.
    own = tmp_path / "mine.sql"
    own.write_text(CliRunner().invoke(app, ["cohort", "--show-sql", "omop-scd"]).output + "-- changed\n")
    assert CliRunner().invoke(app, ["cohort", str(site)]).exit_code == 0
    site.write_text(site.read_text().replace("sql: omop-scd", "sql: mine.sql"))
    with pytest.raises(CohortError, match="frozen by another query"):
        usable_table(load_site(site))


def test_another_cohort_is_another_question(north: Path, cdm: Path, tmp_path: Path) -> None:
    site, moving = tmp_path / "site.yaml", tmp_path / "cdm"
    shutil.copytree(cdm, moving)
    _init(north, str(moving), "main", site)
    settings = load_site(site)
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    record(settings.state, "study", "a" * 64, "first")
    record(settings.state, "study", "b" * 64, "elsewhere", federation="north")
    same = CliRunner().invoke(app, ["cohort", str(site)])
    assert "as it was" in same.output
    assert ("study", "a" * 64) in in_force(settings.state)
    import pandas as pd

    file = moving / "waveform_registry.parquet"
    table = pd.read_parquet(file)
    table.iloc[1:].to_parquet(file, index=False)
    refused = CliRunner().invoke(app, ["cohort", str(site)], input="n\n")
    assert refused.exit_code != 0
    assert ("study", "a" * 64) in in_force(settings.state)
    changed = CliRunner().invoke(app, ["cohort", str(site), "--yes"])
    assert "0 row(s) new or changed, 1 gone" in changed.output
    assert "to be approved again: first" in changed.output
    assert "to be approved again: elsewhere" in changed.output
    assert not in_force(settings.state)
    assert not in_force(settings.state, "north")
    assert len(usable_table(load_site(site))) == len(table) - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("database: ", "database: mysql://host/name\n    was: "), "unknown key"),
        (("sql: omop-scd", "sql: nowhere.sql"), "cannot be read"),
        (("schema: main", "scheme: main"), "schema: the SQL has it"),
        (("schema: main", "schema: nobody"), "does not answer"),
        (("schema: main", "schema: main; drop table person"), "parameters"),
        ((".cohort.parquet", ".cohort.csv"), "must end in .parquet"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    north: Path, cdm: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    site = tmp_path / "site.yaml"
    _init(north, str(cdm), "main", site)
    site.write_text(site.read_text().replace(*change))
    done = CliRunner().invoke(app, ["cohort", str(site)])
    assert isinstance(done.exception, EcgFedError)
    assert message in str(done.exception)


@pytest.mark.parametrize("url", ["postgresql://me:secret@db/omop", "postgresql:///omop?user=me&password=secret"])
def test_a_password_is_refused_and_not_repeated(north: Path, cdm: Path, tmp_path: Path, url: str) -> None:
    site = tmp_path / "site.yaml"
    _init(north, str(cdm), "main", site)
    site.write_text(site.read_text().replace(f"database: {cdm}", f"database: {url}"))
    with pytest.raises(ConfigError, match="PGPASSWORD") as caught:
        load_site(site)
    assert "secret" not in str(caught.value)


def test_a_query_that_gives_nothing_or_a_column_twice_is_refused(north: Path, cdm: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    _init(north, str(cdm), "main", site)
    text = site.read_text().replace("schema: main", "").replace("sql: omop-scd", "sql: mine.sql")
    site.write_text(text.replace("parameters:\n", "parameters: {}\n"))
    for sql, message in (
        ("SELECT person_id FROM person WHERE person_id < 0", "no row"),
        ("SELECT person_id AS a, person_id AS a FROM person", "twice"),
        ("SELECT nothing FROM person", "does not answer"),
    ):
        (tmp_path / "mine.sql").write_text(sql)
        done = CliRunner().invoke(app, ["cohort", str(site)])
        assert isinstance(done.exception, CohortError)
        assert message in str(done.exception)


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a database in a PostgreSQL that lives as long as the test, on a socket of its own."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin"), *(Path(p) for p in os.get_exec_path())]
    binaries = next((folder for folder in found if (folder / "initdb").exists()), None)
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    as_root, owner = os.geteuid() == 0, "postgres"
    home = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    if as_root:
        if subprocess.run(["id", owner], capture_output=True).returncode:
            shutil.rmtree(home)
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        shutil.chown(home, owner)
    home.chmod(0o711)

    def run(*command: str) -> None:
        prefix = ["runuser", "-u", owner, "--"] if as_root else []
        subprocess.run([*prefix, str(binaries / command[0]), *command[1:]], cwd=home, check=True, capture_output=True)

    data = str(home / "data")
    run("initdb", "-D", data, "-U", owner, "--auth=trust", "--encoding=UTF8", "--no-sync")
    options = f"-k {home} -c listen_addresses='' -c fsync=off"
    run("pg_ctl", "-D", data, "-o", options, "-l", str(home / "log"), "-w", "start")
    try:
        run("createdb", "-h", str(home), "-U", owner, "hospital")
        yield f"postgresql:///hospital?host={home}&user={owner}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(home)


def test_a_cohort_out_of_postgresql_says_what_the_table_says(north: Path, postgres: str, tmp_path: Path) -> None:
    write_postgres(make_cdm(north / "site.yaml"), postgres, "cdm")
    with pytest.raises(EcgFedError, match="does not take"):
        write_postgres(make_cdm(north / "site.yaml"), postgres, "cdm")
    _init(north, postgres, "cdm", tmp_path / "site.yaml")
    _require_same(usable_table(load_site(tmp_path / "site.yaml")), usable_table(load_site(north / "site.yaml")))
    # Nothing is written there, whatever the SQL says.
    (tmp_path / "mine.sql").write_text("DELETE FROM ${schema}.person RETURNING person_id")
    site = tmp_path / "site.yaml"
    site.write_text(site.read_text().replace("sql: omop-scd", "sql: mine.sql"))
    done = CliRunner().invoke(app, ["cohort", str(site)])
    assert isinstance(done.exception, CohortError)
    assert "read-only" in str(done.exception)
