"""One made hospital with a known truth, asked through a hospital's own door: gate, outbox, logs and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from client.answer import Site, answer_bytes
from client.dataset.data import SiteData
from ecgshared.arrays import Floats
from ecgshared.config import validate
from ecgshared.errors import Refused
from ecgshared.study.study import Study
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Request, payload_type

SITE = "north"
UNPROTECTED = {"limits": {"min_patients": 1, "min_events": 0}, "privacy": {"weights": "plain"}}
"""A site file that permits everything."""
PROTECTED: dict[str, Any] = {"privacy": {"weights": "secure_sum"}}
"""The defaults of a hospital on a network."""
GROUPS: dict[str, Any] = {"privacy": {"weights": "plain"}}
"""Limits and the memory of groups, and weights in the clear."""
PRIVATE: dict[str, Any] = {"privacy": {"weights": "private"}}


@dataclass(frozen=True)
class Attack:
    """What is tried: gives a share of 0 (nothing) to 1 from a site file's keys, a generator and an epsilon or None.

    Attributes
    ----------
    measure : what the share is of. ``concerns``: the stages of a study that it aims at.
    private : whether private training stands against it. ``door``: whether the hospital's door does.
    """

    run: Callable[[dict[str, Any], np.random.Generator, float | None], float]
    measure: str
    concerns: tuple[str, ...]
    private: bool = False
    door: bool = True


def made_cohort(
    n: int, rng: np.random.Generator, *, fs: int = 100, seconds: float = 2.0, train: float = 0.5, lockbox: float = 0.0
) -> SiteData:
    """Make a cohort of one ECG a patient, with age, sex, LVEF, BMI and a label that none of them tells."""
    split = rng.choice(3, n, p=(train, 1 - train - lockbox, lockbox)).astype(np.int8)
    return SiteData(
        signals=beats(n, rng, fs, round(fs * seconds)),
        patient=np.arange(n, dtype=np.int64),
        split=split,
        heads=("dead",),
        labels=(rng.random((n, 1)) < 0.3).astype(np.float32),
        age=np.round(rng.uniform(30, 90, n), 2).astype(np.float32),
        male=(rng.random(n) < 0.5).astype(np.float32),
        covariates={
            "lvef": np.round(rng.uniform(0.2, 0.7, n), 2).astype(np.float32),
            "bmi": np.round(rng.uniform(18, 40, n), 1).astype(np.float32),
        },
        fs_hz=fs,
        patients_known=True,
        flow=(("rows", n, n),),
        descriptions={},
        follow_up_years=np.full(n, np.nan, np.float32),
    )


def beats(n: int, rng: np.random.Generator, fs: int, samples: int) -> NDArray[np.int16]:
    """Draw signals of twelve leads, shape = (n, 12, samples), uV: P, QRS and T at each person's own rate and phase."""
    t = np.arange(samples) / fs
    waves = ((0.15, -0.18, 0.03), (-0.1, -0.03, 0.02), (1.1, 0.0, 0.02), (-0.25, 0.035, 0.02), (0.3, 0.25, 0.05))
    out = np.zeros((n, 12, samples))
    for i in range(n):
        cycle = rng.uniform(0.7, 1.1)
        phase = (t + rng.uniform(0, 1)) % cycle - 0.35
        beat = sum(height * np.exp(-(((phase - at) / width) ** 2)) for height, at, width in waves)
        out[i] = rng.normal(0, 0.6, 12)[:, None] * beat + 0.02 * rng.standard_normal((12, samples))
    return (1000 * out).astype(np.int16)


def asked(name: str, steps: list[dict[str, Any]], **more: Any) -> Study:
    """Return a study of the one hospital."""
    base: dict[str, Any] = {"name": name, "sites": {"train": [SITE]}, "steps": steps, "covariates": ["lvef", "bmi"]}
    base |= {"endpoints": {"dead": {"kind": "binary", "column": "dead"}}, "input": {"fs_hz": 100, "seconds": 2}}
    return validate(Study, base | more, where="study")


class Door:
    """The hospital's door; ``questions`` and ``refused`` count what was asked."""

    def __init__(self, data: SiteData, site: dict[str, Any]) -> None:
        folder = Path(mkdtemp(prefix="ecgfed-attack-"))
        content = {"site": SITE, "records": {"folder": "records"}, "state": str(folder / "state")}
        path = folder / "site.yaml"
        table = {"path": "none.csv", "columns": {"file": "file"}}
        path.write_text(yaml.safe_dump(content | {"table": table} | site), encoding="utf-8")
        self.folder, self._site = folder, Site(path, data)
        self.questions = self.refused = 0

    def ask(self, study: Study, step: str, phase: str, arrays: dict[str, Any] | None = None, round: int = 0) -> Any:
        """Ask one question; return the payload, or None where it is refused."""
        self.questions += 1
        named = {name: np.asarray(value) for name, value in (arrays or {}).items()}
        request = Request(study.sha256, "run", step, phase, round, named)
        try:
            body = answer_bytes(self._site, study, request)
        except Refused:
            self.refused += 1
            return None
        declared = payload_type(study.step(step).stage, phase)
        assert declared is not None
        return decode_payload(body, declared, stamp_of(request, SITE))


def totals(step: str, mean: float = 0.0, sd: float = 1.0) -> dict[str, Floats]:
    """Return what a describe step would give a train step, with one's own standardisation of age."""
    rest = [[0.0, 1.0]] * 3
    return {
        f"{step}.head_counts": np.ones(1),
        f"{step}.site_weights": np.ones(1),
        f"{step}.standardise": np.array([[mean, sd], *rest]),
    }
