"""A stage, a model and a reader are added by the documented steps, and by nothing else: each in a copy of the code."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from federation import SITES, SmallFederation

import ecgshared
from ecgshared.ecg.leads import LEADS

ROOT = Path(ecgshared.__file__).parents[1]
PACKAGES = ("ecgshared", "client", "server", "simulations")

STAGE = {
    "ecgshared/stages/heights.py": '''
        """heights: the mean age of a site's ECGs, as a stage of its own."""

        from __future__ import annotations

        from dataclasses import dataclass
        from typing import Annotated

        import numpy as np
        from numpy.typing import NDArray
        from pydantic import Field

        from ecgshared.stages.results.base import Number, StageResult
        from ecgshared.wire.protocol import Count, Statistic, StepConfig, payload


        class Config(StepConfig):
            """A step of it."""

            scale: float = Field(default=1.0, gt=0)


        @payload("heights", "ask")
        @dataclass(frozen=True)
        class Mean:
            """Of one site; shape = (1,) each."""

            mean: Annotated[NDArray[np.float64], Statistic()]
            ecgs: Annotated[NDArray[np.float64], Count()]


        class Result(StageResult):
            """By site."""

            mean: dict[str, Number]
    ''',
    "client/stages/heights.py": '''
        """heights, at the site."""

        from __future__ import annotations

        import numpy as np

        from client.rows.context import SiteContext
        from ecgshared.stages.heights import Mean
        from ecgshared.wire.protocol import Answer, Evidence, Request


        def ask(site: SiteContext, request: Request) -> Answer:
            """Answer the phase ``ask``."""
            known = np.flatnonzero(~np.isnan(site.data.age))
            people = Evidence(np.array([len(np.unique(site.data.patient[known]))]))
            mean = np.array([float(site.data.age[known].mean()) * site.step.scale])
            return Answer(Mean(mean, np.array([float(len(known))])), {"mean": people, "ecgs": people})


        PHASES = {"ask": ask}
    ''',
    "server/stages/heights.py": '''
        """heights, at the coordinator."""

        from __future__ import annotations

        from ecgshared.stages.heights import Result
        from ecgshared.wire.protocol import StepConfig
        from server.report.sections import Section, Text
        from server.rounds.step_context import Artefact, StepContext


        def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
            """Ask every site once."""
            replies = context.ask("ask")
            mean = {site: float(r.mean[0]) for site, r in replies.by_site.items()}
            return Artefact(step.id, "heights", Result(mean=mean), {})


        def report(artefact: Artefact[Result]) -> list[Section]:
            """One line."""
            return [Section("Heights of the hospitals", [Text(f"{len(artefact.result.mean)} sites")])]
    ''',
}
MODEL = {
    "ecgshared/models/plainmean.py": '''
        """plainmean: a linear function of each lead's mean absolute voltage."""

        from __future__ import annotations

        from typing import Any, Literal

        from pydantic import Field

        from ecgshared.models.config import BaseModelConfig


        class PlainMeanConfig(BaseModelConfig):
            """What a study says of it."""

            name: Literal["plainmean"]
            gain: float = Field(default=10.0, gt=0)


        def build(config: PlainMeanConfig, heads: Any, samples: int, seed: int, dtype: Any = None) -> Any:
            """Build the net."""
            import torch
            from torch import nn

            class PlainMean(nn.Module):
                def __init__(self) -> None:
                    super().__init__()
                    self.output = nn.Linear(12, len(heads))

                def forward(self, x: Any, covariates: Any) -> Any:
                    return self.output(config.gain * x.abs().mean(-1))

            torch.manual_seed(seed)
            return PlainMean().to(dtype or torch.float32)
    '''
}
READER = {
    "client/readers/toyformat.py": '''
        """toyformat: a magic number, the rate, and twelve leads of int16 microvolts, one after the other."""

        from __future__ import annotations

        import struct
        from pathlib import Path

        import numpy as np

        from client.readers._assemble import assemble, check_rate
        from client.readers._source import read_bytes
        from ecgshared.ecg.leads import LEADS
        from ecgshared.ecg.record import EcgRecord

        MAGIC = b"TOYECG01"


        def sniff(head: bytes, path: Path) -> bool:
            """Tell whether the file starts with the magic number."""
            return head.startswith(MAGIC)


        def read(path: Path) -> EcgRecord:
            """Read the recording."""
            raw = read_bytes(path, 1 << 22)
            (fs,) = struct.unpack_from("<d", raw, 8)
            rows = np.frombuffer(raw, "<i2", offset=16).reshape(12, -1) / 1000.0
            return assemble(LEADS, list(rows), path, fs=check_rate(fs, path), source_format="toy", mv_per_step=0.001)
    '''
}
LINES = {
    "stage": ("ecgshared/study/registry.py", '    "describe",\n', '    "describe",\n    "heights",\n'),
    "model": (
        "ecgshared/models/__init__.py",
        '"cvae": "CvaeConfig"',
        '"cvae": "CvaeConfig", "plainmean": "PlainMeanConfig"',
    ),
}


def copy_with(folder: Path, files: dict[str, str], line: str = "") -> Path:
    """Copy the packages, add files and change one line; return the copy, which differs in nothing else."""
    copy = folder / "code"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in files.items():
        lines = text.strip("\n").splitlines()
        (copy / name).write_text("\n".join(each.removeprefix(" " * 8) for each in lines) + "\n", encoding="utf-8")
    if line:
        name, old, new = LINES[line]
        text = (copy / name).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"the line of the registry in {name} is another one now"
        (copy / name).write_text(text.replace(old, new), encoding="utf-8")
    added, changed = set(), set()
    for path in copy.rglob("*.py"):
        original = ROOT / path.relative_to(copy)
        if not original.exists():
            added.add(path.relative_to(copy).as_posix())
        elif not filecmp.cmp(path, original, shallow=False):
            changed.add(path.relative_to(copy).as_posix())
    assert added == set(files)
    assert changed == ({LINES[line][0]} if line else set())
    return copy


def ecgfed(copy: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ecgshared", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(copy)},
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def run_study(copy: Path, federation: SmallFederation, tmp_path: Path, steps: list[dict[str, object]]) -> Path:
    study, sites = federation.study(steps=steps), federation.sites()
    ecgfed(copy, "simulate", "run", study, *sites, "--out", tmp_path / "run")
    return tmp_path / "run"


def test_a_stage(tmp_path: Path, federation: SmallFederation) -> None:
    steps = [
        {"id": "cohorts", "stage": "describe"},
        {"id": "tall", "stage": "heights", "sites": "all", "scale": 2.0},
    ]
    run = run_study(copy_with(tmp_path, STAGE, "stage"), federation, tmp_path, steps)
    artefact = json.loads((run / "artefacts" / "tall.json").read_text())
    assert artefact["stage"] == "heights"
    assert set(artefact["result"]["mean"]) == set(SITES)
    assert all(60 < mean < 180 for mean in artefact["result"]["mean"].values())
    assert "Heights of the hospitals" in (run / "report.html").read_text()
    results = json.loads((run / "results.json").read_text())
    assert results["steps"]["tall"]["result"] == artefact["result"]


def test_a_model(tmp_path: Path, federation: SmallFederation) -> None:
    train = {**federation.train(), "model": {"name": "plainmean", "gain": 20.0}}
    judge = {"id": "judged", "stage": "evaluate", "uses": ["risk"], "score": "risk.scd_2y"}
    steps = [{"id": "cohorts", "stage": "describe"}, train, judge]
    run = run_study(copy_with(tmp_path, MODEL, "model"), federation, tmp_path, steps)
    result = json.loads((run / "artefacts" / "risk.json").read_text())["result"]
    assert result["model"] == {"name": "plainmean", "gain": 20.0}
    assert result["parameters"] == 2 * 13
    assert (run / "artefacts" / "judged.json").exists()


def test_a_reader(tmp_path: Path) -> None:
    t = np.arange(5000) / 500
    leads = np.outer(np.linspace(0.5, 1.5, 12), 1000 * np.sin(2 * np.pi * 1.2 * t) ** 31)
    file = tmp_path / "some.rec"
    file.write_bytes(b"TOYECG01" + struct.pack("<d", 500.0) + leads.astype("<i2").tobytes())
    copy = copy_with(tmp_path, READER)
    told = json.loads(ecgfed(copy, "read", file, "--json").stdout)
    assert told["format"] == "toy"
    assert told["fs_hz"] == 500
    assert list(told["leads"]) == list(LEADS)
    assert told["leads"]["V6"]["max_mv"] == pytest.approx(1.5, abs=0.01)
    plain = copy_with(tmp_path / "plain", {})
    with pytest.raises(AssertionError, match="known format"):
        ecgfed(plain, "read", file)
