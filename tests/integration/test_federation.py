"""The whole path in process: federated equals pooled, liars are left out, a killed run ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from client.app import app
from ecgshared.errors import ConfigError, RunError, TooFewError
from ecgshared.wire.bytes import body_of, pack, to_records, unpack
from server.report.html import render
from server.rounds.run_folder import RunFolder
from server.rounds.study_run import run_study
from simulations.federation.grid import InProcessGrid
from simulations.federation.pooled import pooled_twin
from simulations.federation.run import simulate


def weights(run: Path, step: str = "risk") -> np.ndarray:
    artefact = _reopened(run).artefact(step)
    assert artefact is not None
    return artefact.arrays["weights"]


def _reopened(run: Path) -> RunFolder:
    folder = RunFolder.reopen(run)
    folder.close()
    return folder


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


ONE_FULL_BATCH_STEP = {
    "rounds": 1,
    "heads": ["scd_2y", "death_2y", "male"],
    "model": {"blocks": 1, "width": 8, "groups": 2, "hidden": 8, "dropout": 0.0, "covariates": ["age"]},
    "precision": "fp64",
    "local": {"steps": 1, "batch_size": None},
    "optimiser": {"name": "sgd", "lr": 0.5},
    "head_weights": {"scd_2y": 2.0},
}


def test_one_full_batch_step_over_sites_equals_the_pooled_step(federation):
    """fp64, SGD, no dropout, heads masked differently by site, through the real apps: equal to 1e-10.

    `coast` knows no deaths and so offers only `male`; `valley` knows no causes of death and so not `scd_2y`.
    """
    study = federation.study(steps=[{"id": "cohorts", "stage": "describe"}, federation.train(**ONE_FULL_BATCH_STEP)])
    lacks = {"coast": ("death_date", "death_cause", "data_end"), "valley": ("death_cause",)}
    sites = federation.sites(lacks=lacks, compute={"precision": "fp64"})
    twin = pooled_twin(study, sites, federation.folder / "twin")
    federated = weights(simulate(study, sites, federation.folder / "federated"))
    pooled = weights(simulate(twin.study, twin.sites, federation.folder / "pooled", held=twin.held))
    offered = _reopened(federation.folder / "federated").artefact("cohorts").result.sites
    assert {site: sorted(offered[site].heads_offered) for site in ("north", "coast", "valley")} == {
        "north": ["death_2y", "male", "scd_2y"],
        "coast": ["male"],
        "valley": ["death_2y", "male"],
    }
    assert federated.dtype == np.float64
    assert np.abs(federated - _start(study)).max() > 1e-4
    np.testing.assert_allclose(federated, pooled, rtol=0, atol=1e-10)


def _start(study: Path) -> np.ndarray:
    from ecgshared.stages.train import Config
    from ecgshared.stages.train_net import initial_weights
    from ecgshared.study.study import load_study

    loaded = load_study(study)
    step = loaded.step("risk")
    assert isinstance(step, Config)
    return initial_weights(step, loaded)[1]


@pytest.mark.parametrize("strategy", ["fedprox", "fedadam", "fedmedian", "fedtrimmedavg", "krum", "fedbn"])
def test_every_strategy_runs_by_name(federation, strategy):
    local = {"steps": 1, "batch_size": 16, "prox_mu": 0.1 if strategy == "fedprox" else 0.0}
    step = federation.train(
        rounds=1, local=local, strategy={"name": strategy}, model={**federation.train()["model"], "norm": "batch"}
    )
    study = federation.study(
        steps=[{"id": "cohorts", "stage": "describe"}, step], sites={"train": ["north", "coast", "valley"]}
    )
    run = simulate(study, federation.sites(("north", "coast", "valley")), federation.folder / "run")
    assert np.isfinite(weights(run)).all()


class Corrupting(InProcessGrid):
    """A network, or a site, that spoils one site's training reply in one way."""

    def __init__(self, files: list[Path], node: int, spoil: Any) -> None:
        super().__init__(app, files)
        self._node, self._spoil = node, spoil

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        return [self._spoiled(reply) if reply.metadata.src_node_id == self._node else reply for reply in replies]

    def _spoiled(self, reply: Message) -> Message:
        if "body" not in reply.content:
            return reply
        header, arrays = unpack(body_of(reply.content))
        if "update" in arrays:
            reply.content = self._spoil(header, arrays)
        return reply


