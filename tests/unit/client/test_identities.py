"""Ids as identities: who is one person, who may be, and whose id a spreadsheet destroyed."""

from __future__ import annotations

import json

import openpyxl
import pytest
import yaml
from hospital import make_hospital, make_study, write_recording
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.cohort.identities import Near, is_damaged, may_have_been, normal_id
from client.cohort.link import link
from client.cohort.notices import look_over
from client.cohort.optout import read_opt_outs
from client.cohort.table import read_cohort_table
from client.dataset.opening import open_site
from client.operator.check import check_site
from client.operator.cli import app
from client.operator.forget import answers_with, find_person, forget_patient
from client.site.keys import load_keys
from client.site.settings import load_site
from ecgshared.errors import CohortError
from ecgshared.study.study import SplitConfig


def rows(*ids):
    return [
        {"file": f"e{i}", "patient_id": name, "age": "60", "sex": "FM"[i % 2], "outcome": str(i % 2)}
        for i, name in enumerate(ids)
    ]


def of_table(settings):
    return link(settings, read_cohort_table(settings), load_keys(settings))


names = st.text(st.sampled_from("0123456789abCD-. /"), min_size=1, max_size=10).map(str.strip).filter(bool)


@given(one=names, other=names)
def test_near_is_mutual_and_never_the_same_id(one, other):
    if one == other:
        return
    assert (other in Near([one]).to(other)) is False
    assert Near([one]).to(other) == ([one] if Near([other]).to(one) else [])


@given(digits=st.text("0123456789", min_size=1, max_size=12), zeros=st.integers(1, 5))
def test_leading_zeros_case_blanks_and_dashes_are_near(digits, zeros):
    assert Near(["0" * zeros + digits]).to(digits) or set(digits) == {"0"}
    for other in (f"AB-{digits}", f"ab {digits}", f"AB_{digits}", f"ab{digits}"):
        assert Near([f"ab-{digits}"]).to(other) or other == f"ab-{digits}"


@pytest.mark.parametrize(
    ("one", "other"), [("1-11", "11-1"), ("12345", "12354"), ("1001", "101"), ("a1", "b1"), ("10", "1")]
)
def test_other_digits_are_other_people(one, other):
    assert Near([one]).to(other) == []


def test_what_a_spreadsheet_rounded_is_damaged():
    assert all(map(is_damaged, ("1.23457E+11", "1,23457E+11", "1.23457e+11", "1E+12", "2.00001E+08")))
    assert not any(map(is_damaged, ("12E5", "1.23", "E+11", "123457000001", "AB-7", "1E5", "12345E+11")))
    assert may_have_been("1.23457E+11", "123457000001")
    assert not may_have_been("1.23457E+11", "123458000001")
    assert (normal_id(" 17.0 "), normal_id("\u200b17"), normal_id("017")) == ("17", "17", "017")


def test_ids_near_one_that_opted_out_stay_out_too_and_all_is_named(tmp_path):
    make_hospital(tmp_path, rows("0012345", "12345", "7", "8", "AB-7", "ab-7"), exclude="opt.txt")
    (tmp_path / "opt.txt").write_text("12345\n123457000001 # moved away\n AB-7 \n\n999\n", encoding="utf-8-sig")
    settings = load_site(tmp_path / "site.yaml")
    found = check_site(tmp_path / "site.yaml")
    assert found.faults == []
    assert "rows opted out: 4" in found.notes
    text = "\n".join(found.doubts)
    for part in (
        "opt.txt:2: '123457000001' is the id of nobody",
        "opt.txt:5: '999' is the id of nobody",
        "opt.txt:1: '12345' is near '0012345' (table.csv:2), which is left out too",
        "opt.txt:3: 'AB-7' is near 'ab-7' (table.csv:7), which is left out too",
        "'0012345' and '12345' count as two patients",
    ):
        assert part in text
    assert of_table(settings).opted_out.tolist() == [True, True, False, False, True, True]
    # What any log may hold says lines, and no id.
    said = "\n".join(look_over(settings))
    assert "2 of 4 ids that opted out are of nobody in the table (lines 2, 5)" in said
    assert not any(name in said for name in ("12345", "AB-7", "999"))
    exact = settings.model_copy(update={"exclude_near": False})
    assert of_table(exact).opted_out.tolist() == [False, True, False, False, True, False]
    (tmp_path / "site.yaml").write_text((tmp_path / "site.yaml").read_text() + "exclude_near: false\n")
    doubts = "\n".join(check_site(tmp_path / "site.yaml").doubts)
    assert "opt.txt:1: '12345' is near '0012345', who stay in" in doubts


