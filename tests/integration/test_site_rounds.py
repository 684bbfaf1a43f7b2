"""From a folder nobody has described to recordings that are ready: how many rounds an operator needs.

A round is one ``ecgfed site check``. The folder mixes nine formats and more; the tables are Excel in German and CSV in
Swedish. The transcript is printed (``pytest -s``), and its lines are held.
"""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest
import yaml
from mixed_hospital import EACH, write_german_workbook, write_mixed_folder, write_swedish_csv
from typer.testing import CliRunner

from client.cohort.table import read_cohort_table
from client.operator.cli import app
from client.site.settings import load_site

FORMATS = ("dicom", "ishne", "hdf5", "wfdb", "scp", "cardiosoft_xml", "hl7_aecg", "muse_xml", "philips_xml")
GERMAN = {
    "patient_id": "Patienten-Nr.", "ecg_id": "EKG-Nr.", "file": "Datei", "sex": "Geschlecht", "age": "Alter",
    "lvef": "EF %", "diabetes": "Diabetes", "death_date": "Todesdatum", "death_cause": "Todesursache",
    "recorded_at": {"date": "Datum", "time": "Uhrzeit"},
}  # fmt: skip
SWEDISH = {
    "patient_id": "Löpnummer", "ecg_id": "Undersökning", "file": "Fil", "sex": "Kön", "age": "Ålder", "lvef": "EF",
    "recorded_at": {"date": "Inspelningsdatum", "time": "Klockslag"}, "heart_failure": "Hjärtsvikt",
    "death_date": "Dödsdatum",
}  # fmt: skip


class Terminal:
    """What an operator types and reads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.text, self.checks = folder, "", 0

    def run(self, line: str) -> tuple[int, str]:
        """Run ``ecgfed site ...``, with file names below the folder."""
        words = [str(self.folder / word[2:]) if word.startswith("./") else word for word in line.split()]
        done = CliRunner().invoke(app, words)
        self.checks += words[0] == "check"
        said = done.output.replace(f"{self.folder}/", "./")
        self.text += f"$ ecgfed site {line}\n{said}"
        return done.exit_code, said


@pytest.fixture
def terminal(tmp_path, capsys):
    terminal = Terminal(tmp_path)
    yield terminal
    with capsys.disabled():
        print(f"\n{terminal.text}{terminal.checks} round(s)")


@pytest.mark.parametrize(
    ("table", "columns"), [("liste.xlsx", GERMAN), ("lista.csv", SWEDISH)], ids=["german-workbook", "swedish-csv"]
)
def test_one_round_from_init_to_ingest(terminal, tmp_path, table, columns):
    rows = write_mixed_folder(tmp_path / "ekg")
    (write_german_workbook if table == "liste.xlsx" else write_swedish_csv)(tmp_path / table, rows)
    (tmp_path / "out.txt").write_text("0000012\n15\n99\n")

    code, said = terminal.run(
        f"init --folder ./ekg --table ./{table} --exclude ./out.txt --site north --out ./site.yaml"
    )
    assert code == 0, said
    assert len(rows) >= 9 * EACH
    assert f"folder ./ekg: {len(rows)} recordings" in said
    assert all(name in said for name in FORMATS)
    assert "**/*.pdf           1  left out: is no recording of a known format" in said
    assert "ASK" not in said
    settings = load_site(tmp_path / "site.yaml")
    found = settings.table.model_dump()["columns"]
    assert found == columns

    code, said = terminal.run("check ./site.yaml")
    assert code == 0, said
    assert said.splitlines()[:5] == [
        f"rows: {len(rows)}",
        f"patients: {-(-len(rows) // 2)}",
        f"rows with a recording: {len(rows)}, without: 0",
        "recordings without a row: 0",
        "rows opted out: 4",
    ]
    assert all(name in said for name in FORMATS)
    assert "out.txt:2: '15' is near '0000015'" in said
    assert "out.txt:3: '99' is the id of nobody" in said
    assert "WRONG" not in said
    assert said.splitlines()[-1].startswith("all is well, ")

    code, said = terminal.run("ingest ./site.yaml --all")
    assert code == 0, said
    assert f"{len(rows) - 4} recording(s) read now, 0 read before" in said
    assert "could not be read" not in said
    assert "named by no row" not in said
    assert terminal.checks == 1

    read = read_cohort_table(settings)
    assert len(read) == len(rows)
    assert [str(at) for at in read.columns["recorded_at"]] == [
        (row.at if table == "liste.xlsx" else row.at.replace(second=0)).isoformat() for row in rows
    ]
    assert read.columns["age"].tolist() == [row.age for row in rows]
    assert read.columns["sex"].tolist() == [row.sex for row in rows]
    assert read.ids["patient_id"].texts().tolist() == [f"{i // 2 + 12:07d}" for i in range(len(rows))]


def test_two_rounds_where_the_table_is_wrong_too(terminal, tmp_path):
    rows = write_mixed_folder(tmp_path / "ekg")
    write_german_workbook(tmp_path / "liste.xlsx", rows)
    book = openpyxl.load_workbook(tmp_path / "liste.xlsx")
    sheet = book["EKG-Liste"]
    sheet["A6"], sheet["C9"], sheet["G10"], sheet["I11"] = None, sheet["C8"].value, "sechzig", "vielleicht"
    sheet["C30"] = "nirgends.xml"
    for line in range(5, sheet.max_row + 1):
        sheet.cell(line, 6).value = {"w": 2, "m": 1}[sheet.cell(line, 6).value]
    book.save(tmp_path / "liste.xlsx")

    _, said = terminal.run("init --folder ./ekg --table ./liste.xlsx --out ./site.yaml")
    assert "values" in said  # every number but one sex among the recordings that were tried: learnt or asked
    code, said = terminal.run("check ./site.yaml")
    assert code == 2
    for part in (
        "./liste.xlsx:6: 1 ECGs have no patient id",
        "./liste.xlsx:8,9: ",
        "one recording named for several patients",
        "./liste.xlsx:10: Alter (age), found 'sechzig'",
        "./liste.xlsx:11: Diabetes (diabetes), found 'vielleicht'",
        "rows without a recording: 1, lines 30 (**/nirgends.xml)",
    ):
        assert part in said
    assert "usable as it stands: " in said

    sheet["A6"], sheet["C9"], sheet["G10"], sheet["I11"] = "0000012", rows[4].file, 36, "FALSCH"
    book.save(tmp_path / "liste.xlsx")
    data = yaml.safe_load((tmp_path / "site.yaml").read_text())
    data["table"]["values"] = {"sex": {"1": "M", "2": "F"}}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(data))
    code, said = terminal.run("check ./site.yaml")
    assert code == 0, said
    code, said = terminal.run("ingest ./site.yaml --all")
    assert code == 0, said
    assert terminal.checks == 2
