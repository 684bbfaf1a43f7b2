"""Beats from hospitals' files to a report of morphs: trained, moved, shown at the site; and what may not leave."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from client.answer import Site
from client.egress.gate import release
from client.operator.cli import app
from client.operator.single_morphs import single_morphs
from client.stages.morph import chosen, morphed
from ecgshared.errors import Refused, RunError
from ecgshared.stages.morph import Moved
from ecgshared.study.study import load_study
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Request
from server.report.cli import rebuild
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

NET = {"name": "beat_risk", "blocks": 1, "width": 8, "groups": 2, "hidden": 8}
VAE = {"name": "beat_vae", "preset": "small", "latent": 6, "hidden": 16, "risk": "net.death_2y"}
LIMITS = {"min_patients": 4, "min_events": 0}
WIDTH = 60


def steps(net=None, vae=None, **morph):
    shared = {"stage": "train", "uses": ["cohorts"], "rounds": 2, "local": {"epochs": 2, "batch_size": 16}}
    fast = {"name": "adam", "lr": 5e-3, "schedule": {"kind": "cosine", "warmup_rounds": 1}}
    moved = {"id": "moved", "stage": "morph", "uses": ["net", "vae"], "risk": "net.death_2y", "steps": 40, "rate": 0.5}
    return [
        {"id": "cohorts", "stage": "describe"},
        {"id": "net", "model": NET, "heads": ["death_2y"], "optimiser": fast} | shared | (net or {}),
        {"id": "vae", "model": VAE, "optimiser": fast} | shared | {"uses": ["cohorts", "net"]} | (vae or {}),
        moved | morph,
    ]


def ran(federation, name="run", limits=LIMITS, **changes):
    content = {
        "steps": steps(**changes),
        "input": {"fs_hz": 100, "seconds": 8, "band_hz": [0.5, 40]},
        "split": {"train": 0.4, "validation": 0.6, "lockbox": 0.0},
    }
    study = federation.study(**content)
    sites = federation.sites(limits=limits)
    return simulate(study, sites, federation.folder / name), sites


def artefact(run, step):
    folder = RunFolder.reopen(run)
    folder.close()
    return folder.artefact(step)


def test_from_record_to_report(federation):
    run, sites = ran(federation)
    result = artefact(run, "moved").result
    assert result.low_logit < result.high_logit
    up = result.pooled["up"]["training"]
    assert np.shape(up.start_uv) == np.shape(up.end_uv) == (12, WIDTH)
    assert up.path[-1].mean > up.path[0].mean
    down = result.pooled["down"]["training"]
    assert down.path[-1].mean < down.path[0].mean
    assert set(result.sites["up"]) == {"north", "coast", "valley", "island"}
    assert result.sites["up"]["island"].group == "zero_shot"
    assert up.patients == sum(s.patients for s in result.sites["up"].values() if s.group == "training")
    assert -1 <= result.agreement["training"] <= 1
    # A mean beat may be at the target where it starts: the net is hardly trained.
    made = result.from_mean
    assert made.logit_after > made.logit_before if made.steps else made.logit_before >= result.high_logit
    page = rebuild(run)[0].read_text()
    for words in ("low-risk beats, moved up", "Predicted risk along the way", "One morph: of the mean low-risk beat"):
        assert words in page
    # What left: two rows, one a direction, and never a row for each ECG.
    shapes = set()
    for path in (federation.folder / "state").glob("*/releases.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if entry["kind"] == "Moved":
                shapes |= {(name, tuple(field["shape"])) for name, field in entry["fields"].items()}
    assert {shape[0] for _, shape in shapes} == {2}
    assert ("end", (2, 12, WIDTH)) in shapes
    _single_morphs_stay_here(federation, run, sites)


def _single_morphs_stay_here(federation, run, sites):
    """The site's own figure, against what it moves; the mean over its patients is what it told."""
    study = load_study(run / "study.yaml")
    request = Request(study.sha256, "another", "moved", "morph", 0, arrays_of(run, study))
    context = Site(sites[0]).context(study, request, ledger=None)
    answer = morphed(context, request)
    # Word for word the same question is free, another is refused.
    again = replace(request, arrays={**request.arrays, "cuts": request.arrays["cuts"] + 0.01})
    with pytest.raises(Refused, match="spent"):
        morphed(context, again)
    rows = np.flatnonzero(context.data.split == 1)
    _one_person(federation, run, sites[0], context)
    assert answer.payload.end.shape == (2, 12, WIDTH)
    assert not np.allclose(answer.payload.end[0], answer.payload.start[0], equal_nan=True)
    assert len(rows) > answer.payload.counts[0, 0]


