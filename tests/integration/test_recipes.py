"""Site files for public databases: each on a folder laid out as its publisher lays it out."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from client.cohort.table import usable_table
from client.operator.cli import app
from client.operator.recipes import recipes
from client.site.settings import load_site
from ecgshared.errors import ConfigError
from simulations.hospitals.make import make_hospitals
from simulations.patients.scenario import load_scenario


def _said(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, f"{done.output}\n{done.exception}"
    return done.output


def _init(recipe: str, folder: Path, out: Path) -> str:
    return _said("init", "--recipe", recipe, "--folder", str(folder), "--site", "north", "--out", str(out))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Headers of made WFDB recordings."""
    out = tmp_path_factory.mktemp("recipes")
    make_hospitals(load_scenario("demo"), out, seed=5, patients_scale=0.005)
    return sorted((out / "sites" / "north" / "records").rglob("*.hea"))[:4]


def _millivolts(header: Path) -> np.ndarray:
    import ecgfed

    return np.asarray(ecgfed.read(header).p_signal)


def test_the_list_names_every_recipe_with_its_source() -> None:
    listed = _said("init", "--recipe", "list")
    assert len(recipes()) >= 7
    assert all(name in listed for name in recipes())


def test_ptbxl_as_published(shared_data: Path, tmp_path: Path) -> None:
    _init("ptbxl", shared_data / "ptbxl", tmp_path / "site.yaml")
    assert "all is well" in _said("check", str(tmp_path / "site.yaml"), "--sample", "3")
    table = usable_table(load_site(tmp_path / "site.yaml"))
    # The published column says 0 for men; of the first 500 records so many are women's.
    sexes, counts = np.unique(table.columns["sex"], return_counts=True)
    import csv

    with (shared_data / "ptbxl" / "ptbxl_database.csv").open(newline="") as file:
        women = sum(row["sex"] == "1" for row in csv.DictReader(file))
    assert dict(zip(sexes.tolist(), counts.tolist(), strict=True))["F"] == women


