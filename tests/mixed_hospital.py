"""A hospital whose folder mixes nine formats and more, beside a table in Excel in German, or CSV in Swedish."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import openpyxl
import vendor_exports as exports
from hospital import write_recording

SINGLE_FILES = ("muse.xml", "aecg.xml", "cardiosoft.xml", "philips.xml", "rhythm.scp", "rhythm.dcm", "holter.ecg")
EACH = 5
"""Recordings of each format."""


@dataclass(frozen=True)
class Row:
    """One ECG: the last part of its path, and what the hospital knows of its patient."""

    file: str
    sex: str
    age: int
    at: datetime


def write_mixed_folder(folder: Path) -> list[Row]:
    """Write every format that has a writer, in five folders, and files that are none; return what a table tells."""
    rows: list[Row] = []

    def row(file: str, sex: str = "F", age: int = 36) -> None:
        at = datetime(2021, 3, 1, 8, 15, 30) + timedelta(days=3 * len(rows), hours=len(rows))
        rows.append(Row(file, sex, age, at))

    for place, (name, write) in enumerate((name, exports.ALL[name]) for name in SINGLE_FILES):
        stem, ending = name.split(".")
        cart = folder / ("station-a", "station-b", "radiology")[place % 3]
        cart.mkdir(parents=True, exist_ok=True)
        for i in range(EACH):
            file = f"{stem}-{i:03d}.{ending}"
            (cart / file).write_bytes(write(exports.digital_ecg(5000, seed=10 * place + i)))
            row(file)
    tracings = np.stack([exports.digital_ecg(4096, seed=100 + i).T * 5e-3 for i in range(EACH)]).astype(np.float32)
    (folder / "telehealth").mkdir()
    exports.hdf5(folder / "telehealth" / "exams.hdf5", tracings, np.arange(7, 7 + EACH))
    for i in range(EACH):
        row(f"exams.hdf5#{7 + i}", "FM"[i % 2], 50 + i)
    for i in range(EACH):
        write_recording(folder / "holter" / f"w{i:03d}", 200 + i, comments=(f"Age: {60 + i}", f"Sex: {'FM'[i % 2]}"))
        row(f"w{i:03d}.hea", "FM"[i % 2], 60 + i)
    (folder / "holter" / "Befund.pdf").write_bytes(b"%PDF-1.4 no recording")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(60))
    return rows


def write_german_workbook(path: Path, rows: list[Row]) -> None:
    """Write titles, a sheet of explanations, dates and times as cells, numbers with shown zeros, WAHR, ICD lists."""
    book = openpyxl.Workbook()
    notes = book.active
    notes.title = "Legende"
    notes.append(["Spalte", "Bedeutung"])
    notes.append(["Geschlecht", "w oder m"])
    sheet = book.create_sheet("EKG-Liste")
    sheet.append(["Kardiologie, Auszug aus dem KIS"])
    sheet.append(["erstellt am 01.02.2024"])
    sheet.append([])
    sheet.append(
        ["Patienten-Nr.", "EKG-Nr.", "Datei", "Datum", "Uhrzeit", "Geschlecht", "Alter", "EF %", "Diabetes",
         "Todesdatum", "Todesursache", "Bemerkung"]
    )  # fmt: skip
    for i, row in enumerate(rows):
        died = i % 9 == 0
        sheet.append(
            [
                i // 2 + 12, f"E{i:05d}", row.file, row.at.date(), row.at.time(), "m" if row.sex == "M" else "w",
                row.age, 55 if i % 3 else None, "WAHR" if i % 4 == 0 else "FALSCH",
                date(2023, 5, 1) + timedelta(days=i) if died else None,
                ("I46.1, R96" if i % 2 else "I21.-") if died else None, "Kontrolle; unauffällig",
            ]
        )  # fmt: skip
        line = sheet.max_row
        sheet.cell(line, 1).number_format = "0000000"
        sheet.cell(line, 4).number_format = "DD.MM.YYYY"
    book.save(path)


def write_swedish_csv(path: Path, rows: list[Row]) -> None:
    """Write a table with `sep=`, Windows-1252, decimal commas, dates and times apart, and separators at line ends."""
    lines = ["sep=;", "Löpnummer;Undersökning;Fil;Inspelningsdatum;Klockslag;Kön;Ålder;EF;Hjärtsvikt;Dödsdatum;;"]
    for i, row in enumerate(rows):
        sex = "Man" if row.sex == "M" else "Kvinna"
        when = row.at
        lines.append(
            f"{i // 2 + 12:07d};E{i:05d};{row.file};{when:%Y-%m-%d};{when:%H.%M};{sex};{row.age},0;"
            f"{'0,55' if i % 3 else ''};{'Ja' if i % 4 == 0 else 'Nej'};{'2023-05-01' if i % 9 == 0 else ''};;"
        )
    path.write_bytes("\r\n".join(lines).encode("cp1252") + b"\r\n")