def test_a_list_or_a_table_that_holds_nothing_is_told(tmp_path):
    make_hospital(tmp_path, rows("1", "2"), exclude="opt.txt")
    (tmp_path / "opt.txt").write_text("\n")
    assert any("the opt-out list holds no id" in doubt for doubt in check_site(tmp_path / "site.yaml").doubts)
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    assert any("has a header and no row" in fault for fault in check_site(tmp_path / "site.yaml").faults)


def test_ids_in_scientific_notation_are_refused_in_table_and_list(tmp_path):
    make_hospital(tmp_path, rows("1.23457E+11", "1.23457E+11", "12345"), exclude="opt.txt")
    (tmp_path / "opt.txt").write_text("123457000001\n")
    found = check_site(tmp_path / "site.yaml")
    assert len(found.faults) == 1
    assert "table.csv:2,3: patient_id, found '1.23457E+11' (2 rows)" in found.faults[0]
    assert "'123457000001' is the id of nobody in the table; it may be the one that was rounded" in found.doubts[0]
    make_hospital(tmp_path, rows("123457000001", "12345"), exclude="opt.txt")
    (tmp_path / "opt.txt").write_text("12345\n1,23457E+11\n")
    found = check_site(tmp_path / "site.yaml")
    assert found.faults == [f for f in found.faults if "opt.txt:2: patient id, found '1,23457E+11'" in f]
    assert len(found.faults) == 1
    with pytest.raises(CohortError, match=r"1 id\(s\) that a spreadsheet rounded \(line 2\)") as error:
        open_site(load_site(tmp_path / "site.yaml"), make_study())
    assert "1,23457" not in str(error.value)


def test_one_file_for_two_patients_is_a_fault_by_line_and_twice_for_one_is_told(tmp_path):
    table = rows("a", "a", "b", "c", "d", "d")
    for row, file in zip(table, ("e0", "e0", "e2", "e2", "e4", "e5"), strict=True):
        row["file"] = file
    make_hospital(tmp_path, table)
    found = check_site(tmp_path / "site.yaml")
    assert len(found.faults) == 1
    assert "table.csv:4,5: e2.hea: one recording named for several patients" in found.faults[0]
    assert "rows that name a recording again: 2; the first of each counts" in found.notes
    assert "usable as it stands: 4 of 6 rows, of 2 patient(s)" in found.notes
    with pytest.raises(CohortError, match=r"1 recording\(s\) named for several patients[\s\S]*site check"):
        open_site(load_site(tmp_path / "site.yaml"), make_study())


def test_a_missing_folder_a_missing_table_and_missing_ids_are_told_in_one_answer(tmp_path):
    settings = make_hospital(tmp_path, rows("a", "", "c"), exclude="gone.txt", studies=["nowhere.yaml"])
    settings.records.folder.rename(tmp_path / "elsewhere")
    faults = "\n".join(check_site(tmp_path / "site.yaml").faults)
    for part in (
        "nowhere.yaml",
        "records: there is no such folder",
        "table.csv:3: 1 ECGs have no patient id",
        "gone.txt",
    ):
        assert part in faults
    (tmp_path / "table.csv").unlink()
    faults = "\n".join(check_site(tmp_path / "site.yaml").faults)
    for part in ("nowhere.yaml", "no such folder", "no such table", "no such opt-out list"):
        assert part in faults
    text = (tmp_path / "site.yaml").read_text().replace("site: north", "site: North!")
    (tmp_path / "site.yaml").write_text(text)
    faults = "\n".join(check_site(tmp_path / "site.yaml").faults)
    for part in ("site: String should match", "no such folder", "no such table", "no such opt-out list"):
        assert part in faults


# --- forgetting ----------------------------------------------------------------------------------------------------


def forget(folder, *arguments, answer=""):
    return CliRunner().invoke(app, ["forget", str(folder / "site.yaml"), *arguments], input=answer)