def test_code15_as_published(recordings: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "code15"
    folder.mkdir()
    lines = [
        "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file"
    ]
    tracings = np.zeros((len(recordings), 4096, 12), np.float32)
    for i, header in enumerate(recordings):
        signal = _millivolts(header)[:, ::2][:, :2800]
        tracings[i, 648 : 648 + signal.shape[1]] = signal.T
        male, alive = i % 2 == 0, i > 0
        findings = f"False,False,{i == 1},False,False,False"
        follow_up = f"{7 + i // 2},{not alive},1.5,True"
        lines.append(f"{100 + i},{50 + i},{male},49.5,{findings},{follow_up},exams_part0.hdf5")
    with h5py.File(folder / "exams_part0.hdf5", "w") as file:
        file["exam_id"] = np.arange(100, 100 + len(recordings))
        file["tracings"] = tracings
    (folder / "exams.csv").write_text("\n".join(lines) + "\n")
    _init("code15", folder, tmp_path / "site.yaml")
    assert "all is well" in _said("check", str(tmp_path / "site.yaml"))
    table = usable_table(load_site(tmp_path / "site.yaml"))
    assert list(table.columns["sex"]) == ["M", "F", "M", "F"]
    assert list(table.columns["lbbb"]) == [0, 1, 0, 0]


def test_sph_as_published(recordings: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "sph"
    (folder / "records").mkdir(parents=True)
    lines = ["ECG_ID,AHA_Code,Patient_ID,Age,Sex,N,Date"]
    for i, header in enumerate(recordings):
        signal = _millivolts(header)
        with h5py.File(folder / "records" / f"A0000{i}.h5", "w") as file:
            file["ecg"] = signal.astype(np.float16)
        code = ("1", "22;50+310", "150", "11")[i]
        lines.append(f"A0000{i},{code},S0000{i},{60 + i},{'MF'[i % 2]},{signal.shape[1]},2020-03-0{i + 1}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    _init("sph", folder, tmp_path / "site.yaml")
    assert "all is well" in _said("check", str(tmp_path / "site.yaml"))
    table = usable_table(load_site(tmp_path / "site.yaml"))
    assert list(table.columns["normal"]) == [1, 0, 0, 0]
    assert list(table.columns["af"]) == [0, 1, 0, 0]


def test_mimic_iv_ecg_as_published(recordings: list[Path], tmp_path: Path) -> None:
    import gzip

    folder = tmp_path / "mimic"
    lines = ["subject_id,study_id,file_name,ecg_time,path"]
    for i, header in enumerate(recordings):
        study, subject = 40_689_238 + i, 10_000_032 + i // 2
        at = folder / "files" / "p1000" / f"p{subject}" / f"s{study}"
        at.mkdir(parents=True)
        # As published: aVF before aVL.
        first, *leads = header.read_text().replace(header.stem, str(study)).rstrip("\n").split("\n")
        leads[4], leads[5] = leads[5], leads[4]
        (at / f"{study}.hea").write_text("\n".join([first, *leads]) + "\n")
        samples = np.fromfile(header.with_suffix(".dat"), np.int16).reshape(-1, 12)
        samples[:, [0, 1, 2, 3, 5, 4, *range(6, 12)]].tofile(at / f"{study}.dat")
        lines.append(f"{subject},{study},{study},2180-07-2{i} 08:44:00,files/p1000/p{subject}/s{study}/{study}")
    (folder / "record_list.csv").write_text("\n".join(lines) + "\n")
    patients = "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n"
    patients += "10000032,F,52,2180,2014 - 2016,2180-09-09\n10000033,M,40,2175,2008 - 2010,\n"
    (folder / "patients.csv.gz").write_bytes(gzip.compress(patients.encode()))
    said = _init("mimic_iv_ecg", folder, tmp_path / "site.yaml")
    assert "ecgfed site cohort" in said
    assert f"{len(recordings)} rows" in _said("cohort", str(tmp_path / "site.yaml"))
    assert "all is well" in _said("check", str(tmp_path / "site.yaml"))
    table = usable_table(load_site(tmp_path / "site.yaml"))
    np.testing.assert_array_equal(_millivolts(at / f"{study}.hea"), _millivolts(recordings[-1]))
    assert list(table.columns["age"]) == [52, 52, 45, 45]
    assert list(table.columns["sex"]) == ["F", "F", "M", "M"]
    assert np.isnat(table.columns["death_date"]).tolist() == [False, False, True, True]


def test_samitrop_as_published(recordings: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "samitrop"
    folder.mkdir()
    lines = ["exam_id,age,is_male,normal_ecg,death,timey,nn_predicted_age"]
    tracings = np.zeros((len(recordings), 4096, 12), np.float32)
    for i, header in enumerate(recordings):
        signal = _millivolts(header)[:, ::2][:, :2800]
        tracings[i, 648 : 648 + signal.shape[1]] = signal.T
        # The ids stand in no order, and the tracings in the table's.
        lines.append(f"{900 - 7 * i},{60 + i},{i % 2 == 0},{i == 3},{i == 1},2.{i},55.5")
    (folder / "exams.csv").write_text("\n".join(lines) + "\n")
    with h5py.File(folder / "exams.hdf5", "w") as file:
        file["tracings"] = tracings
    assert "ecgfed site cohort" in _init("samitrop", folder, tmp_path / "site.yaml")
    _said("cohort", str(tmp_path / "site.yaml"))
    assert "all is well" in _said("check", str(tmp_path / "site.yaml"))
    table = usable_table(load_site(tmp_path / "site.yaml"))
    assert list(table.ids["ecg_id"].texts()) == [str(900 - 7 * i) for i in range(len(recordings))]
    assert [str(name).rpartition("#")[2] for name in table.file] == [str(i) for i in range(len(recordings))]
    assert list(table.columns["sex"]) == ["M", "F", "M", "F"]
    assert list(table.columns["normal"]) == [0, 0, 0, 1]
    assert list(table.columns["died"]) == [0, 1, 0, 0]


@pytest.mark.parametrize(("recipe", "source"), [("chapman_ningbo", ("chapman", "ningbo")), ("georgia", ("chapman",))])
def test_databases_whose_headers_are_all_there_is(
    shared_data: Path, tmp_path: Path, recipe: str, source: tuple[str, ...]
) -> None:
    """Real headers; those of Georgia are written alike, under names that begin with E."""
    folder, expected = tmp_path / "database", {}
    for number, name in enumerate(source):
        at = folder / ("WFDBRecords" if recipe == "chapman_ningbo" else "georgia") / f"{number:02}" / "010"
        at.mkdir(parents=True)
        for header in sorted((shared_data / name).glob("*.hea")):
            named = header.stem if recipe == "chapman_ningbo" else header.stem.replace("JS", "E")
            text = header.read_text().replace(header.stem, named)
            (at / f"{named}.hea").write_text(text)
            (at / f"{named}.mat").write_bytes(header.with_suffix(".mat").read_bytes())
            expected[named] = "164889003" in text
    said = _init(recipe, folder, tmp_path / "site.yaml")
    assert f"{len(expected):,} rows out of the recordings' headers" in said
    assert "all is well" in _said("check", str(tmp_path / "site.yaml"), "--sample", "4")
    table = usable_table(load_site(tmp_path / "site.yaml"))
    names = list(table.ids["ecg_id"].texts())
    assert dict(zip(names, (table.columns["af"] == 1).tolist(), strict=True)) == expected
    assert set(table.columns["sex"]) <= {"M", "F", ""}
    assert np.nanmax(table.columns["age"]) > 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "ptb"), "no recipe"),
        (("--recipe", "ptbxl", "--table", "t.csv"), "knows its table"),
    ],
)
def test_what_a_recipe_cannot_do_is_said(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(app, ["init", "--folder", str(tmp_path), "--out", str(tmp_path / "s.yaml"), *arguments])
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
