"""A site file from folder and table, the lists of words, and a check that tries what it says is well."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import vendor_exports as exports
import yaml
from hospital import make_hospital, make_study, write_recording
from typer.testing import CliRunner

from client.cohort.recordings import find_recordings, match, named
from client.operator.check import check_site
from client.operator.cli import app
from client.operator.headings import meaning_of
from client.site.settings import RecordsConfig, load_site
from ecgshared.ecg.quality import CODES
from ecgshared.study.columns import STANDARD_COLUMNS

HEADINGS = {
    "patient_id": ("Patient ID", "MRN", "Patienten-Nr.", "Patientennummer", "Löpnummer", "Personnummer", "N° patient",
                   "IPP", "ID paciente", "NHC", "Pat.-ID", "Hospital No", "CPR-nr.", "Numer pacjenta"),
    "ecg_id": ("ECG ID", "Exam No", "EKG-Nr.", "Undersökning", "N° ECG", "Numero examen"),
    "file": ("File name", "Dateiname", "Filnamn", "Fichier", "Archivo"),
    "recorded_at": ("ECG date", "Acquisition date", "EKG-Datum", "Aufnahmedatum", "Inspelningsdatum", "Date de l'ECG",
                    "Fecha ECG", "Data ECG", "Data do ECG", "Onderzoeksdatum"),
    "age": ("Age", "Alter (Jahre)", "Ålder", "Âge", "Edad"),
    "sex": ("Gender", "Geschlecht", "Kön", "Sexe", "Sexo", "Geschl.", "Sesso", "Geslacht", "Płeć"),
    "birth_date": ("DOB", "Geburtsdatum", "Födelsedatum", "Date de naissance", "Fecha de nacimiento"),
    "death_date": ("Date of death", "Todesdatum", "Dödsdatum", "Date de décès", "Fecha de defunción",
                   "Todestag", "Data decesso", "Overlijdensdatum"),
    "death_cause": ("Cause of death", "cause_icd10",
                    "Todesursache (ICD-10)", "Dödsorsak", "Cause du décès", "Causa de muerte"),
    "lvef": ("LVEF", "EF %", "Auswurffraktion", "Ejektionsfraktion", "FEVG", "FEVI"),
    "heart_failure": ("Heart failure", "Herzinsuffizienz", "Hjärtsvikt", "Insuffisance cardiaque"),
    "vfvt_date": ("vt_vf_date", "FirstVTVF"),
    "icd_date": ("icd_implant_date", "ICD_Datum"),
    "data_end": ("registry_complete_until", "complete_to", "DataThrough"),
    "last_encounter": ("Last visit", "seen_last", "Letzter Kontakt", "Sista kontakt", "Última visita"),
}  # fmt: skip


@pytest.mark.parametrize("column", HEADINGS)
def test_names_of_columns_in_a_dozen_languages(column):
    found = {name: (meaning_of(name) or ("nothing", 0))[0] for name in HEADINGS[column]}
    assert found == dict.fromkeys(HEADINGS[column], column)


@pytest.mark.parametrize("name", ["Bemerkung", "Station", "QRS", "x1", "Fallnummer", "Case ID", "", "%"])
def test_what_is_called_otherwise_is_not_guessed(name):
    assert meaning_of(name) is None


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def guessed(tmp_path, table, name="t.csv", **options):
    (tmp_path / name).write_text(table)
    more = [part for key, value in options.items() for part in (f"--{key}", value)]
    done = run(
        "init", "--folder", tmp_path / "records", "--table", tmp_path / name, "--out", tmp_path / "s.yaml", *more
    )
    assert done.exit_code == 0, done.output
    return done.output, load_site(tmp_path / "s.yaml"), (tmp_path / "s.yaml").read_text()


def test_paths_in_folders_and_numbers_for_sex_learnt_from_the_recordings(tmp_path):
    for i in range(8):
        write_recording(tmp_path / "records" / "2020" / f"r{i}", i, comments=(f"Sex: {'FM'[i % 2]}", "Age: 60"))
    rows = "\n".join(f"p{i // 2},r{i},{i % 2 + 1},60" for i in range(8))
    output, settings, text = guessed(tmp_path, f"Patient,Record,Gender,Age\n{rows}\n", site="oslo")
    assert settings.site == "oslo"
    assert settings.records.pattern == "**/*.hea"
    assert settings.table.join == "2020/{Record}"
    assert settings.table.values == {"sex": {"1": "F", "2": "M"}}
    assert "GUESSED: 6 recordings state the sex themselves, all agree" in text
    assert "ASK" not in output
    found = check_site(tmp_path / "s.yaml")
    assert (found.faults, found.doubts) == ([], [])
    assert "2020/*.hea: 8 recording(s), 8 tried: 8 can be read (wfdb)" in found.notes


def test_a_folder_above_that_of_the_paths_is_told_by_what_lies_between(tmp_path):
    for i in range(8):
        write_recording(tmp_path / "records" / "export" / "2020" / f"r{i}", i)
    rows = "\n".join(f"p{i},2020/r{i},60" for i in range(8))
    _, settings, _ = guessed(tmp_path, f"Patient,File,Age\n{rows}\n", site="oslo")
    assert settings.table.join == "export/{File}"
    assert check_site(tmp_path / "s.yaml").faults == []


def test_what_only_a_person_can_know_is_asked(tmp_path):
    for i in range(8):
        write_recording(tmp_path / "records" / f"r{i}", i)
    rows = "\n".join(f"r{i},{i % 2},0{i % 8 + 1}/09/2020,x" for i in range(8))
    output, settings, _ = guessed(tmp_path, f"File;Sex;ECG date;Ward\n{rows}\n".replace(";", ","))
    assert settings.table.columns == {"sex": "Sex", "recorded_at": "ECG date", "file": "File"}
    asked = [line for line in output.splitlines() if line.startswith("ASK")]
    assert [any(word in line for line in asked) for word in ("values", "day_first", "patient_id")] == [True] * 3
    assert len(asked) == 3
    assert "not used: 'Ward'" in output
    assert len(check_site(tmp_path / "s.yaml").faults) == 3


def test_a_table_that_names_no_recording_still_gives_a_file_to_mend(tmp_path):
    write_recording(tmp_path / "records" / "r0", 0)
    output, settings, _ = guessed(tmp_path, "Patient,Age\n1,60\n2,61\n")
    assert "ASK  table.columns.file, table.join: no column was found that names the recordings" in output
    assert settings.table.columns["file"] == "WHICH COLUMN?"
    assert "no column 'WHICH COLUMN?'" in "\n".join(check_site(tmp_path / "s.yaml").faults)


def test_the_answer_as_json_and_no_file_is_overwritten(tmp_path):
    write_recording(tmp_path / "records" / "r0", 0)
    (tmp_path / "t.csv").write_text("file,patient\nr0,1\n")
    arguments = ("init", "--folder", tmp_path / "records", "--table", tmp_path / "t.csv", "--out", tmp_path / "s.yaml")
    told = json.loads(run(*arguments, "--json").output)
    assert told["given"]["table.columns"] == {"patient_id": "patient", "file": "file"}
    assert "already" in str(run(*arguments).exception)
    assert "nothing to start from" in str(run("init").exception)
    assert "go together" in str(run("init", "--folder", tmp_path).exception)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "folder is empty" in str(
        run(*arguments[:1], "--folder", empty, *arguments[3:-1], tmp_path / "n.yaml").exception
    )
    (empty / "a.txt").write_text("nothing")
    assert "is no recording of a known format" in str(
        run("init", "--folder", empty, *arguments[3:-1], tmp_path / "n.yaml").exception
    )
    assert not (tmp_path / "n.yaml").exists()


def test_columns_codes_and_formats_are_listed(tmp_path):
    text = run("columns").output
    assert all(f"\n{name} " in text for name in ("patient_id", "age", "lvef"))
    listed = json.loads(run("columns", "--json").output)
    assert [row["name"] for row in listed] == list(STANDARD_COLUMNS)
    assert all(row["meaning"] and row["allowed"] for row in listed)
    assert {row["code"] for row in json.loads(run("codes", "--json").output)} == set(CODES)
    assert {row["by default"] for row in json.loads(run("codes", "--json").output)} >= {"flag", "refuse"}
    formats = json.loads(run("formats", "--json").output)
    assert {"wfdb", "muse_xml", "dicom", "scp"} <= {row["format"] for row in formats}
    assert all(row["what"] for row in formats)


# --- several patterns, and names in any folder ------------------------------------------------------------------------


def test_names_in_another_case_find_the_one_file_they_can_mean(tmp_path):
    folder = tmp_path / "ekg"
    for i in range(4):
        write_recording(folder / f"r{i}", 40 + i)
    (folder / "R3.hea").write_bytes((folder / "r3.hea").read_bytes())
    recordings = find_recordings(RecordsConfig(folder=folder, pattern="**/*.hea"))
    wanted = ["R0.HEA", "R1", "**/R2.Hea", "R3", "r3", "R4"]
    found = [recordings.paths[i] if i >= 0 else None for i in match(recordings, wanted).file]
    assert found == ["r0.hea", "r1.hea", "r2.hea", "R3.hea", "r3.hea", None]

    rows = "".join(f"R{i}.HEA,p{i}\n" for i in range(3))
    table = tmp_path / "t.csv"
    table.write_text("file,patient_id\n" + rows)
    done = run("init", "--folder", folder, "--table", table, "--site", "north", "--out", tmp_path / "site.yaml")
    assert "ASK" not in done.output
    for name in ("R0.HEA", "R0.hea", "R0"):  # a listing, and none
        table.write_text("file,patient_id\n" + rows.replace("R0.HEA", name).replace(".HEA", name[2:]))
        done = run("ingest", tmp_path / "site.yaml", "--all")
        assert done.exit_code == 0, done.output
        assert "2 recording(s) read now" in done.output or "read before" in done.output


def test_a_column_that_is_not_what_it_is_called_is_asked_for_and_mixed_orders_are(tmp_path):
    lines = ["file,patient,ECG date,LVEF"]
    for i in range(8):
        write_recording(tmp_path / "ekg" / f"r{i}", 40 + i)
        lines.append(f"r{i},{i},{'16/04' if i == 3 else f'0{i + 1}/1{i}'}/2020,{'good' if i % 2 else 60}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    done = run("init", "--folder", tmp_path / "ekg", "--table", tmp_path / "t.csv", "--out", tmp_path / "site.yaml")
    asked = [line for line in done.output.splitlines() if line.startswith("ASK")]
    assert len(asked) == 2
    assert "table.columns.lvef: is it 'LVEF'?" in done.output
    assert "table.day_first" in done.output
    assert "good" not in done.output
    assert load_site(tmp_path / "site.yaml").table.columns["recorded_at"] == "ECG date"


def test_a_column_of_days_is_no_column_of_names(tmp_path):
    write_recording(tmp_path / "ekg" / "r0", 40)
    write_recording(tmp_path / "ekg" / "r1", 41)
    (tmp_path / "t.csv").write_text("ecg,file,patient\n03.04.2020,r0,1\n04.04.2020,r1,2\n")
    run("init", "--folder", tmp_path / "ekg", "--table", tmp_path / "t.csv", "--out", tmp_path / "site.yaml")
    columns = load_site(tmp_path / "site.yaml").table.columns
    assert "ecg_id" not in dict(columns)


def test_several_patterns_and_names_in_any_folder(tmp_path):
    for name in ("a/x.hea", "a/x.dat", "b/y.xml", "b/z.hea", "c/z.hea", "c/q.XML", "n.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    config = RecordsConfig(folder=tmp_path, pattern=["**/*.hea", "**/*.xml"])
    recordings = find_recordings(config)
    assert recordings.paths == ("a/x.hea", "b/y.xml", "b/z.hea", "c/z.hea")
    wanted = ["**/x", "**/x.hea", "**/y.xml", "**/z", "**/z.hea", "b/z", "**/none", "", "a/x.hea"]
    found = match(recordings, wanted)
    assert found.file.tolist() == [0, 0, 1, -1, -1, 2, -1, -1, 0]
    assert found.ambiguous == ("**/z", "**/z.hea")
    assert named(config, ["a/x.hea", "b/y.xml"])[1].file.tolist() == [0, 1]
    assert named(config, ["a/x"]) is None
    assert named(config, ["**/x.hea"]) is None


# --- what a check tries -----------------------------------------------------------------------------------------------


def rows(n):
    return [
        {"file": f"w{i % 2}/e{i}", "patient_id": f"p{i}", "age": "60", "sex": "F", "outcome": "1"} for i in range(n)
    ]


def test_check_says_what_share_of_each_kind_can_be_read(tmp_path):
    settings = make_hospital(tmp_path, rows(40))
    for i in range(0, 40, 4):
        (settings.records.folder / f"w0/e{i}.hea").write_text("nonsense\n")
    found = check_site(tmp_path / "site.yaml")
    assert found.faults == []
    assert "w1/*.hea: 20 recording(s), 12 tried: 12 can be read (wfdb)" in found.notes
    (doubt,) = found.doubts
    assert doubt.startswith("w0/*.hea: 20 recording(s), 12 tried: ")
    assert 0 < int(doubt.partition("tried: ")[2].split()[0]) < 12
    assert "e.g. w0/e" in doubt
    for path in settings.records.folder.glob("w1/*.hea"):
        path.write_text("nonsense\n")
    (fault,) = check_site(tmp_path / "site.yaml").faults
    assert fault.startswith("w1/*.hea: 20 recording(s), 12 tried: 0 can be read\n  12 x ")
    assert "no recording was tried" in run("check", tmp_path / "site.yaml", "--sample", "0").output


def test_check_says_what_the_quality_rules_would_refuse(tmp_path):
    settings = make_hospital(tmp_path, rows(4))
    for i in range(4):
        write_recording(settings.records.folder / f"w{i % 2}/e{i}", i, seconds=1.0)
    faults = "\n".join(check_site(tmp_path / "site.yaml").faults)
    assert "no recording that was tried is kept by the quality rules" in faults


def test_check_as_json(tmp_path):
    make_hospital(tmp_path, rows(2))
    told = run("check", tmp_path / "site.yaml", "--json")
    assert told.exit_code == 0
    assert json.loads(told.output)["notes"][0] == "rows: 2"


def test_ingest_ends_with_2_where_nothing_can_be_used_and_groups_the_reasons(tmp_path):
    settings = make_hospital(tmp_path, rows(6), studies=["study.yaml"])
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(make_study().model_dump(mode="json", exclude_defaults=True)))
    folder = settings.records.folder
    for i in range(3):
        (folder / f"w{i % 2}/e{i}.hea").write_text("nonsense\n")
    write_recording(folder / "w1/e3", 3, seconds=1.0)
    write_recording(folder / "w0/e4", 4, seconds=1.0)
    (folder / "w1/e5.hea").unlink()
    done = run("ingest", tmp_path / "site.yaml")
    assert done.exit_code == 2
    lines = [line.strip() for line in done.output.splitlines()]
    assert any(line.startswith("3 x ") and line.endswith("; e.g. w0/e0.hea") for line in lines)
    assert any(line.startswith("2 x ") and "too-short" in line and line.endswith("; e.g. w0/e4.hea") for line in lines)
    assert "1 x the file is not there; e.g. w1/e5.hea" in lines
    assert "NOTHING can be used" in done.output
    write_recording(folder / "w1/e5", 5)
    assert run("ingest", tmp_path / "site.yaml").exit_code == 0


def test_ingest_of_everything_needs_no_study(tmp_path):
    make_hospital(tmp_path, rows(2))
    assert "or --all" in str(run("ingest", tmp_path / "site.yaml").exception)
    done = run("ingest", tmp_path / "site.yaml", "--all")
    assert done.exit_code == 0, done.output
    assert "2 recording(s) read now" in done.output


def test_exams_of_one_file_are_no_file_without_a_row(tmp_path):
    (tmp_path / "records").mkdir()
    tracings = np.stack([exports.digital_ecg(4096, seed=i).T * 5e-3 for i in range(2)]).astype(np.float32)
    exports.hdf5(Path(tmp_path / "records/exams.hdf5"), tracings, np.array([7, 8]))
    table = [{"file": f"exams.hdf5#{7 + i}", "patient_id": f"p{i}", "age": "60", "sex": "F"} for i in range(2)]
    make_hospital(tmp_path, table, recordings={})
    data = yaml.safe_load((tmp_path / "site.yaml").read_text())
    data["records"]["pattern"] = "**/*.hdf5"
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(data))
    done = run("ingest", tmp_path / "site.yaml", "--all")
    assert "2 recording(s) read now" in done.output
    assert "named by no row" not in done.output
