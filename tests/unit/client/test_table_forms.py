"""Tables as exported: workbooks, `sep=`, titles, dates in every form, lists of codes, values that cannot be read."""

from __future__ import annotations

import re
import zipfile
from datetime import date, datetime, time

import numpy as np
import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_table import site

from client.cohort.cells import parse_flag, parse_icd10
from client.cohort.dates import OPEN_ORDER, SERIAL_ORIGIN, order_of, parse_dates, parse_times
from client.cohort.table import read_cohort_table
from client.operator.check import check_site
from ecgshared.errors import CohortError, ConfigError
from ecgshared.study.deaths import is_cardiac_or_ill_defined


def dates(*texts, day_first=None, **more):
    found, bad = parse_dates(texts, date_format=None, day_first=day_first, **more)
    return [
        None if value != value else str(value)[: 10 if str(value).endswith("T00:00:00") else 16] for value in found
    ], bad


def workbook(path, *rows, title="Sheet", more=()):
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    for name, cells in more:
        sheet = book.create_sheet(name)
        for row in cells:
            sheet.append(row)
    book.save(path)
    return path.read_bytes()


def excel(tmp_path, *rows, more=(), **table):
    return site(tmp_path, workbook(tmp_path / "t.xlsx", *rows, more=more), name="t.xlsx", **table)


# --- dates -----------------------------------------------------------------------------------------------------------


def test_several_forms_in_one_column_are_read_where_none_is_open():
    forms = (
        "2020-03-04",
        "31.12.2020",
        "20201231",
        "31-Dec-2020",
        "31. März 2020",
        "4 mars 2020",
        "31 de enero de 2020",
    )
    assert dates(*forms) == (
        ["2020-03-04", "2020-12-31", "2020-12-31", "2020-12-31", "2020-03-31", "2020-03-04", "2020-01-31"],
        {},
    )
    assert dates("12/31/2020 3:05 PM", "12/31/2020 12:05 am") == (["2020-12-31T15:05", "2020-12-31T00:05"], {})


def test_slashes_and_dashes_mean_what_the_column_says_or_are_refused():
    assert dates("03/04/2020", "31/12/2020") == (["2020-04-03", "2020-12-31"], {})
    assert dates("03/04/2020", "12/31/2020") == (["2020-03-04", "2020-12-31"], {})
    assert dates("04/04/2020") == (["2020-04-04"], {})
    assert dates("03/04/2020", "", "05/06/2020")[1] == {0: OPEN_ORDER, 2: OPEN_ORDER}
    found, bad = dates("03/04/2020", "31/12/2020", "12/31/2020")
    assert found == [None, "2020-12-31", "2020-12-31"]
    assert "31/12/2020 as well as 12/31/2020" in bad[0]
    assert dates("03/04/2020", day_first=False) == (["2020-03-04"], {})
    assert dates("31/12/2020", day_first=False)[1]
    assert dates("03-04-2020", "12-31-2020") == (["2020-03-04", "2020-12-31"], {})
    assert dates("03-04-2020", "31-12-2020") == (["2020-04-03", "2020-12-31"], {})
    assert dates("03-04-2020")[1] == {0: OPEN_ORDER}
    assert dates("03-04-2020", day_first=False) == (["2020-03-04"], {})
    assert dates("03.04.2020") == (["2020-04-03"], {})
    assert (order_of(["01/02/2020"]), order_of(["13/01/2020"]), order_of(["01/13/2020"])) == (None, True, False)


@given(st.datetimes(min_value=datetime(1930, 1, 1), max_value=datetime(2099, 12, 31)))
def test_days_as_a_spreadsheet_counts_them(when):
    when = when.replace(microsecond=0)
    days = (when - SERIAL_ORIGIN).total_seconds() / 86_400
    (found,), bad = parse_dates([f"{days:.6f}"], date_format=None, day_first=None)
    assert not bad
    assert abs((found - np.datetime64(when, "s")).astype(int)) <= 1
    assert parse_dates([f"{days:.6f}".replace(".", ",")], date_format=None, day_first=None)[0] == [found]


def test_what_a_spreadsheet_read_beside_what_it_left_as_text_is_refused():
    assert dates("43833", "2020-12-31", "31.12.2020")[1] == {}
    assert set(dates("43833", "31/12/2020")[1]) == {0}
    assert "exchanged" in dates("43833", "31/12/2020")[1][0]
    assert set(dates("2020-03-04T00:00:00", "31/12/2020", spreadsheet=True)[1]) == {0}
    assert dates("2020-03-04T00:00:00", "31/12/2020")[1] == {}


@pytest.mark.parametrize(
    "text", ["2020", "9999", "100000", "1234567", "31/31/2020", "0/1/2020", "31-Foo-2020", "13:00 PM"]
)
def test_no_date_is_made_up(text):
    assert set(dates(text)[1]) == {0}