def _one_person(federation, run, site, context):
    """By the command: pictures here, nothing among the releases, and clear words where there is nobody."""
    runner, out = CliRunner(), federation.folder / "pictures"
    table = yaml.safe_load(site.read_text())["table"]
    with Path(table["path"]).open(encoding=table["encoding"], newline="") as file:
        ids = [row[table["columns"]["patient_id"]] for row in csv.DictReader(file, delimiter=table["separator"])]
    before = (context.settings.state / "releases.jsonl").read_bytes()
    args = ["morph", str(site), str(run), "--patient", ids[0]]
    shown = runner.invoke(app, [*args, "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "nothing was sent" in shown.output
    pictures = list(out.glob("*.png"))
    assert pictures
    assert all(path.stat().st_mode & 0o077 == 0 for path in pictures)
    (single, *_) = single_morphs(site, context.settings, str(run), ids[0])
    assert single.after >= single.before
    assert single.end.shape == (12, WIDTH)
    down = single_morphs(site, context.settings, str(run), ids[0], direction="down")[0]
    assert down.after <= down.before
    assert (context.settings.state / "releases.jsonl").read_bytes() == before
    for wrong, words in ((["--patient", "nobody"], "nobody whom"), (["--direction", "left"], "no such direction")):
        failed = runner.invoke(app, [*args, *wrong])
        assert words in str(failed.exception), failed.exception
    with pytest.raises(RunError, match="moved no beats in such a run"):
        single_morphs(site, context.settings, "other", ids[0])


def arrays_of(run, study):
    found = {}
    for step in ("net", "vae"):
        found |= {f"{step}.{name}": array for name, array in artefact(run, step).arrays.items()}
    result = artefact(run, "moved").result
    return found | {"cuts": np.array([result.low_logit, result.high_logit])}


def test_no_message_carries_a_beat_of_fewer_than_k_patients(federation):
    """A coordinator tries: cuts that leave few people, few beats asked for, and a population of few."""
    run, sites = ran(federation)
    study = load_study(run / "study.yaml")
    arrays = arrays_of(run, study)
    few = LIMITS["min_patients"] - 1

    def told(run_name, cuts, beats):
        request = Request(study.sha256, run_name, "moved", "morph", 0, {**arrays, "cuts": np.array(cuts)})
        context = Site(sites[0]).context(study, request, ledger=None)
        step = context.step.model_copy(update={"beats": beats, "max_mse": 10.0})
        elsewhere = context.settings.model_copy(update={"state": context.settings.state / run_name})
        context = replace(context, step=step, state=federation.folder / run_name, settings=elsewhere)
        made = release(morphed(context, request), request, stage="morph", settings=context.settings)
        return decode_payload(made.body, Moved, stamp_of(request, context.settings.site))

    beats = ("real", "start", "end", "spread", "path", "reached", "measured", "by_lead")
    logits = _logits(federation, study, sites[0], arrays)
    alone = np.sort(logits)[[0, -1]]
    for name, cuts, most in (
        ("alone", (alone[0], alone[1]), 56),
        ("few", (np.sort(logits)[few - 1], alone[1]), few),
        ("asked", (np.median(logits) - 1e-3, np.median(logits)), few),
    ):
        found = told(name, cuts, most)
        for field in beats:
            assert np.isnan(getattr(found, field)).all(), (name, field)
        assert np.isnan(found.counts[:, 0]).all()
    enough = told("enough", (np.median(logits) - 1e-3, np.median(logits)), few + 1)
    assert np.isfinite(enough.end).all()
    assert enough.counts[0, 0] == few + 1


def _logits(federation, study, site, arrays):
    from client.rows.logits import head_logits

    request = Request(study.sha256, "r", "moved", "risks", 0, {})
    context = Site(site).context(study, request, ledger=None)
    found = head_logits(context, study.step("net"), arrays, context.data.rows("validation"))[:, 0]
    return found[np.isfinite(found)]


def test_one_beat_of_each_patient_and_nobody_in_both():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 3)
    rows = np.arange(0, 120)
    logit = rng.standard_normal(120)
    low, high = chosen(rows, logit, patient, (0.0, 0.8), 10, rng)
    assert len(low) == len(high) == 10
    everybody, _ = chosen(rows, logit, patient, (5.0, 6.0), 56, rng)
    assert len(everybody) == 32
    for of in (low, high):
        assert len(np.unique(patient[of])) == len(of)
    assert not np.isin(patient[low], patient[high]).any()
    assert (logit[low] <= 0).all()
    assert (logit[high] >= 0.8).all()


def test_both_nets_train_privately(federation):
    private = {
        "privacy": {"epsilon": 3.0, "delta": 1e-3, "expected_batch_size": 8},
        "local": {"steps": 2, "batch_size": None},
        "rounds": 1,
    }
    run, _ = ran(federation, net=private, vae=private, steps=3)
    for step in ("net", "vae"):
        accounts = artefact(run, step).result.privacy.sites
        assert len(accounts) == 3
        assert all(0 < a.epsilon_spent <= 3.0 for a in accounts.values())
        assert np.isfinite(artefact(run, step).arrays["weights"]).all()
