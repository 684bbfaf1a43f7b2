from __future__ import annotations

from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from client.cohort.cells import parse_flag, parse_lvef
from client.cohort.table import read_cohort_table, usable_table
from client.site.settings import load_site
from ecgshared.ecg.person import parse_age, parse_date, parse_sex
from ecgshared.errors import CohortError, ConfigError


def site(folder, text, *, name="table.csv", encoding="utf-8", **table):
    content = text if isinstance(text, bytes) else text.encode(encoding)
    (folder / name).write_bytes(content)
    columns = table.pop("columns", {"file": "file"})
    data = {"site": "north", "records": {"folder": "."}, "table": {"path": name, "columns": columns, **table}}
    (folder / "site.yaml").write_text(yaml.safe_dump(data))
    return load_site(folder / "site.yaml")


def day(text, day_first=True):
    return np.datetime64(parse_date(text, day_first=day_first), "s")


@given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)))
def test_usual_forms_of_a_date_are_one_date(when):
    when = when.replace(microsecond=0)
    midnight, stamp = np.datetime64(when.date(), "s"), np.datetime64(when, "s")
    for form in ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%Y%m%d", "%Y/%m/%d", "%d-%m-%Y"):
        assert day(when.strftime(form)) == midnight
    for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%d.%m.%Y %H:%M:%S", "%Y%m%d%H%M%S", "%d/%m/%Y %H:%M:%S"):
        assert day(when.strftime(form)) == stamp
    assert day(when.strftime("%m/%d/%Y"), day_first=False) == midnight


@pytest.mark.parametrize("text", ["12/31/2020", "31.02.2020", "2020", "yesterday", "44196", "01.02.20", "9999-12-31"])
def test_no_date_is_guessed(text):
    with pytest.raises(ValueError):
        day(text)


def test_ejection_fraction_age_and_flags():
    assert [parse_lvef(text) for text in ("0.35", "0,35", "35", "35 %", "35%", "35.0")] == [0.35] * 6
    assert [parse_age(text).years for text in ("300", ">89", "90+", "64,5", "0")] == [90, 90, 90, 64.5, 0]
    assert [parse_flag(text) for text in ("1", "Ja", "TRUE", "1.0", "0", "nej", "No")] == [1, 1, 1, 1, 0, 0, 0]
    for parse, text in (
        (parse_lvef, "2"),
        (parse_lvef, "135"),
        (parse_age, "131"),
        (parse_age, "-1"),
        (parse_flag, "2"),
    ):
        with pytest.raises(ValueError):
            parse(text)


def test_sex_in_many_spellings():
    assert {parse_sex(text) for text in ("F", "female", "Frau", "kvinna", "Kvinne", "WOMAN", "féminin")} == {"F"}
    assert {parse_sex(text) for text in ("M", "male", "Mann", "man", "Male", "mies", "männlich")} == {"M"}
    assert {parse_sex(text) for text in ("unknown", "divers", "U", "X")} == {None}
    with pytest.raises(ValueError, match="don't say"):
        parse_sex("1")


def test_a_semicolon_table_with_decimal_commas_in_latin_1(tmp_path):
    text = "Datei;Geschlecht;Alter;EF;Gerät;Datum\na;Frau;63,5;35 %;Mühle;31.12.2020\nb;Mann;300;0,6;;\n"
    columns = {"file": "Datei", "sex": "Geschlecht", "age": "Alter", "lvef": "EF", "device": "Gerät"}
    columns["recorded_at"] = "Datum"
    table = read_cohort_table(site(tmp_path, text, encoding="latin-1", columns=columns))
    assert table.faults == ()
    assert table.columns["sex"].tolist() == ["F", "M"]
    assert table.columns["age"].tolist() == [63.5, 90]
    assert table.columns["lvef"].tolist() == [0.35, 0.6]
    assert table.columns["device"].tolist() == ["Mühle", ""]
    assert table.columns["recorded_at"][0] == np.datetime64("2020-12-31")
    assert np.isnat(table.columns["recorded_at"][1])


def test_every_fault_is_told_at_once_with_line_column_value_and_what_is_allowed(tmp_path):
    text = 'file,age,sex,dead,died,at\n"a\nb",old,F,1,2020-01-01,2020-01-01\nc,40,q,maybe,2019-01-01,2020-01-01\n'
    columns = {"file": "file", "age": "age", "sex": "sex", "death_in_hospital": "dead", "death_date": "died"}
    columns["recorded_at"] = "at"
    faults = [fault.render() for fault in read_cohort_table(site(tmp_path, text, columns=columns)).faults]
    assert len(faults) == 4
    assert any("table.csv:3: age, found 'old'; allowed: an age in years" in fault for fault in faults)
    assert any("table.csv:4: sex, found 'q'; allowed: F, M" in fault for fault in faults)
    assert any("table.csv:4: dead (death_in_hospital), found 'maybe'" in fault for fault in faults)
    assert any("table.csv:4: death_date; allowed: a death on or after" in fault for fault in faults)