def test_times_of_day():
    texts = ("14:05", "14:05:30", "14.05", "1405", "2:05 PM", "0.5", "0,25", "14:05 Uhr", "1899-12-30T08:00:00", "")
    found, bad = parse_times(texts)
    assert not bad
    assert [value.astype(int) for value in found[:-1]] == [
        50700,
        50730,
        50700,
        50700,
        50700,
        43200,
        21600,
        50700,
        28800,
    ]
    assert set(parse_times(["25:00", "noon", "14", "12:60"])[1]) == {0, 1, 2, 3}


def test_a_date_and_a_time_column_are_one_moment(tmp_path):
    columns = {"file": "file", "recorded_at": {"date": "day", "time": "at"}}
    text = "file,day,at\na,2020-01-02,14:05\nb,2020-01-03,\nc,,08:00\nd,2020-01-04 08:00,09:00\n"
    table = read_cohort_table(site(tmp_path, text, columns=columns))
    assert [str(value) for value in table.columns["recorded_at"][:3]] == [
        "2020-01-02T14:05:00",
        "2020-01-03T00:00:00",
        "NaT",
    ]
    assert [fault.render().partition("table.csv")[2] for fault in table.faults] == [
        ":5: recorded_at; allowed: one time of day: day has another than at"
    ]
    with pytest.raises(ConfigError, match="is for dates"):
        site(tmp_path, text, columns={"file": "file", "age": {"date": "day", "time": "at"}})


def test_an_open_order_is_one_fault_of_the_column_with_what_to_set(tmp_path):
    text = "file,at\n" + "".join(f"e{i},0{i % 8 + 1}/09/2020\n" for i in range(20))
    columns = {"file": "file", "recorded_at": "at"}
    (fault,) = read_cohort_table(site(tmp_path, text, columns=columns)).faults
    assert (
        "(20 rows); allowed: a date whose day and month the column tells apart; set table.day_first" in fault.render()
    )
    told = read_cohort_table(site(tmp_path, text, columns=columns, day_first=True))
    assert told.faults == ()
    assert str(told.columns["recorded_at"][0]) == "2020-09-01T00:00:00"


# --- CSV -------------------------------------------------------------------------------------------------------------


def test_sep_titles_windows_1252_and_separators_at_line_ends(tmp_path):
    text = "sep=;\r\nAuszug; vom 1.1.2024\r\n\r\nDatei;Alter;Gerät;Größe\r\na;63,5;Mühle – 2;1;;\r\n;;;\r\nb;;;2\r\n"
    columns = {"file": "Datei", "age": "Alter", "device": "Gerät"}
    table = read_cohort_table(site(tmp_path, text, encoding="cp1252", columns=columns))
    assert table.faults == ()
    assert table.columns["age"][0] == 63.5
    assert table.columns["device"].tolist() == ["Mühle – 2", ""]
    assert table.lines.tolist() == [5, 7]
    assert table.header_line == 4
    with pytest.raises(CohortError, match="line 5: 4 cells, the header has 3"):
        read_cohort_table(site(tmp_path, "x\n\nfile,age,c\na,1,2\nb,1,2,3\n"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "latin-1"])
def test_encodings_by_what_the_bytes_say(tmp_path, encoding):
    text = "file,name\na,Ålder é\n"
    assert read_cohort_table(
        site(tmp_path, text, encoding=encoding, columns={"file": "file", "device": "name"})
    ).columns["device"].tolist() == ["Ålder é"]


def test_a_name_is_found_however_it_is_spaced_or_composed(tmp_path):
    text = "file,A\u030alder  vid\u00a0EKG\na,60\n"
    assert read_cohort_table(site(tmp_path, text, columns={"file": "file", "age": "Ålder vid EKG"})).columns["age"] == [
        60
    ]


def test_the_line_of_the_header_can_be_said(tmp_path):
    text = "file,age\nfile,age\na,60\n"
    assert len(read_cohort_table(site(tmp_path, text, header=2))) == 1
    with pytest.raises(CohortError, match=r"table\.header"):
        read_cohort_table(site(tmp_path, text, header=9))


# --- Excel -----------------------------------------------------------------------------------------------------------


