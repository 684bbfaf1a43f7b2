"""A coordinator's hand: asks one hospital through its own door (gate, outbox, logs, memory) and reads the answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from client.answer import Site, answer_bytes
from client.dataset.data import SiteData
from client.site.settings import SiteSettings, load_site
from ecgshared.config import validate
from ecgshared.study.endpoints import EventTimes
from ecgshared.study.study import Study
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Request, payload_type


def cohort(
    n: int = 120,
    *,
    train: float = 0.5,
    heads: tuple[str, ...] = ("dead",),
    seed: int = 1,
    age: np.ndarray | None = None,
    y: np.ndarray | None = None,
    fs: int = 100,
    samples: int = 10,
    covariates: dict[str, np.ndarray] | None = None,
    signals: np.ndarray | None = None,
    events: dict[str, EventTimes] | None = None,
    populations: dict[str, np.ndarray] | None = None,
) -> SiteData:
    """Make a cohort of one ECG a patient; ``train`` is the share of them, the others validate."""
    rng = np.random.default_rng(seed)
    age = np.round(rng.uniform(30, 90, n), 2) if age is None else age
    y = (rng.random((n, len(heads))) < 0.3).astype(float) if y is None else y
    return SiteData(
        signals=np.zeros((n, 12, samples), np.int16) if signals is None else signals,
        patient=np.arange(n),
        split=(rng.random(n) > train).astype(np.int8),
        heads=tuple(heads),
        labels=y.astype(np.float32),
        age=age.astype(np.float32),
        male=(rng.random(n) < 0.5).astype(np.float32),
        covariates={name: values.astype(np.float32) for name, values in (covariates or {}).items()},
        fs_hz=fs,
        patients_known=True,
        flow=(("rows", n, n),),
        descriptions={},
        follow_up_years=np.full(n, np.nan, np.float32),
        event_times=events or {},
        populations=populations or {},
    )


def study(text: str = "", **more: Any) -> Study:
    """Return a study of one training hospital, ``north``; ``text`` and ``more`` are its keys."""
    base = {
        "name": "asked",
        "sites": {"train": ["north"]},
        "endpoints": {"dead": {"kind": "binary", "column": "dead"}},
        "steps": [{"id": "d", "stage": "describe"}],
    }
    return validate(Study, base | (yaml.safe_load(text) or {}) | more, where="study")


class Hospital:
    """One hospital with a cohort in memory; ``data`` may be put in the place of another one."""

    def __init__(self, folder: Path, data: SiteData, **more: Any) -> None:
        self.path = folder / "site.yaml"
        base = {"site": "north", "records": {"folder": "records"}, "state": str(folder / "state")}
        base |= {"table": {"path": "c.csv", "columns": {"file": "file"}}}
        folder.mkdir(parents=True, exist_ok=True)
        self.path.write_text(yaml.safe_dump(base | more))
        self.holds(data)

    @property
    def settings(self) -> SiteSettings:
        return load_site(self.path)

    def holds(self, data: SiteData) -> None:
        """Let the hospital hold other data, as a process that is started anew would find them."""
        self.data, self.site = data, Site(self.path, data)

    def ask(self, asked: Study, step: str, phase: str, *, round: int = 0, run: str = "r", **arrays: Any) -> Any:
        """Ask one question and return the payload; ``a__b`` stands for the array ``a.b``."""
        named = {key.replace("__", "."): np.asarray(value) for key, value in arrays.items()}
        request = Request(asked.sha256, run, step, phase, round, named)
        body = answer_bytes(self.site, asked, request)
        declared = payload_type(asked.step(step).stage, phase)
        assert declared is not None
        return decode_payload(body, declared, stamp_of(request, "north"))

    def without(self, *patients: int) -> SiteData:
        """Return the cohort as it is without some patients, who keep their lasting keys."""
        data = self.keyed()
        return data.subset(np.flatnonzero(~np.isin(data.patient, patients)))

    def keyed(self) -> SiteData:
        """Return the cohort with lasting keys, one for each row."""
        keys = np.arange(len(self.data), dtype=np.uint64)
        return replace(self.data, record_keys=keys, patient_keys=keys)
