"""kill -9 at random moments of a private round: never less on record than what left.

One hospital in memory answers round after round, of run after run, in a forked process that is killed anywhere between
drawing, noising, ledgers, outbox and sending, a hundred times. What left is what the process said, synced, AFTER it had
the bytes in its hand. About 100 seconds on a quiet core; the smaller one, of 12 kills, is not marked slow.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from client.answer import Site, answer_bytes
from client.egress.ledger import Ledger
from ecgshared.learning.layout import Layout
from ecgshared.models import build
from ecgshared.privacy.accounting import epsilon_spent
from ecgshared.stages.train_net import head_specs
from ecgshared.wire.protocol import Request
from simulations.attacks.door import Door, asked, made_cohort, totals

FORK = multiprocessing.get_context("fork")
ROUNDS = 3
STEP = {
    "id": "net",
    "stage": "train",
    "uses": ["d"],
    "heads": ["dead"],
    "model": {"name": "waves", "covariates": ["age"]},
    "rounds": ROUNDS,
    "local": {"steps": 2},
    "privacy": {"epsilon": 5, "delta": 1e-4, "max_grad_norm": 1.0, "expected_batch_size": 100},
}
SITE = {"privacy": {"weights": "private", "max_epsilon": 1e4}}


def rounds_without_end(path: Path, data, study, left: Path, start) -> None:
    """Answer rounds; a run is over after three, and one that a killed process began is asked for again."""
    # A forked process has none of its parent's threads, and would wait for them.
    torch.set_num_threads(1)
    site, weights = Site(path, data), start
    with left.open("ab", buffering=0) as out:
        done = [line.split()[:2] for line in left.read_text().splitlines()]
        number = len({tuple(one) for one in done})
        while True:
            run, round_number = f"run-{number // ROUNDS}", number % ROUNDS + 1
            body = answer_bytes(
                site, study, Request(study.sha256, run, "net", "fit", round_number, {"weights": weights, **totals("d")})
            )
            out.write(f"{run} {round_number} {hashlib.sha256(body).hexdigest()}\n".encode())
            os.fsync(out.fileno())
            number += 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_never_less_on_record_than_what_left(kills, tmp_path):
    rng = np.random.default_rng(7)
    data = made_cohort(80, rng, seconds=2.0)
    study = asked("killed", [{"id": "d", "stage": "describe"}, STEP])
    config = study.step("net")
    model = build(config.model, head_specs(config, study), 200, study.seed)
    start = Layout.of(model, config.layout_mode).flatten(model)
    door = Door(data, SITE)
    path, state, left = door.folder / "site.yaml", door.folder / "state", tmp_path / "left"
    left.touch()
    at = defaultdict(int)
    for turn in range(kills):
        before = left.stat().st_size
        child = FORK.Process(target=rounds_without_end, args=(path, data, study, left, start))
        child.start()
        # Every third at once after something left; the others anywhere, also before anything was charged.
        deadline = time.monotonic() + 30
        while turn % 3 == 0 and left.stat().st_size == before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0, 0.6)))
        assert child.is_alive(), "it ended by itself"
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        at[require_on_record(state, study.sha256, left)] += 1
    sent = {tuple(line.split()[:2]) for line in left.read_text().splitlines()}
    print(f"{kills} kills; {len(sent)} rounds left; charges less answers that left, after each kill: {dict(at)}")
    assert len(sent) >= kills // 3
    assert len(at) > 1, "no kill fell between a charge and its answer"


def require_on_record(state: Path, study: str, left: Path) -> int:
    """Hold the ledger against what left; return how many charges more it has."""
    charges = Ledger(state).entries()
    paid = defaultdict(int)
    for charge in charges:
        paid[charge.run, str(charge.round)] += charge.answered
    answers = defaultdict(set)
    for line in left.read_text().splitlines():
        run, number, digest = line.split()
        answers[run, number].add(digest)
    for key, bodies in answers.items():
        assert len(bodies) == 1, f"{key}: one round left twice, with other noise"
        assert paid[key] >= len(bodies), f"{key}: left and not on record"
    if charges:
        spent = [charge.spent for charge in charges][: len(answers)]
        assert Ledger(state).spent(study)[0] >= epsilon_spent(spent, delta=1e-4) - 1e-9
    logged = (state / "releases.jsonl").read_text().count('"fit"') if (state / "releases.jsonl").exists() else 0
    assert logged >= len(answers), "left and not in the log of releases"
    return len(charges) - len(answers)
