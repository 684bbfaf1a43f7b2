"""Runs stages over hand-made sites in one process, through the real handlers and the real egress gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from client.dataset.data import SiteData
from client.egress.gate import release
from client.rows.context import SiteContext
from client.rows.groups import groups_of
from client.site.settings import SiteSettings
from ecgshared.errors import Refused
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.study.registry import room, shared_room
from ecgshared.study.study import Study
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import SPLITS, Request, payload_type
from server.rounds.step_context import Artefact, Replies, StepContext

UNGATED = DisclosureLimits(min_patients=1, min_events=0)


def study(steps: list[dict[str, Any]], *, train=("a", "b"), zero_shot=("c",), **keys: Any) -> Study:
    return Study.model_validate(
        {
            "name": "test",
            "sites": {"train": train, "zero_shot": zero_shot},
            "covariates": ["bmi", "lvef"],
            "endpoints": {
                "event": {"kind": "binary", "column": "event"},
                "sex": {"kind": "binary", "column": "male"},
            },
            "steps": steps,
            **keys,
        }
    )


def site_data(
    seed: int, patients: int, *, split: str | None = None, shift: float = 0.0, base: float = -2.0, known: bool = True
) -> SiteData:
    """ECGs of patients with one to four each; the event depends on age, bmi, lvef and sex."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    n = len(patient)
    age = np.round(rng.normal(60 + 5 * shift, 15, patients).clip(18, 100)[patient] + rng.random(n), 2)
    male = (rng.random(patients) < 0.5).astype(float)[patient]
    bmi, lvef = rng.normal(27 + shift, 4, n), rng.uniform(0.2, 0.7, n)
    eta = base + 0.04 * (age - 60) + 0.1 * (bmi - 27) - 5 * (lvef - 0.5) + 0.5 * male
    event = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(float)
    event[rng.random(n) < 0.03] = np.nan
    bmi[rng.random(n) < 0.02] = np.nan
    chosen = rng.choice(3, patients, p=[0.3, 0.3, 0.4]) if split is None else np.full(patients, SPLITS.index(split))
    return SiteData(
        signals=np.zeros((n, 12, 1), dtype=np.int16),
        patient=patient,
        split=chosen[patient].astype(np.int8),
        heads=("event", "sex"),
        labels=np.stack([event, male], axis=1).astype(np.float32),
        age=age.astype(np.float32),
        male=male.astype(np.float32),
        covariates={"bmi": bmi.astype(np.float32), "lvef": lvef.astype(np.float32)},
        fs_hz=100.0,
        patients_known=known,
        flow=(),
        descriptions={},
        follow_up_years=np.full(n, np.nan, dtype=np.float32),
    )


@dataclass
class Federation:
    """``gone`` names (site, phase, round) from which on a site does not answer, ``away`` those at which alone it does
    not; ``sent`` collects what left."""

    study: Study
    data: Mapping[str, SiteData]
    limits: DisclosureLimits = UNGATED
    gone: set[tuple[str, str, int]] = field(default_factory=set)
    away: set[tuple[str, str, int]] = field(default_factory=set)
    sent: list[tuple[str, str, Any]] = field(default_factory=list)
    artefacts: dict[str, Artefact] = field(default_factory=dict)
    state: Path = Path("state")

    def settings(self, site: str) -> SiteSettings:
        return SiteSettings.model_validate(
            {
                "site": site,
                "records": {"folder": "records"},
                "table": {"path": "table.csv", "columns": {"file": "file"}},
                "limits": self.limits.model_dump(),
                "state": str(self.state / site),
            }
        )

    def context(self, step_id: str, site: str) -> SiteContext:
        step, data, trains = self.study.step(step_id), self.data[site], site in self.study.sites.train
        # Whom a step speaks of: one set of cuts a score and group is answered, and validation patients are no lockbox.
        spoken = [] if self.limits.withhold_nothing else groups_of(data, self.study, step, self.limits, trains=trains)
        return SiteContext(
            settings=self.settings(site),
            study=self.study,
            step=step,
            data=data,
            state=Path("unused"),
            run="run",
            trains=trains,
            ledger=None,
            rng=np.random.default_rng(0),
            spoken=tuple(spoken),
        )

    def run(self) -> dict[str, Artefact]:
        """Run every step that has no artefact yet; return the artefacts by step."""
        with TemporaryDirectory() as state:
            self.state = Path(state)
            return self._run()

    def _run(self) -> dict[str, Artefact]:
        for step in self.study.steps:
            if step.id in self.artefacts:
                continue
            inputs = dict(self.artefacts)

            def ask(phase, *, round=0, arrays=None, sites=None, quorum=None, step=step, inputs=inputs):
                sent = {f"{i}.{k}": v for i, a in inputs.items() for k, v in a.arrays.items()}
                request = Request(self.study.sha256, "run", step.id, phase, round, {**sent, **(arrays or {})})
                answers, absent = {}, {}
                for site in sites or self.study.members(step):
                    left = any(s == site and p == phase and round >= r for s, p, r in self.gone)
                    if left or (site, phase, round) in self.away:
                        absent[site] = "deadline"
                        continue
                    try:
                        answer = room("client", step.stage).PHASES[phase](self.context(step.id, site), request)
                        made = release(answer, request, stage=step.stage, settings=self.settings(site))
                    except Refused as refusal:
                        absent[site] = refusal.code.value
                        continue
                    declared = payload_type(step.stage, phase)
                    answers[site] = decode_payload(made.body, declared, stamp_of(request, site))
                    self.sent.append((site, phase, answers[site]))
                return Replies(answers, absent)

            context = StepContext(
                study=self.study,
                sites=self.study.members(step),
                inputs=inputs,
                ask=ask,
                folder=Path("unused"),
                progress=lambda *_: None,
                rng=np.random.default_rng(0),
            )
            made = room("server", step.stage).run(step, context)
            # As a program reads it in results.json.
            self.artefacts[step.id] = replace(made, result=made.result.model_dump(mode="json"))
        return self.artefacts


def typed(stored: Artefact) -> Artefact:
    """An artefact of :class:`Federation` as the coordinator reads it back from disk."""
    return replace(stored, result=shared_room(stored.stage).Result.model_validate(stored.result))


def pooled(data: Mapping[str, SiteData], sites: tuple[str, ...], split: str, head: int = 0):
    """Stack (age, male, bmi, lvef), label, patient and age-sex of complete rows of several sites."""
    xs, ys, ps, first = [], [], [], 0
    for site in sites:
        d = data[site]
        rows = d.rows(split)
        x = np.column_stack([d.age, d.male, d.covariates["bmi"], d.covariates["lvef"]])[rows].astype(np.float64)
        y = d.labels[rows, head]
        keep = np.isfinite(x).all(axis=1) & np.isfinite(y)
        xs.append(x[keep])
        ys.append(y[keep].astype(int))
        ps.append(d.patient[rows][keep] + first)
        first += 1_000_000
    return np.concatenate(xs), np.concatenate(ys), np.concatenate(ps)


CALIBRATE = {
    "id": "score",
    "stage": "calibrate",
    "target": "event",
    "inputs": ["age", "male", "bmi", "lvef"],
    "max_iterations": 40,
}
