"""How the work of one secure sum of statistics grows with the number of hospitals: seconds of all of them together.

Run with ``pytest -m benchmark -s tests/benchmarks/test_secure_sum_growth.py``; ECGFED_TABLE names a file for the table.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from client.egress.gate import release
from client.egress.secure_sum import Own, SecureSite
from client.site.settings import load_site
from ecgshared.privacy.summed import Summand
from ecgshared.study.study import load_study
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Answer, Request, Together, payload_type
from server.rounds.secure_sums import SecureSums
from server.rounds.step_context import Replies

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

SIZES = (10, 20, 40, 80, 160)
GROUP = Together(np.array([20]), np.array([4, 16]), np.array([[8.0, 4.0]]))


def timed(folder: Path, n: int) -> tuple[float, float]:
    """Return the seconds that a set of keys takes, and one sum under it."""
    names = [f"site{i:03d}" for i in range(n)]
    folder.mkdir()
    study_file = folder / "study.yaml"
    content = {
        "name": "growth",
        "sites": {"train": names},
        "endpoints": {"male": {"kind": "binary", "column": "male"}},
        "secure_sum": {},
        "steps": [{"id": "score", "stage": "calibrate", "target": "male", "inputs": ["age"]}],
    }
    study_file.write_text(yaml.safe_dump(content, sort_keys=False))
    study, sites = load_study(study_file), {}
    step = study.step("score")
    for name in names:
        site = {"site": name, "records": {"folder": "."}, "table": {"path": "none.csv", "columns": {"file": "file"}}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(site | {"state": str(folder / name), "seed": 3}))
        settings = load_site(folder / f"{name}.yaml")
        numbers = {"total": np.ones(3), "squares": np.ones(3), "counts": np.ones(3)}
        own = Own(Summand(numbers, frozenset(), {"patients_known": "1"}), GROUP)
        sites[name] = settings, SecureSite(settings, study, step, "run", lambda _, own=own: own)
    took: dict[bool, float] = {True: 0.0, False: 0.0}

    def ask(phase, round, arrays, sites_asked, *, own=None, accept=None):
        start, found = time.perf_counter(), {}
        request = Request(study.sha256, "run", "score", phase, round, dict(arrays))
        for name in sites_asked:
            settings, site = sites[name]
            mine = replace(request, arrays={**request.arrays, **(own or {}).get(name, {})})
            body = release(Answer(site.answer(mine), {}), mine, stage="calibrate", settings=settings).body
            found[name] = decode_payload(body, payload_type("calibrate", phase), stamp_of(mine, name))
        took[phase.startswith("+")] += time.perf_counter() - start
        return Replies(found, {})

    (folder / "run").mkdir()
    start = time.perf_counter()
    SecureSums(study, step, "run", ask, folder / "run").add("moments", 0, {})
    opening = time.perf_counter() - start - sum(took.values())
    return took[True], took[False] + opening


def test_seconds_by_number_of_hospitals(tmp_path: Path) -> None:
    lines = [f"{'hospitals':>9} {'keys for 16 sums':>17} {'one sum':>8} {'a sum, a hospital':>18}   (seconds of all)"]
    spent = {}
    for n in SIZES:
        keys, one = spent[n] = timed(tmp_path / str(n), n)
        lines.append(f"{n:>9} {keys:>17.2f} {one:>8.2f} {one / n:>18.4f}")
        print(lines[-1], flush=True)
    if os.environ.get("ECGFED_TABLE"):
        Path(os.environ["ECGFED_TABLE"]).write_text("\n".join(lines) + "\n")
    # Below the square of their number: half of a sum's work is one message a hospital and part.
    assert spent[SIZES[-1]][1] / spent[SIZES[0]][1] < (SIZES[-1] / SIZES[0]) ** 2
