"""Files of a site that change under its living daemon: each counts at the next answer, or a restart is asked for."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from site_network import AskedSite, Coordinator

from client.approval import register as approvals
from client.cohort.cells import normal_id
from client.network.status import describe, read_status, running_pid
from client.site.keys import load_keys
from client.site.settings import load_site
from ecgshared.errors import RefusalCode
from ecgshared.stages.describe import SiteCounts, training_totals
from ecgshared.stages.train import Update
from ecgshared.stages.train_net import initial_weights
from ecgshared.wire.bytes import body_of, decode_payload, stamp_of
from ecgshared.wire.protocol import Request


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path_factory.mktemp("coordinator"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def site(hospitals, tmp_path_factory, coordinator) -> Iterator[AskedSite]:
    """A site whose table is its own, with a list of who opted out."""
    folder = tmp_path_factory.mktemp("site")
    made = AskedSite(hospitals, folder, coordinator)
    own = folder / "table.csv"
    own.write_bytes(made.settings.table.path.read_bytes())
    (folder / "out.txt").write_text("")
    edit(
        made, lambda content: content["table"].update(path=str(own)) or content.update(exclude=str(folder / "out.txt"))
    )
    made.settings = load_site(made.file)
    made.start()
    yield made
    assert made.daemon.end() == 0


@pytest.fixture(scope="module")
def run_id(coordinator) -> int:
    return coordinator.run()


@pytest.fixture(scope="module")
def asked(site, run_id) -> Callable[[], SiteCounts]:
    """Ask the daemon the next question, and return its answer."""
    rounds = iter(range(1000))

    def ask() -> SiteCounts:
        number = next(rounds)
        request = Request(site.study.sha256, "r", "cohorts", "counts", number, {})
        return decode_payload(site.counts(run_id, number), SiteCounts, stamp_of(request, "north"))

    return ask


@pytest.fixture
def good(site) -> Iterator[str]:
    """The site file as it is, which it is again afterwards, whatever became of the test."""
    text = site.file.read_text()
    yield text
    site.file.write_text(text)


def edit(site: AskedSite, change: Callable[[dict], object]) -> None:
    content = yaml.safe_load(site.file.read_text())
    change(content)
    site.file.write_text(yaml.safe_dump(content))


def table(site: AskedSite) -> tuple[list[str], list[dict[str, str]]]:
    with site.settings.table.path.open(newline="") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or ()), list(reader)


def write_table(site: AskedSite, names: list[str], rows: list[dict[str, str]]) -> None:
    with site.settings.table.path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def people(site) -> Iterator[str]:
    """Patients whom the study trains on, each with one ECG; each is taken once, in whatever order tests run."""
    return iter(trained(site))


def trained(site: AskedSite) -> list[str]:
    column = site.settings.table.columns["patient_id"]
    ids = [row[column] for row in table(site)[1]]
    places = load_keys(site.settings).split_positions([normal_id(name) for name in ids])
    return [name for name, place in zip(ids, places, strict=True) if place > 0.41 and ids.count(name) == 1]


def run_command(site: AskedSite, *words: str) -> str:
    command = [sys.executable, "-m", "ecgshared", "site", words[0], str(site.file), *words[1:]]
    command += ["--yes"] if words[0] == "forget" else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_who_is_forgotten_is_not_in_the_next_answer(site, asked, people):
    before = asked()
    assert asked().patients[0] == before.patients[0]
    worker = site.worker()
    said = run_command(site, "forget", next(people))
    assert "1 ECG(s) overwritten" in said
    assert re.search(r"the person was part of at most [1-9]\d* of \d+ answers, in [1-9]\d* run\(s\)", said)
    after = asked()
    assert after.patients[0] == before.patients[0] - 1
    assert after.ecgs[0] == before.ecgs[0] - 1
    assert site.worker() == worker
    assert after.patients[1] == before.patients[1]


def test_a_new_recording_takes_nobodys_place(site, asked, people):
    """A patient is forgotten by one command, another one's ECG is read by another, both beside the worker."""
    before = asked()
    name = next(people)
    names, rows = table(site)
    column = site.settings.table.columns["patient_id"]
    one = next(row for row in rows if row[column] == name)
    keys = load_keys(site.settings)
    newcomer = next(new for new in map("newcomer-{}".format, range(100)) if keys.split_positions([new])[0] > 0.41)
    changed = one | {column: newcomer, "age": str(float(one["age"]) - 1)}
    run_command(site, "forget", name)
    write_table(site, names, [changed if row is one else row for row in rows])
    assert "1 recording(s) read now" in run_command(site, "ingest", "--study", str(site.file.parent / "study.yaml"))
    after = asked()
    assert after.patients[0] == before.patients[0]
    assert after.age_sums[0] == before.age_sums[0]
    assert after.age_sums[1] == before.age_sums[1] - 1


