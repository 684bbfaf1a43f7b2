"""A small hospital on disk for tests: WFDB recordings written byte by byte, a table, a site file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import yaml

from client.site.settings import SiteSettings, load_site
from ecgshared.ecg.input import InputConfig
from ecgshared.ecg.leads import LEADS
from ecgshared.study.study import SitesConfig, Study

FS = 250


def write_recording(path: Path, seed: int, *, seconds: float = 10.0, comments: tuple[str, ...] = ()) -> None:
    """Write an ECG-like recording of 12 leads in format 16, with first samples and checksums."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(FS * seconds)) / FS
    phase = (t * (1.1 + 0.2 * rng.random())) % 1
    beat = np.exp(-(((phase - 0.4) / 0.02) ** 2)) + 0.25 * np.exp(-(((phase - 0.7) / 0.05) ** 2))
    gains = rng.uniform(0.6, 1.4, 12)
    signal = gains[:, None] * beat + rng.normal(0, 0.01, (12, len(t)))
    one, two = signal[:2]
    signal[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2  # else no heart could have them
    samples = np.rint(1000 * signal).astype("<i2")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".dat").write_bytes(samples.T.tobytes())
    lines = [f"{path.stem} 12 {FS} {len(t)}"]
    for lead, row in zip(LEADS, samples, strict=True):
        checksum = int(row.astype(np.int64).sum().astype(np.int16))
        lines.append(f"{path.stem}.dat 16 1000/mV 16 0 {row[0]} {checksum} 0 {lead}")
    lines += [f"# {comment}" for comment in comments]
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")


def make_hospital(
    folder: Path, rows: list[dict[str, str]], *, recordings: dict[str, int] | None = None, **site: object
) -> SiteSettings:
    """Write recordings (those the rows name, unless given as ``{name: seed}``), table and site file; load it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = recordings if recordings is not None else {row["file"]: i for i, row in enumerate(rows)}
    for name, seed in names.items():
        write_recording(folder / "records" / name, seed)
    columns = {key: key for key in rows[0] if key != "outcome"}
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = {"path": "table.csv", "columns": columns}
    if "outcome" in rows[0]:
        table["labels"] = {"outcome": "outcome"}
    data = {"site": "north", "records": {"folder": "records"}, "table": table, "state": "state", **site}
    (folder / "site.yaml").write_text(yaml.safe_dump(data))
    return load_site(folder / "site.yaml")


def make_study(**changes: object) -> Study:
    """Return a study of one binary head; its steps don't matter to a cohort."""
    fields: dict[str, object] = {
        "name": "test",
        "sites": SitesConfig(train=("north",), zero_shot=("far",)),
        "input": InputConfig(fs_hz=100, seconds=5, band_hz=(0.5, 40)),
        "endpoints": {"outcome": {"kind": "binary", "column": "outcome"}},
        "steps": [{"id": "table1", "stage": "describe"}],
    }
    return Study.model_validate({**fields, **changes})
