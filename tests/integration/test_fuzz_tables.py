"""Damaged tables and opt-out lists: rows, faults that say something, or an explained CohortError; nothing else.

The mutants are made and read by tests/fuzzing_tables.py in child processes with limits on memory and processor time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mixed_hospital import Row, write_german_workbook, write_swedish_csv

ROOT = Path(__file__).resolve().parents[2]
CHILD = ROOT / "tests" / "fuzzing_tables.py"
PEAK_MIB = 1024

GERMAN = {
    "patient_id": "Patienten-Nr.", "ecg_id": "EKG-Nr.", "file": "Datei", "sex": "Geschlecht", "age": "Alter",
    "lvef": "EF %", "diabetes": "Diabetes", "death_date": "Todesdatum", "death_cause": "Todesursache",
    "recorded_at": {"date": "Datum", "time": "Uhrzeit"},
}  # fmt: skip
SWEDISH = {
    "patient_id": "Löpnummer", "ecg_id": "Undersökning", "file": "Fil", "sex": "Kön", "age": "Ålder", "lvef": "EF",
    "recorded_at": {"date": "Inspelningsdatum", "time": "Klockslag"}, "heart_failure": "Hjärtsvikt",
}  # fmt: skip
ENGLISH = {
    "patient_id": "Patient",
    "file": "File",
    "recorded_at": "Date",
    "sex": "Sex",
    "age": "Age",
    "birth_date": "Born",
}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hospitals: Excel, CSV with `sep=`, CSV in UTF-8 with quotes, Parquet."""
    folder = tmp_path_factory.mktemp("seeds")
    rows = [Row(f"e{i}", "FM"[i % 2], 40 + i, datetime(2020, 1, 2, 8, i) + timedelta(days=i)) for i in range(40)]

    def seed(name: str, table: str, columns: dict[str, Any], **more: Any) -> Path:
        (folder / name).mkdir()
        site = {"site": "north", "records": {"folder": "."}, "exclude": "out.txt"}
        site["table"] = {"path": table, "columns": columns, **more}
        (folder / name / "site.yaml").write_text(yaml.safe_dump(site))
        (folder / name / "out.txt").write_text("0000012\n15\n# none\n99\n")
        return folder / name / table

    write_german_workbook(seed("excel", "table.xlsx", GERMAN), rows)
    write_swedish_csv(seed("swedish", "table.csv", SWEDISH, unreadable="unknown"), rows)
    frame = pd.DataFrame(
        {
            "Patient": [i // 2 + 12 for i in range(40)],
            "File": [row.file for row in rows],
            "Date": [row.at for row in rows],
            "Sex": [row.sex for row in rows],
            "Age": [float(row.age) for row in rows],
            "Born": [f"{1980 - i}-02-03" for i in range(40)],
            "Text": ['said "so", then\nleft' for _ in rows],
        }
    )
    frame.to_parquet(seed("parquet", "table.parquet", ENGLISH))
    frame.assign(Date=[f"{row.at:%d/%m/%Y %H:%M}" for row in rows]).to_csv(
        seed("english", "table.csv", ENGLISH), index=False
    )
    return folder


def read_mutants(seeds: Path, tmp_path: Path, count: int, *, processes: int = 2) -> dict[str, Any]:
    """Read ``count`` mutants in child processes; a crash is a fault like any other."""
    share = -(-count // processes)
    paths = os.pathsep.join((str(ROOT), str(CHILD.parent)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def child(which: int) -> dict[str, Any]:
        report = tmp_path / f"report-{which}.json"
        done = subprocess.run(
            [sys.executable, str(CHILD), str(seeds), str(share), str(which * share), str(report)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120 + share,
            check=False,
        )
        found: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
        if done.returncode or "tally" not in found:
            fault = {**found, "exit": done.returncode, "said": done.stderr[-600:]}
            return {"tally": {}, "faults": [fault], "peak_mib": 0}
        return found

    with ThreadPoolExecutor(processes) as pool:
        reports = list(pool.map(child, range(processes)))
    tally: dict[str, int] = {}
    for report in reports:
        for key, value in report["tally"].items():
            tally[key] = tally.get(key, 0) + value
    return {
        "tally": tally,
        "faults": [fault for report in reports for fault in report["faults"]],
        "peak_mib": max(report["peak_mib"] for report in reports),
    }


def judge(found: dict[str, Any], count: int, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{count} mutants of tables: {dict(sorted(found['tally'].items()))}; peak {found['peak_mib']} MiB")
    assert not found["faults"], json.dumps(found["faults"][:8], indent=1)
    assert sum(found["tally"].values()) >= count
    total = {kind: sum(n for key, n in found["tally"].items() if key.startswith(kind)) for kind in ("read", "refused")}
    assert min(total.values()) > count / 10  # neither all intact nor all hopeless
    assert found["peak_mib"] < PEAK_MIB


def test_some_hundred_mutants(seeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge(read_mutants(seeds, tmp_path, 400), 400, capsys)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_thousand_mutants(seeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge(read_mutants(seeds, tmp_path, 10_000), 10_000, capsys)


@pytest.mark.parametrize("kind", ["memory", "time", "exception"])
def test_the_harness_sees_what_it_looks_for(seeds: Path, tmp_path: Path, kind: str) -> None:
    """A parser that hoards, hangs or raises is caught: the tests above can fail."""
    code = {
        "memory": "import numpy; x = numpy.ones(1 << 28)",
        "time": "\nwhile True: pass",
        "exception": "raise KeyError('x')",
    }[kind]
    body = "\n    ".join(code.split("\n"))
    script = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(CHILD.parent)!r}]\n"
        f"import fuzzing_tables\nfrom pathlib import Path\nwhole = fuzzing_tables.read_all\n"
        f"def broken(folder):\n    if folder.parent == Path({str(seeds)!r}): return whole(folder)\n    {body}\n"
        f"fuzzing_tables.read_all = broken\nfuzzing_tables.CPU_SECONDS = 0.3\n"
        f"fuzzing_tables.run(Path({str(seeds)!r}), 1, 0, Path({str(tmp_path / 'r')!r}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, capture_output=True)
    fault = json.loads((tmp_path / "r").read_text())["faults"][0]["fault"]
    assert {"memory": "Memory", "time": "took more than", "exception": "KeyError"}[kind] in fault
