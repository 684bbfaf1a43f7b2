"""Training with updates in fewer bytes: what comes of it, what travels, and that a round asked again is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import SITES, SmallFederation
from safetensors.numpy import load_file

from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

TRAIN = {"rounds": 4, "local": {"epochs": 2, "batch_size": None}}


def trained(federation: SmallFederation, name: str, **changes: Any) -> tuple[Path, np.ndarray]:
    study = federation.study(
        sites={"train": list(SITES[:3])},
        steps=[{"id": "cohorts", "stage": "describe"}, federation.train(**TRAIN | changes)],
    )
    run = simulate(study, federation.sites(SITES[:3]), federation.folder / name)
    return run, load_file(run / "artefacts" / "risk.safetensors")["weights"]


def bytes_in(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [size for line in lines if line["phase"] == "fit" for size in line["bytes_in"].values()]


@pytest.mark.parametrize(("kind", "share", "off"), [("bf16", 0.6, 0.005), ("int8", 0.4, 0.02)])
def test_it_ends_close_to_the_whole_updates(federation: SmallFederation, kind: str, share: float, off: float) -> None:
    """A few percent of the way at most, and a share of the bytes: the small model's messages are a third of headers."""
    whole, plain = trained(federation, "plain")
    run, found = trained(federation, kind, compress=kind)
    first = trained(federation, "one", rounds=1)[1]
    way = np.linalg.norm(plain - first)
    assert way > 0
    assert np.linalg.norm(found - plain) < off * np.linalg.norm(plain)
    assert max(bytes_in(run)) < share * min(bytes_in(whole))
    folder = RunFolder.reopen(run)
    folder.close()
    assert folder.artefact("risk").result.absent == {}
    kept = sorted(p.name for p in (federation.folder / "state" / SITES[0] / "runs").rglob("rounded_off-*"))
    assert kept[-1] == "rounded_off-4.safetensors"