def _nan(header, arrays):
    update = arrays["update"].copy()
    update[3] = np.nan
    return to_records(pack(header, {**arrays, "update": update}))


def _short(header, arrays):
    return to_records(pack(header, {**arrays, "update": arrays["update"][:-1]}))


def _other_study(header, arrays):
    header["stamp"]["study_hash"] = "0" * 64
    return to_records(pack(header, arrays))


def _garbage(header, arrays):
    return RecordDict({"body": ArrayRecord({"body": Array(np.arange(50, dtype=np.uint8))})})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(_nan, "not-finite"), (_short, "wrong-shape"), (_other_study, "something else"), (_garbage, "malformed")],
)
def test_a_spoiled_reply_is_left_out_and_named(federation, spoil, reason):
    study = federation.study(federation={"quorum": 2, "deadline_seconds": 60, "retries": 0})
    sites = federation.sites()
    folder = RunFolder.create(federation.folder / "run", study, backend="inprocess")
    run_study(Corrupting(sites, 3, spoil), folder, lambda *_: None)
    folder.close()
    artefact = folder.artefact("risk")
    assert artefact is not None
    assert any(reason in told for told in artefact.result.absent["coast"])
    assert np.isfinite(artefact.arrays["weights"]).all()


def test_below_quorum_the_run_pauses_with_a_reason_and_goes_on_when_the_site_is_back(federation):
    study, sites = federation.study(), federation.sites()
    folder = RunFolder.create(federation.folder / "run", study, backend="inprocess")
    with pytest.raises(RunError, match="2 of 3 needed sites"):
        run_study(Corrupting(sites, 3, _nan), folder, lambda *_: None)
    assert folder.info["status"] == "paused"
    folder.close()
    simulate(study, sites, federation.folder / "run", resume=True)
    assert _reopened(federation.folder / "run").info["status"] == "done"


