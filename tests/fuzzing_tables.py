"""Read damaged tables and opt-out lists in a process of its own, with little memory and a watchdog.

Run as ``python fuzzing_tables.py SEEDS COUNT FIRST REPORT``, as tests/fuzzing.py: SEEDS holds intact hospitals, one
folder each, with ``site.yaml``, a table and an opt-out list; mutant number n of a folder depends on n alone.
"""

from __future__ import annotations

import io
import json
import random
import re
import signal
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import fuzzing
from fuzzing import TimeUp, limit_resources, mutate

CPU_SECONDS = 6.0
CELLS = (
    "", "0", "-1", "1e999", "nan", "inf", "9" * 400, "1.23457E+11", "31/12/2020", "12/31/2020", "43896.5", "99999",
    "0000-00-00", "9999-12-31T99:99", "=1+1", "#REF!", "\0", "\u202e\u200b", "\ud7ff", "F" * 5000, '"', "'", "63 M",
    "I46.1, R96", "../../etc/passwd", "C:\\ecg\\1.xml", "**/x", "{x}", "1" * 5000, "²", "١٢٣", "1.5.2020 24:61",
)  # fmt: skip
HEAVY = (
    b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>',
    b'<row r="99999999999"><c r="A1" t="s"><v>99999999</v></c></row>',
    b'<c r="ZZZZZZ1"><v>1</v></c>',
    b'<c t="d"><v>x</v></c>',
    b'<c t="n"><v>1e999</v></c>',
)


def of_text(data: bytes, rng: random.Random) -> bytes:
    """Damage a table of text where a person or an export would."""
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        match rng.randrange(7):
            case 0:
                mark = rng.choice((b";", b",", b"\t"))
                cells = lines[at].split(mark)
                cells[rng.randrange(len(cells))] = rng.choice(CELLS).encode("utf-8", "surrogatepass")
                lines[at] = mark.join(cells)
            case 1:
                lines[at] = lines[at].replace(b";", b",")
            case 2:
                place = rng.randrange(len(lines[at]) + 1)
                lines[at] = (
                    lines[at][:place] + rng.choice((b'"', b"\r", b"\n", b"\0", b"\xff", b";")) + lines[at][place:]
                )
            case 3:
                del lines[at]
                lines = lines or [b""]
            case 4:
                lines.insert(at, rng.choice(lines))
            case 5:
                lines[at] = lines[at] * rng.choice((2, 50))
            case 6:
                lines.insert(0, rng.choice((b"sep=;", b"sep=", b"sep=\t", b"", b"\xef\xbb\xbf")))
    return b"\n".join(lines)


def of_workbook(data: bytes, rng: random.Random) -> bytes:
    """Damage one part inside a workbook, and pack it again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(parts))
    if name.endswith(".xml") and rng.random() < 0.3:
        place = parts[name].rfind(b"<row") if b"<row" in parts[name] else parts[name].rfind(b"</")
        parts[name] = parts[name][:place] + rng.choice(HEAVY) + parts[name][place:]
    elif rng.random() < 0.1:
        del parts[name]
    else:
        parts[name] = mutate(parts[name], rng) if parts[name] else b"x"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return out.getvalue()


def damaged(name: str, data: bytes, rng: random.Random) -> bytes:
    """Return a damaged copy of a file of a seed."""
    if name.endswith(".xlsx") and rng.random() < 0.8:
        return of_workbook(data, rng)
    if name.endswith((".csv", ".txt")) and rng.random() < 0.7:
        data = of_text(data, rng)
        return data.decode("utf-8", "replace").encode("utf-16") if rng.random() < 0.05 else data
    return mutate(data, rng) if data else b"\0"


def read_all(folder: Path) -> None:
    """Do with a hospital's table what `check` and `init` do."""
    from client.cohort.link import inspect
    from client.cohort.notices import lines_to_look_at
    from client.cohort.recordings import Recordings, match
    from client.cohort.table import read_cohort_table
    from client.operator.guess_table import look_at_table
    from client.site.keys import SiteKeys
    from client.site.settings import load_site
    from ecgshared.errors import CohortError

    settings = load_site(folder / "site.yaml")
    recordings = Recordings(folder, tuple(f"e{i}.hea" for i in range(40)))
    refusals = []
    try:
        look_at_table(settings.table.path, recordings, {})
    except CohortError as error:
        refusals.append(error)
    table = read_cohort_table(settings)
    keys = SiteKeys(bytes(32), bytes(32))
    linked = inspect(settings, table, keys, unlisted=(recordings, match(recordings, table.file)))
    lines_to_look_at(table, linked)
    told = [fault.render() for fault in table.faults] + [fault.shown for fault in linked.faults] + list(table.doubts)
    n = len(table)
    if any(len(column) != n for column in table.columns.values()) or len(linked.unit) != n:
        raise AssertionError("columns of different lengths")
    if any(not text for text in told) or any(not error.what for error in refusals):
        raise AssertionError("a fault that says nothing")


def outcome(folder: Path) -> tuple[str, str | None]:
    """Read one hospital; return what came of it and, where that is a fault of ours, a description."""
    from ecgshared.errors import CohortError

    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        read_all(folder)
        return "read", None
    except CohortError as error:
        text = str(error)
        named = str(folder) in text or error.allowed is not None
        return ("refused", None) if named else ("fault", f"names neither file nor what is allowed: {text}")
    except TimeUp:
        return "fault", f"took more than {CPU_SECONDS:g} s"
    except BaseException as error:
        return "fault", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def run(seeds: Path, count: int, first: int, report: Path) -> None:
    """Read ``count`` mutants, taking the folders of ``seeds`` in turn."""
    import openpyxl  # noqa: F401
    import pyarrow
    import pyarrow.parquet

    import client.operator.guess_table  # noqa: F401

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    folders = sorted(path for path in seeds.iterdir() if path.is_dir())
    for folder in folders:
        read_all(folder)  # intact it is read, and every library is loaded
    limit_resources()
    contents = {f: {p.name: p.read_bytes() for p in f.iterdir()} for f in folders}
    tally: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "case"
        work.mkdir()
        for number in range(first, first + count):
            folder = folders[number % len(folders)]
            rng = random.Random(f"{folder.name} {number}")
            files = contents[folder]
            chosen = rng.choice(
                [n for n in sorted(files) if n != "site.yaml"] * 1 + [n for n in files if "table" in n] * 3
            )
            for name, data in files.items():
                (work / name).write_bytes(damaged(name, data, rng) if name == chosen else data)
            report.write_text(json.dumps({"crashed_on": number, "seed": folder.name}))
            result, fault = outcome(work)
            tally[f"{result} {folder.name}"] += 1
            if fault is not None:
                faults.append({"number": number, "seed": folder.name, "file": chosen, "fault": fault[:400]})
            for path in work.iterdir():
                path.unlink()
    high_water = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if high_water is None:
        raise OSError("the kernel tells no VmHWM")
    peak = int(high_water.group(1)) >> 10
    report.write_text(json.dumps({"tally": tally, "faults": faults, "peak_mib": peak}))


if __name__ == "__main__":
    fuzzing.CPU_SECONDS = CPU_SECONDS
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