def test_cells_of_a_workbook_are_what_a_person_sees(tmp_path):
    path = tmp_path / "t.xlsx"
    book = openpyxl.Workbook()
    sheet = book.active
    for row in (
        ["Auszug"],
        [],
        ["Datei", "Nr", "Datum", "Zeit", "Alter", "EF", "tot", "Leer"],
        ["a", 12345, date(2020, 3, 4), time(14, 5), 63.5, 0.35, True, None],
        [None] * 8,
        ["b", 12346, datetime(2020, 3, 5, 9, 30), None, 64, "35 %", False, None],
        ["c", 123457000001, 43896, 0.5, None, 55, "WAHR", "#N/A"],
    ):
        sheet.append(row)
    sheet["B4"].number_format = "0000000"
    sheet["F4"].number_format = "0%"
    book.save(path)
    columns = {"file": "Datei", "patient_id": "Nr", "recorded_at": {"date": "Datum", "time": "Zeit"}, "age": "Alter"}
    columns |= {"lvef": "EF", "death_in_hospital": "tot", "device": "Leer"}
    table = read_cohort_table(site(tmp_path, path.read_bytes(), name="t.xlsx", columns=columns, decimal=","))
    assert table.faults == ()
    assert table.ids["patient_id"].texts().tolist() == ["0012345", "12346", "123457000001"]
    assert [str(value) for value in table.columns["recorded_at"]] == [
        "2020-03-04T14:05:00",
        "2020-03-05T09:30:00",
        "2020-03-06T12:00:00",
    ]
    np.testing.assert_array_equal(table.columns["age"], [63.5, 64, np.nan])
    assert table.columns["lvef"].tolist() == [0.35, 0.35, 0.55]
    assert table.columns["death_in_hospital"].tolist() == [1, 0, 1]
    assert table.columns["device"].tolist() == ["", "", ""]
    assert (table.lines.tolist(), table.header_line) == ([4, 6, 7], 3)


def test_more_digits_than_excel_stores_are_no_id(tmp_path):
    columns = {"file": "file", "patient_id": "id"}
    (fault,) = read_cohort_table(excel(tmp_path, ["file", "id"], ["a", 1234567890123456], columns=columns)).faults
    assert "every" not in fault.render()
    assert "an id with all its digits" in fault.render()


def test_dates_that_excel_may_have_exchanged_are_refused(tmp_path):
    columns = {"file": "file", "recorded_at": "at"}
    rows = (["file", "at"], ["a", date(2020, 3, 4)], ["b", "31/12/2020"])
    (fault,) = read_cohort_table(excel(tmp_path, *rows, columns=columns)).faults
    assert "day and month exchanged" in fault.render()


def test_the_sheet_with_the_columns_is_taken_and_two_are_refused(tmp_path):
    rows = (["file", "age"], ["a", 60])
    assert len(read_cohort_table(excel(tmp_path, ["notes"], more=[("list", rows)]))) == 1
    with pytest.raises(CohortError, match="several sheets have the columns"):
        read_cohort_table(excel(tmp_path, *rows, more=[("again", rows)]))
    assert len(read_cohort_table(excel(tmp_path, *rows, more=[("again", [*rows, ["b", 1]])], sheet="again"))) == 2
    with pytest.raises(CohortError, match="no such sheet"):
        read_cohort_table(excel(tmp_path, *rows, sheet="List"))
    with pytest.raises(CohortError, match=r"sheet 'Sheet', line 1[\s\S]*did you mean 'file'"):
        read_cohort_table(excel(tmp_path, *rows, columns={"file": "fille"}))


def test_what_is_no_workbook_says_what_to_do(tmp_path):
    for name, content in (("t.xlsx", b"\xd0\xcf\x11\xe0 an old workbook"), ("t.xls", b"<html><table><tr><td>file")):
        with pytest.raises(CohortError, match=r"save it as \.xlsx"):
            read_cohort_table(site(tmp_path, content, name=name))
    with pytest.raises(CohortError, match=r"no \.xlsx file inside"):
        read_cohort_table(site(tmp_path, b"file,age\n", name="t.xlsx"))
    with pytest.raises(CohortError, match="not a readable Excel workbook"):
        read_cohort_table(site(tmp_path, b"PK\x03\x04 cut", name="t.csv"))
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", b"0" * (300 << 20))
    with pytest.raises(CohortError, match="too large"):
        read_cohort_table(site(tmp_path, (tmp_path / "t.xlsx").read_bytes(), name="t.xlsx"))


# --- values ----------------------------------------------------------------------------------------------------------


def test_booleans_by_language():
    assert {parse_flag(t) for t in ("WAHR", "VRAI", "Verdadero", "vero", "waar", "Sant", "tosi", "Prawda", "SÍ")} == {
        1.0
    }
    assert {parse_flag(t) for t in ("FALSCH", "FAUX", "Falso", "onwaar", "Falskt", "epätosi", "fałsz", "nee")} == {0.0}
    for text in ("+", "-", "x", "maybe", "2"):
        with pytest.raises(ValueError, match="most languages"):
            parse_flag(text)