def test_who_is_forgotten_in_the_middle_of_a_round_of_training_is_not_in_its_update(site, asked, people, run_id):
    """The worker stands still inside the round while the patient is forgotten; the site's seed makes rounds repeat."""
    step = site.federation.train(local={"epochs": 25, "batch_size": 32})
    long = site.federation.study(name="long", steps=[{"id": "cohorts", "stage": "describe"}, step])
    study = approvals.approve_study(site.settings.state, long)
    (config,) = (step for step in study.steps if step.id == "risk")
    totals = training_totals([asked()])
    arrays = {
        "weights": initial_weights(config, study)[1],
        "cohorts.head_counts": totals.head_counts,
        "cohorts.standardise": totals.standardise,
        "cohorts.site_weights": np.array([1.0, 0.0, 0.0]),
    }

    def begin(run):
        return site.coordinator.ask(
            run_id, site.node, study.sha256, run=run, step="risk", phase="fit", round=1, ttl=120.0, **arrays
        )

    def ended(run, message):
        body = body_of(site.coordinator.answer(run_id, message, 100).content)
        return decode_payload(body, Update, stamp_of(Request(study.sha256, run, "risk", "fit", 1, {}), "north")).update

    before = ended("before", begin("before"))
    start = cpu_ticks(site.worker())
    np.testing.assert_array_equal(ended("again", begin("again")), before)
    middle = cpu_ticks(site.worker()) + (cpu_ticks(site.worker()) - start) / 3
    message = begin("during")
    site.wait(lambda: cpu_ticks(site.worker()) > middle, 60)
    os.kill(site.worker(), signal.SIGSTOP)
    try:
        run_command(site, "forget", next(people))
    finally:
        os.kill(site.worker(), signal.SIGCONT)
    during = ended("during", message)
    np.testing.assert_array_equal(during, ended("after", begin("after")))
    assert not np.array_equal(during, before)
    events = [json.loads(line) for line in (site.settings.state / "site.log").read_text().splitlines()]
    assert [
        (e["step"], e["phase"], e["round"]) for e in events if (e["event"], e.get("step")) == ("made-again", "risk")
    ] == [("risk", "fit", 1)]


def test_a_changed_list_of_who_opted_out_counts_at_once(site, asked, people):
    before = asked()
    site.settings.exclude.write_text(f"{next(people)}\n")
    assert asked().patients[0] == before.patients[0] - 1
    site.settings.exclude.write_text("")
    assert asked().patients[0] == before.patients[0]


def test_a_changed_table_counts_at_once(site, asked, people):
    before = asked()
    name = next(people)
    names, rows = table(site)
    column = site.settings.table.columns["patient_id"]
    write_table(site, names, [row for row in rows if row[column] != name])
    assert asked().patients[0] == before.patients[0] - 1
    write_table(site, names, rows)
    assert asked().patients[0] == before.patients[0]


def test_raised_limits_count_at_once(site, asked):
    assert np.isfinite(asked().patients[0])
    edit(site, lambda content: content["limits"].update(min_patients=100_000))
    assert "fewer than 100000 patients" in run_command(site, "show", str(site.file.parent / "study.yaml"))
    assert np.isnan(asked().patients).all()
    edit(site, lambda content: content["limits"].update(min_patients=1))
    assert np.isfinite(asked().patients[0])
    site.wait(lambda: "the site file changed; it counts from the next question on" in site.log.read_text())


def test_threads_count_at_once_in_a_new_worker(site, asked):
    before = site.worker()
    edit(site, lambda content: content.setdefault("compute", {}).update(threads=1))
    asked()
    assert site.worker() != before
    environment = Path(f"/proc/{site.worker()}/environ").read_bytes().split(b"\0")
    assert b"OPENBLAS_NUM_THREADS=1" in environment


def test_a_broken_file_is_named_and_nothing_is_answered_until_it_is_mended(site, asked, run_id, good):
    site.file.write_text(good + "limmits: {}\n")
    site.wait(lambda: "nothing is answered: the site file cannot be used" in site.log.read_text())
    assert site.refusal(run_id, 5000) is RefusalCode.DATA_UNAVAILABLE
    site.wait(lambda: any(line.startswith("SITE FILE: nothing is answered") for line in told(site)))
    site.file.write_text(good)
    assert asked().patients[0] > 0
    site.wait(lambda: not any(line.startswith("SITE FILE") for line in told(site)))


def test_what_needs_a_restart_is_said(site, asked, good):
    edit(site, lambda content: content["network"].update(max_message_mb=5))
    wanted = "RESTART NEEDED: changed since it started: network.max_message_mb"
    site.wait(lambda: wanted in told(site))
    site.wait(lambda: "changed, and counts only after a restart: network.max_message_mb" in site.log.read_text())
    assert asked().patients[0] > 0
    key, certificate = site.settings.network.key, site.settings.network.certificate
    key.write_bytes(key.read_bytes() + b"\n")
    site.wait(lambda: f"{wanted}, the file of network.key" in told(site))
    site.file.write_text(good)
    site.wait(lambda: "RESTART NEEDED: changed since it started: the file of network.key" in told(site))
    # A certificate is taken up as it comes.
    certificate.write_bytes(certificate.read_bytes() + b"\n")
    site.wait(lambda: "a new certificate is in use" in site.log.read_text())
    assert "network.certificate" not in told(site)


@pytest.mark.parametrize("change", [{"state": "elsewhere"}, {"network": None}])
def test_another_folder_of_state_or_no_network_answers_nothing(site, asked, run_id, change, good):
    edit(site, lambda content: content.update(change))
    assert site.refusal(run_id, 6000) is RefusalCode.DATA_UNAVAILABLE
    site.wait(lambda: f"{next(iter(change))} changed; until a restart nothing is answered" in site.log.read_text())
    site.file.write_text(good)
    assert asked().patients[0] > 0


def cpu_ticks(pid: int) -> int:
    """Time a process has computed: on a busy machine it tells better than a clock how far it is."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def told(site: AskedSite) -> list[str]:
    return describe(running_pid(site.settings.state), read_status(site.settings.state))