def test_an_unknown_id_is_refused_with_those_near_it_and_nothing_is_written(tmp_path):
    settings = make_hospital(tmp_path, rows("0012345", "AB-7"))
    for asked, near in (("12345", "0012345"), ("ab 7", "AB-7")):
        with pytest.raises(CohortError, match=f"near this one: {near}"):
            forget_patient(settings, asked)
    with pytest.raises(CohortError, match=r"nobody has this id[\s\S]*exclude:"):
        forget_patient(settings, "zz")
    with pytest.raises(CohortError, match="rounded this number"):
        forget_patient(settings, "1.23457E+11")
    assert not (settings.state / "opt-out.txt").exists()
    assert forget(tmp_path, "zz", "--yes").exit_code != 0


def test_it_asks_first_and_says_what_it_cannot_undo(tmp_path):
    settings = make_hospital(tmp_path, rows("a", "b"))
    open_site(settings, make_study())
    lines = [
        {"study": "gone", "step": "s", "run": run, "replayed": again}
        for run, again in (("r1", 0), ("r1", 1), ("r2", 0))
    ]
    (settings.state / "releases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = forget(tmp_path, "a", answer="n\n")
    assert asked.exit_code == 1
    assert not (settings.state / "opt-out.txt").exists()
    for part in (
        "a: 1 row(s) of table.csv, 1 ECG(s)",
        "models that were trained",
        "at most 2 of 2 answers, in 2 run(s)",
    ):
        assert part in asked.output
    done = forget(tmp_path, "a", answer="y\n")
    assert done.exit_code == 0
    assert "1 ECG(s) overwritten and removed from 1 cache(s)" in done.output


def test_answers_of_steps_that_never_see_the_persons_split_do_not_count(tmp_path):
    settings = make_hospital(tmp_path, rows(*(f"p{i}" for i in range(40))), studies=["study.yaml"])
    steps = [{"id": "table1", "stage": "describe"}]
    study = make_study(steps=steps, split=SplitConfig(train=0.5, validation=0.0, lockbox=0.5))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json", exclude_defaults=True)))
    line = {"study": study.sha256, "step": "table1", "run": "r", "replayed": False}
    data = open_site(settings, study)
    (settings.state / "releases.jsonl").write_text(json.dumps(line) + "\n")
    table = read_cohort_table(settings)
    counted = [answers_with(settings, find_person(settings, f"p{i}")).at_most for i in range(40)]
    positions = load_keys(settings).split_positions(table.ids["patient_id"].values)
    assert counted == [int(position >= 0.5) for position in positions[:40]]
    assert 0 < sum(counted) < 40
    assert len(data) == 40


def test_who_was_forgotten_stays_out_when_the_next_export_strips_the_zeros(tmp_path):
    settings = make_hospital(tmp_path, rows("0012345", "77"))
    forget_patient(settings, "0012345")
    kept = (settings.state / "opt-out.txt").read_text()
    assert {len(bytes.fromhex(line.removeprefix("~"))) for line in kept.split()} == {16}
    again = make_hospital(tmp_path, rows("12345", "77"))
    assert of_table(again).opted_out.tolist() == [True, False]
    assert of_table(again.model_copy(update={"exclude_near": False})).opted_out.tolist() == [False, False]


# --- table and recording ----------------------------------------------------------------------------------------------


def test_a_table_that_disagrees_with_the_recordings_is_named_by_check_and_ingest(tmp_path):
    table = rows("a", "b", "c", "d")
    table[1]["age"], table[2]["sex"] = "90", "M"
    make_hospital(tmp_path, table, recordings={}, studies=["study.yaml"])
    for i, row in enumerate(table):
        write_recording(tmp_path / "records" / row["file"], i, comments=("Age: 61", f"Sex: {'FM'[i % 2]}"))
    study = make_study().model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    doubts = "\n".join(check_site(tmp_path / "site.yaml").doubts)
    assert "table.csv:4: sex: table and recording differ in 1 of 4 ECGs compared" in doubts
    assert "table.csv:3: age: table and recording differ by more than two years in 1 of 4 ECGs compared" in doubts
    told = CliRunner().invoke(app, ["ingest", str(tmp_path / "site.yaml")])
    assert told.exit_code == 0, told.output
    assert "table.csv:4: sex: table and recording differ" in told.output
    assert "table.csv:3: age: table and recording differ" in told.output


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("withdrawn;patient_id;name\n2020-01-01;7;Curie\n2020-01-02;8;Meitner; Lise\n", [2, 3]),
        ("List of 2024\n\nPatient_ID\tdate\n7\t2020\n8\t2021\n", [4, 5]),
        ('"7"\n"8"\n', [1, 2]),
        ("7,,\n8,,\n", [1, 2]),
    ],
)
def test_the_ids_of_a_list_with_several_columns(tmp_path, text, lines):
    settings = make_hospital(tmp_path, rows("7", "8", "9"), exclude="out.csv")
    (tmp_path / "out.csv").write_text(text)
    assert of_table(settings).opted_out.tolist() == [True, True, False]
    assert list(read_opt_outs(settings).listed.items())[-2:] == [("7", lines[0]), ("8", lines[1])]