def test_an_error_that_may_reach_a_log_shows_no_value(tmp_path):
    settings = site(tmp_path, "file,age\nx,seventy\n", columns={"file": "file", "age": "age"})
    with pytest.raises(CohortError, match="site check") as error:
        usable_table(settings)
    assert "seventy" not in str(error.value)


def test_numbers_for_sex_need_a_mapping(tmp_path):
    columns = {"file": "file", "sex": "sex"}
    text = "file,sex\na,0\nb,1\nc,1.0\n"
    (fault,) = read_cohort_table(site(tmp_path, text, columns=columns)).faults
    assert "values: {sex:" in fault.render()
    mapped = read_cohort_table(site(tmp_path, text, columns=columns, values={"sex": {"0": "M", "1": "F"}}))
    assert mapped.columns["sex"].tolist() == ["M", "F", "F"]
    assert mapped.faults == ()


def test_labels_by_flag_and_by_expression_and_rows_by_pattern(tmp_path):
    text = "file,codes,chagas\nno/a,\"{'NORM': 100.0}\",yes\nno/b,\"{'LVH': 1}\",no\nno/c,,\nso/d,{},yes\n"
    labels = {"norm": {"column": "codes", "matches": "'(NORM)':"}, "chagas": "chagas"}
    table = read_cohort_table(site(tmp_path, text, labels=labels, rows={"file": "no/*"}))
    np.testing.assert_array_equal(table.columns["norm"], [1, 0, np.nan])
    np.testing.assert_array_equal(table.columns["chagas"], [1, 0, np.nan])
    assert table.other_files == {"so/d"}
    assert table.lines.tolist() == [2, 3, 4]


def test_parquet_reads_as_the_same_csv(tmp_path):
    columns = {"file": "file", "patient_id": "pid", "age": "age", "recorded_at": "at", "death_in_hospital": "dead"}
    values = {
        "file": ["a", "b", None],
        "pid": [17.0, None, 17.0],
        "age": [63.5, None, 300.0],
        "at": [date(2020, 1, 2), None, date(2021, 1, 1)],
        "dead": [True, None, False],
    }
    pa.parquet.write_table(pa.table(values), tmp_path / "t.parquet")
    raw = (tmp_path / "t.parquet").read_bytes()
    table = read_cohort_table(site(tmp_path, raw, name="t.parquet", columns=columns))
    assert table.faults == ()
    assert table.file == ("a", "b", "")
    assert table.ids["patient_id"].texts().tolist() == ["17", "", "17"]
    np.testing.assert_array_equal(table.columns["age"], [63.5, np.nan, 90])
    np.testing.assert_array_equal(table.columns["death_in_hospital"], [1, np.nan, 0])
    assert table.columns["recorded_at"][2] == np.datetime64("2021-01-01")


def test_what_is_wrong_with_the_file_itself_is_named(tmp_path):
    with pytest.raises(CohortError, match="line 3: 3 cells, the header has 2"):
        read_cohort_table(site(tmp_path, "file,age\na,1\nb,1,5\n"))
    with pytest.raises(CohortError, match="no column 'fille'; did you mean 'file'"):
        read_cohort_table(site(tmp_path, "file,age\na,1\n", columns={"file": "fille"}))
    with pytest.raises(CohortError, match="Parquet"):
        read_cohort_table(site(tmp_path, b"no parquet", name="t.parquet"))
    with pytest.raises(ConfigError, match="did you mean 'recorded_at'"):
        site(tmp_path, "file\na\n", columns={"file": "file", "recorded_on": "x"})


def test_age_comes_from_the_birth_date_which_is_not_kept(tmp_path):
    columns = {"file": "file", "birth_date": "born", "recorded_at": "at"}
    table = read_cohort_table(site(tmp_path, "file,born,at\na,1950-01-01,2020-01-01\n", columns=columns))
    assert table.columns["age"][0] == pytest.approx(70, abs=0.01)
    assert "birth_date" not in table.columns


def test_what_is_dated_after_the_death_or_before_the_birth_is_named(tmp_path):
    text = (
        "file,at,died,vt,seen,born,age\n"
        "a,2020-01-01,2020-03-01,2020-04-01,2020-02-01,1950-01-01,70\n"
        "b,2020-01-01,,2020-04-01,2020-05-01,1950-01-01,70\n"
        "c,2020-01-01,2020-03-01,2020-02-01,2020-06-01,1950-01-01,70\n"
        "d,2020-01-01,,1940-01-01,,1950-01-01,70\n"
    )
    columns = {"file": "file", "recorded_at": "at", "death_date": "died", "vfvt_date": "vt", "last_encounter": "seen"}
    columns |= {"birth_date": "born", "age": "age"}
    table = read_cohort_table(site(tmp_path, text, columns=columns))
    assert not table.faults
    doubts = "\n".join(table.doubts)
    assert "table.csv:2: vfvt_date: after the death" in doubts
    assert "table.csv:4: last_encounter: seen alive after the death" in doubts
    assert "table.csv:5: vfvt_date: lies before the birth" in doubts
    assert len(table.doubts) == 3