def test_icd_lists_and_categories():
    given = ("I46.1, R96", "i21.-", "I21.9", "I219", "I46.1;I46.1", "I50.0 G30", "C34.1*", "I21.9G", "I21-")
    want = ["I46.1 R96", "I21", "I21.9", "I219", "I46.1", "I50.0 G30", "C34.1", "I21.9", "I21"]
    assert [parse_icd10(text) for text in given] == want
    american = ["E88.A", "S72.001A", "I21.A1", "I5A"]
    assert [parse_icd10(text) for text in american] == american
    for text in ("I21.9 A", "I21.9V", "I46.- Z", "I46.1, I21 A"):
        with pytest.raises(ValueError, match=r"behind it says (excluded|suspected|past)"):
            parse_icd10(text)
    for text in ("I46.1, heart", "46.1", "I4", "sudden", ","):
        with pytest.raises(ValueError, match="ICD-10"):
            parse_icd10(text)
    verdicts = is_cardiac_or_ill_defined(["I46.1 R96", "C34 G30", "I46.1 C34.1", "i 21.9", ""])
    np.testing.assert_array_equal(verdicts, np.float32([1, 0, np.nan, 1, np.nan]))


def test_causes_that_disagree_are_named(tmp_path):
    text = 'file,cause\na,"I46.1, C34"\nb,"I46.1, R96"\nc,I46.1\n'
    (doubt,) = read_cohort_table(site(tmp_path, text, columns={"file": "file", "death_cause": "cause"})).doubts
    assert "table.csv:2: cause (death_cause): several codes that disagree" in doubt


def test_values_that_cannot_be_read_stop_the_site_or_count_as_not_known(tmp_path):
    text = "file,pid,age,born\na,1,60,1950-01-01\nb,2,sixty,1951-13-01\nc,3,?,1.23E+05\nd,1.23457E+11,61,\n"
    columns = {"file": "file", "patient_id": "pid", "age": "age", "birth_date": "born"}
    assert len(read_cohort_table(site(tmp_path, text, columns=columns)).faults) == 5
    table = read_cohort_table(site(tmp_path, text, columns=columns, unreadable="unknown"))
    assert ["1.23457E+11" in fault.render() for fault in table.faults] == [True]
    assert table.unread == {"age": 2, "birth_date": 2}
    np.testing.assert_array_equal(table.columns["age"], [60, np.nan, np.nan, 61])
    assert len(table.doubts) == 4
    assert any(
        "counts as not known: " in doubt and "table.csv:3: age, found 'sixty'" in doubt for doubt in table.doubts
    )
    assert table.faulty.tolist() == [False, False, False, True]
    doubts = check_site(tmp_path / "site.yaml").doubts
    assert sum("counts as not known" in doubt for doubt in doubts) == 4


def test_sex_beside_the_age(tmp_path):
    text = "file,age,sex\na,63 M,\nb,F/71,F\nc,55 M,F\nd,48,\n"
    table = read_cohort_table(site(tmp_path, text, columns={"file": "file", "age": "age", "sex": "sex"}))
    assert table.faults == ()
    assert table.columns["sex"].tolist() == ["M", "F", "F", ""]
    assert table.columns["age"].tolist() == [63, 71, 55, 48]
    assert [doubt.partition("table.csv")[2] for doubt in table.doubts] == [
        ":4: sex: another than the one beside the age"
    ]


def test_a_quote_that_is_never_closed_is_named_by_its_line(tmp_path):
    with pytest.raises(CohortError, match="a quote that is never closed, in the row of line 3"):
        read_cohort_table(site(tmp_path, 'file,age\na,1\n"b,2\nc,3\n'))


def test_a_table_with_nothing_in_it_says_so(tmp_path):
    settings = site(tmp_path, "file\n")
    for content, words in ((b"", "is empty (0 bytes)"), (b"\xff\xfea\x00", "leave table.encoding out")):
        settings.table.path.write_bytes(content)
        table = settings.table.model_copy(update={"encoding": "utf-8"})
        with pytest.raises(CohortError, match=re.escape(words)):
            read_cohort_table(settings.model_copy(update={"table": table}))
    settings.table.path.unlink()
    settings.table.path.mkdir()
    with pytest.raises(CohortError, match="is a folder, not a table"):
        read_cohort_table(settings)


def test_an_encoding_that_does_not_exist_is_named_with_the_one_that_fits(tmp_path):
    settings = site(tmp_path, "file\n")
    settings.table.path.write_bytes("ä,b\n".encode("utf-16"))
    table = settings.table.model_copy(update={"encoding": "x-utf"})
    with pytest.raises(CohortError, match=r"no encoding's name[\s\S]*'x-utf'[\s\S]*utf-16"):
        read_cohort_table(settings.model_copy(update={"table": table}))