@pytest.mark.parametrize("text", ["7, 8\n", "7;2020-01-01\n8;2020-01-02\n", "a\tb\n7\t8\n"])
def test_a_list_of_which_nobody_knows_where_its_ids_are_stops_the_site(tmp_path, text):
    settings = make_hospital(tmp_path, rows("7", "8", "9"), exclude="out.csv")
    (tmp_path / "out.csv").write_text(text)
    with pytest.raises(CohortError, match="several columns"):
        of_table(settings)
    assert any("several columns" in fault for fault in check_site(tmp_path / "site.yaml").faults)


def test_an_opt_out_list_needs_ids_to_know_people_by(tmp_path):
    table = [{key: value for key, value in row.items() if key != "patient_id"} for row in rows("a", "b")]
    make_hospital(tmp_path, table, exclude="out.txt", patient_id_missing="each-ecg-a-patient")
    (tmp_path / "out.txt").write_text("a\n")
    (fault,) = check_site(tmp_path / "site.yaml").faults
    assert "out.txt: 1 people opted out, but table.columns maps no patient_id to know them by" in fault
    with pytest.raises(CohortError, match="maps no patient_id to know them by"):
        open_site(load_site(tmp_path / "site.yaml"), make_study())
    make_hospital(tmp_path, rows("a", "b", ""), exclude="out.txt", patient_id_missing="each-ecg-a-patient")
    (doubt,) = check_site(tmp_path / "site.yaml").doubts
    assert "1 ECGs without a patient id may be of people who opted out" in doubt


def test_one_signal_for_two_patients_is_named(tmp_path):
    make_hospital(tmp_path, rows("a", "b", "c", "c"), recordings={"e0": 0, "e1": 0, "e2": 2, "e3": 2})
    told = CliRunner().invoke(app, ["ingest", str(tmp_path / "site.yaml"), "--all"])
    assert told.exit_code == 0, told.output
    assert "table.csv:2,3: one signal in recordings of several patients, the first counts" in told.output
    assert told.output.count("one signal in") == 1


def test_the_list_of_those_who_opted_out_may_be_a_workbook(tmp_path):
    make_hospital(tmp_path, rows("0012345", "7", "8"), exclude="out.xlsx")
    book = openpyxl.Workbook()
    for cells in (["Patient", "since"], [12345, "2024"], ["8", "2023"]):
        book.active.append(cells)
    book.active["A2"].number_format = "0000000"
    book.save(tmp_path / "out.xlsx")
    assert of_table(load_site(tmp_path / "site.yaml")).opted_out.tolist() == [True, False, True]
    assert check_site(tmp_path / "site.yaml").doubts == []


def test_an_age_that_birth_date_and_date_of_the_ecg_contradict_is_named(tmp_path):
    table = rows("a", "b", "c")
    for row, age in zip(table, ("70", "72.5", ""), strict=True):
        row |= {"age": age, "birth_date": "1950-01-01", "recorded_at": "2020-01-01"}
    settings = make_hospital(tmp_path, table)
    found = read_cohort_table(settings)
    assert found.faults == ()
    assert [doubt.partition("table.csv")[2] for doubt in found.doubts] == [
        ":3: age: more than two years from what birth date and date of the ECG make"
    ]
    assert found.columns["age"].round().tolist() == [70, 72, 70]