def test_a_run_killed_and_resumed_ends_with_the_same_weights(federation):
    """Though its last checkpoint is damaged besides: that is named, and the one before gone on from."""
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train(rounds=6, optimiser={"name": "adam", "lr": 0.01})]
    study, sites = federation.study(steps=steps), federation.sites(seed=None)
    whole = weights(simulate(study, sites, federation.folder / "whole"))
    out = federation.folder / "killed"
    command = [sys.executable, "-m", "ecgshared", "simulate", "run", str(study), *map(str, sites), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_rounds(out, 3, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    rounds_before = sum(line["phase"] == "fit" for line in history(out))
    assert 2 <= rounds_before < 6, "the kill came too late to show anything"
    last = out / "steps" / "risk" / "checkpoint.bin"
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.unlink()  # killed at the wrong moment, the one before may yet be the same file
    last.write_bytes(content)
    simulate(study, sites, out, resume=True)
    np.testing.assert_array_equal(weights(out), whole)
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [event["what"] for event in events] == ["checkpoint damaged"]
    assert "step risk: checkpoint.bin is cut short or was changed" in events[0]["why"]


def _wait_for_rounds(out: Path, rounds: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if (out / "history.jsonl").exists() and sum(line["phase"] == "fit" for line in history(out)) >= rounds:
            return
        time.sleep(0.01)
    raise AssertionError("the run never came so far")


def test_optimiser_state_kept_at_the_site_changes_the_outcome_and_survives_a_repeated_round(federation):
    keep = {"name": "adam", "lr": 0.01, "between_rounds": "keep"}
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train(rounds=3, optimiser=keep)]
    kept = weights(simulate(federation.study(steps=steps), federation.sites(), federation.folder / "kept"))
    again = weights(simulate(federation.study(steps=steps), federation.sites(), federation.folder / "again"))
    np.testing.assert_array_equal(kept, again)
    steps = [
        {"id": "cohorts", "stage": "describe"},
        federation.train(rounds=3, optimiser=keep | {"between_rounds": "reset"}),
    ]
    reset = weights(simulate(federation.study(steps=steps), federation.sites(), federation.folder / "reset"))
    assert np.abs(kept - reset).max() > 1e-5


def test_small_groups_are_withheld_and_the_run_goes_on(federation):
    # A step of plain training is of no fewer patients than a group may be.
    train = federation.train(local={"epochs": 3, "batch_size": 64})
    study = federation.study(steps=[{"id": "cohorts", "stage": "describe"}, train])
    sites = federation.sites(limits={"min_patients": 30, "min_events": 2})
    run = simulate(study, sites, federation.folder / "run")
    artefact = _reopened(run).artefact("cohorts")
    assert artefact is not None
    labelled = artefact.result.sites["north"].labelled["male"]
    assert labelled["validation"] is None
    assert labelled["train"] is not None


def test_a_site_that_did_not_approve_the_study_is_named_before_anything_runs(federation):
    study, sites = federation.study(), federation.sites()
    changed = federation.folder / "changed.yaml"
    changed.write_text(study.read_text().replace("seed: 5", "seed: 6"))
    with pytest.raises(ConfigError, match="has not approved study 'tiny' as it is now; the one it names has this name"):
        simulate(changed, sites, federation.folder / "run")
    assert not (federation.folder / "run").exists()


def test_the_lockbox_is_not_read_before_a_step_that_opens_it(federation):
    simulate(federation.study(), federation.sites(), federation.folder / "run")
    assert not (federation.folder / "state" / "north" / "lockbox.jsonl").exists()


def test_no_identifier_of_a_patient_or_a_file_is_in_a_run_folder_or_a_log(federation):
    run = simulate(federation.study(), federation.sites(), federation.folder / "run")
    table = (federation.hospitals / "sites" / "north" / "cohort.csv").read_text().splitlines()
    words = {cell for line in table[1:40] for cell in line.split(",")[:3] if len(cell) >= 5}
    assert len(words) > 20
    outside = [p for p in run.rglob("*") if p.is_file()]
    logs = list((federation.folder / "state").rglob("*.log")) + list((federation.folder / "state").rglob("*.jsonl"))
    for path in outside + logs:
        content = path.read_bytes()
        assert not [word for word in words if word.encode() in content], path


def test_a_step_that_no_hospital_is_large_enough_for_is_left_out_and_the_others_are_done(federation):
    study = federation.study(
        steps=[
            {"id": "cohorts", "stage": "describe"},
            federation.train(),
            # Deaths of people younger than forty: nobody has enough of them.
            {
                "id": "young",
                "stage": "calibrate",
                "uses": ["risk"],
                "target": "death_2y",
                "inputs": ["risk.death_2y", "age"],
                "max_age": 30,
            },
            {"id": "judged_young", "stage": "evaluate", "uses": ["young"]},
            {"id": "judged", "stage": "evaluate", "uses": ["risk"], "score": "risk.death_2y"},
        ]
    )
    sites = federation.sites(limits={"min_patients": 10, "min_events": 5})
    run = simulate(study, sites, federation.folder / "run")
    info = _reopened(run).info
    assert info["status"] == "done"
    assert sorted(info["left_out"]) == ["judged_young", "young"]
    assert info["left_out"]["judged_young"] == "needs young, left out"
    assert sorted(path.stem for path in (run / "artefacts").glob("*.json")) == ["cohorts", "judged", "risk"]
    page = render(run).read_text()
    assert "Left out:</b> young, judged_young" in page
    assert "No result yet" not in page


def test_a_run_of_which_only_descriptions_would_be_left_is_no_run(federation):
    calibrate = {"id": "young", "stage": "calibrate", "uses": ["cohorts"], "target": "death_2y", "inputs": ["age"]}
    study = federation.study(steps=[{"id": "cohorts", "stage": "describe"}, calibrate | {"max_age": 30}])
    with pytest.raises(TooFewError, match="young"):
        simulate(study, federation.sites(limits={"min_patients": 10, "min_events": 5}), federation.folder / "run")
    assert _reopened(federation.folder / "run").info["status"] == "paused"
