"""A site maps the columns that a study declares: kinds, units, ranges and levels are held to, what lacks is named."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import yaml

from client.approval.show import show_study
from client.cohort.table import read_cohort_table, usable_table
from client.dataset.opening import open_site
from client.operator.check import check_site
from client.site.settings import load_site
from ecgshared.errors import CohortError, ConfigError
from tests.hospital import make_hospital, make_study

COLUMNS = {
    "troponin": {"kind": "number", "range": [0, 10000], "unit": "ng/L", "label": "high-sensitivity troponin T"},
    "beta_blocker": {"kind": "flag"},
    "smoking": {"kind": "category", "levels": ["never", "former", "current"]},
    "visit": {"kind": "date"},
    "stroke": {"kind": "event"},
}
DECLARED = {
    "troponin": {"column": "tnt_ugl", "unit": "ng/L", "times": 1000},
    "beta_blocker": "bb",
    "smoking": "smoker",
    "visit": "visited",
    "stroke": "stroke_at",
}
ROWS = [
    {"tnt_ugl": "0.014", "bb": "ja", "smoker": " Never", "visited": "2020-01-03", "stroke_at": ""},
    {"tnt_ugl": "10", "bb": "nej", "smoker": "slutat", "visited": "", "stroke_at": "2021-01-01"},
    {"tnt_ugl": "", "bb": "", "smoker": "", "visited": "2020-02-01", "stroke_at": "2020-01-01"},
]
VALUES = {"smoking": {"slutat": "former"}}


def hospital(folder, rows=ROWS, declared=DECLARED, **table):
    """A hospital of three patients whose table has local columns that a study declares."""
    standard = [
        {"file": f"r{i}", "patient_id": f"p{i}", "recorded_at": "2020-01-01", "age": "50", "outcome": str(i % 2)}
        for i in range(len(rows))
    ]
    make_hospital(folder, standard)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*standard[0], *rows[0]])
        writer.writeheader()
        writer.writerows(a | b for a, b in zip(standard, rows, strict=True))
    content = yaml.safe_load((folder / "site.yaml").read_text())
    content["table"] |= {"declared": declared, "values": VALUES, **table}
    (folder / "site.yaml").write_text(yaml.safe_dump(content))
    return load_site(folder / "site.yaml")


def study_file(folder, **changes):
    path = folder / "study.yaml"
    made = make_study(columns=COLUMNS, **changes)
    path.write_text(yaml.safe_dump(made.model_dump(mode="json", exclude_none=True)))
    return path, made


def test_each_kind_is_read_in_the_study_s_unit_and_words(tmp_path):
    site = hospital(tmp_path)
    _, study = study_file(tmp_path)
    table = read_cohort_table(site, study.columns)
    assert table.faults == ()
    np.testing.assert_array_equal(table.columns["troponin"], [14, 10000, np.nan])
    np.testing.assert_array_equal(table.columns["beta_blocker"], [1, 0, np.nan])
    assert table.columns["smoking"].tolist() == ["never", "former", ""]
    assert table.columns["visit"].astype("datetime64[D]").astype(str).tolist() == ["2020-01-03", "NaT", "2020-02-01"]


def test_what_is_out_of_range_or_no_level_stops_the_site_or_is_not_known_by_its_policy(tmp_path):
    rows = [ROWS[0] | {"tnt_ugl": "10.1"}, ROWS[1] | {"smoker": "curent"}, ROWS[2] | {"bb": "perhaps"}]
    _, study = study_file(tmp_path)
    stopping = read_cohort_table(hospital(tmp_path / "a", rows), study.columns)
    said = [fault.render() for fault in stopping.faults]
    assert len(said) == 3
    assert "tnt_ugl (troponin), found '10.1'; allowed: 0 to 10000 ng/L" in said[0]
    assert "smoker (smoking), found 'curent'; allowed: never, former, current; did you mean current?" in said[2]
    with pytest.raises(CohortError, match="3 fault") as raised:
        usable_table(hospital(tmp_path / "b", rows), study.columns)
    assert "10.1" not in str(raised.value)
    lenient = read_cohort_table(hospital(tmp_path / "c", rows, unreadable="unknown"), study.columns)
    assert lenient.faults == ()
    assert lenient.unread == {"troponin": 1, "smoking": 1, "beta_blocker": 1}
    assert np.isnan(lenient.columns["troponin"][0])


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"troponin": {"column": "tnt_ugl", "unit": "ug/L"}}, "in ug/L here, in ng/L in the study"),
        ({"beta_blocker": {"column": "bb", "unit": "mg"}}, "for numbers; the study declares a flag"),
        ({"beta_blocker": {"date": "visited", "time": "bb"}}, "for dates; the study declares a flag"),
    ],
)
def test_a_mapping_that_contradicts_the_study_is_refused(tmp_path, declared, says):
    site = hospital(tmp_path, declared=declared, values={})
    with pytest.raises(ConfigError, match=says):
        read_cohort_table(site, study_file(tmp_path)[1].columns)


def test_names_of_the_site_file_are_held_apart(tmp_path):
    for table, says in (
        ({"declared": {"lvef": "bb"}}, "table.declared.lvef: a standard column"),
        ({"declared": {"outcome": "bb"}}, "table.declared.outcome: table.labels has the name too"),
        ({"declared": {}}, "table.values.smoking: not in table.columns, table.declared or table.labels"),
    ):
        with pytest.raises(ConfigError, match=says):
            hospital(tmp_path / says[:20], **table)
    with pytest.raises(ConfigError, match=r"a column that a study declares is mapped under table.declared"):
        hospital(tmp_path / "x", columns={"file": "file", "troponin": "tnt_ugl"})


def test_a_label_of_a_declared_name_is_refused(tmp_path):
    site = hospital(tmp_path, declared={}, values={}, labels={"outcome": "outcome", "beta_blocker": "bb"})
    with pytest.raises(ConfigError, match=r"table.labels.beta_blocker: the study declares a column of the name"):
        read_cohort_table(site, study_file(tmp_path)[1].columns)


def test_check_tells_what_is_known_what_lacks_and_what_nobody_declares(tmp_path):
    declared = {k: v for k, v in DECLARED.items() if k != "visit"} | {"vist": "visited", "creatinine": "bb"}
    hospital(tmp_path, declared=declared)
    path, _ = study_file(tmp_path)
    found = check_site(tmp_path / "site.yaml", (path,), offline=True, sample=0)
    notes, doubts = "\n".join(found.notes), "\n".join(found.doubts)
    assert "column troponin: 2 known, 1 not; 14 to 10000 ng/L" in notes
    assert "column beta_blocker: 2 known, 1 not; 1 yes" in notes
    assert "column smoking: 2 known, 1 not; never 1, former 1, current 0" in notes
    assert "column stroke: 2 known, 1 not; 2020-01-01 to 2021-01-01" in notes
    assert "column visit (date, a date): not mapped under table.declared; is table.declared.vist meant?" in doubts
    assert "table.declared.vist: no study that was looked at declares it; its cells were not read; did you" in doubts
    assert "table.declared.creatinine: no study that was looked at declares it" in doubts
    assert found.faults == []


def test_two_studies_that_mean_different_things_by_a_name_are_told(tmp_path):
    hospital(tmp_path)
    first, _ = study_file(tmp_path)
    second = tmp_path / "second.yaml"
    other = yaml.safe_load(first.read_text()) | {"name": "second"}
    other["columns"]["troponin"] = {"kind": "number", "range": [0, 5], "unit": "ug/L"}
    second.write_text(yaml.safe_dump(other))
    found = check_site(tmp_path / "site.yaml", (first, second), offline=True, sample=0)
    assert any("study second: declares troponin as a number (0 to 5 ug/L)" in doubt for doubt in found.doubts)


def test_the_cohort_carries_numbers_and_populations_of_declared_columns(tmp_path):
    populations = {
        "smokers": {"where": {"smoking": {"one_of": ["former", "current"]}}},
        "soon": {"where": {"days_to_visit": {"at_most": 2}}},
        "unmapped": {"where": {"beta_blocker": "unknown"}},
    }
    declared = {k: v for k, v in DECLARED.items() if k != "beta_blocker"}
    _, study = study_file(tmp_path, populations=populations, covariates=("troponin", "beta_blocker"))
    data = open_site(hospital(tmp_path / "h", declared=declared), study)
    np.testing.assert_array_equal(data.columns["smoking"], [0, 1, np.nan])
    np.testing.assert_array_equal(data.covariates["troponin"], np.array([14, 10000, np.nan], dtype=np.float32))
    assert np.isnan(data.covariates["beta_blocker"]).all()
    assert data.populations["smokers"].tolist() == [False, True, False]
    assert data.populations["soon"].tolist() == [True, False, False]
    assert data.populations["unmapped"].all()


def test_a_study_is_shown_with_its_columns(tmp_path):
    site = hospital(tmp_path, declared={"troponin": DECLARED["troponin"]}, values={})
    shown = "\n".join(show_study(site, study_file(tmp_path)[1]))
    assert "troponin: number, 0 to 10000 ng/L, high-sensitivity troponin T; mapped here" in shown
    assert "smoking: category, never, former, current; NOT mapped here" in shown
