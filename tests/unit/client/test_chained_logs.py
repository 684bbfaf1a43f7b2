"""Logs of what left, what was approved and when the lockbox was opened: an edit is noticed, a crash is none."""

from __future__ import annotations

import json
import multiprocessing

import pytest
from coordinator import Hospital, cohort, study

from client.approval.register import in_force, record
from client.operator.releases import as_table, read_releases
from client.site.logs import chained
from ecgshared.errors import ConfigError, PrivacyError, Refused
from ecgshared.service.chain import ChainedLog


def log_of(tmp_path, name="log"):
    return ChainedLog(tmp_path / f"{name}.jsonl", tmp_path / "keys" / f"{name}.anchor", lambda: b"k" * 32)


EDITS = {
    "taken out": lambda lines: lines[:2] + lines[3:],
    "the last taken out": lambda lines: lines[:-1],
    "changed": lambda lines: [*lines[:2], lines[2].replace('"n": 2', '"n": 9'), *lines[3:]],
    "swapped": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "put in": lambda lines: [*lines, json.dumps({"n": 5})],
    "the chain cut off": lambda lines: [json.dumps({"n": i}) for i in range(5)],
    "repeated": lambda lines: [*lines, lines[-1]],
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_noticed(tmp_path, edit):
    log = log_of(tmp_path)
    for n in range(5):
        log.append([{"n": n}])
    assert [line["n"] for line in log_of(tmp_path).lines()] == [0, 1, 2, 3, 4]
    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join(EDITS[edit](lines)) + "\n")
    with pytest.raises(PrivacyError, match="not what was written"):
        log_of(tmp_path).lines()
    with pytest.raises(PrivacyError, match="not what was written"):
        log_of(tmp_path).append([{"n": 5}])


def test_a_log_that_is_gone_is_noticed(tmp_path):
    log_of(tmp_path).append([{"n": 0}])
    (tmp_path / "log.jsonl").unlink()
    with pytest.raises(PrivacyError, match="missing from its end"):
        log_of(tmp_path).lines()


def test_a_line_that_a_crash_cut_is_no_edit(tmp_path):
    log = log_of(tmp_path)
    log.append([{"n": 0}])
    with log.path.open("a") as file:
        file.write('{"n": 1, "ma')
    log_of(tmp_path).append([{"n": 2}])
    assert log_of(tmp_path).lines() == [{"n": 0}, {"damaged": 2}, {"n": 2}]


def test_lines_from_before_the_chain_go_under_it(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"n": 0}\n{"n": 1}\n')
    log_of(tmp_path).append([{"n": 2}])
    assert [line["n"] for line in log_of(tmp_path).lines()] == [0, 1, 2]
    path.write_text(path.read_text().replace('{"n": 0}', '{"n": 7}'))
    with pytest.raises(PrivacyError, match="was changed"):
        log_of(tmp_path).lines()


def _append(folder, start):
    log = log_of(folder)
    for n in range(20):
        log.append([{"n": start + n}])


def test_processes_append_one_after_the_other(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append, args=(tmp_path, 100 * i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(log_of(tmp_path).lines()) == 60


def test_a_release_taken_out_is_said_and_nothing_leaves_any_more(tmp_path):
    """Before: four lines of five, and nothing was noticed."""
    hospital = Hospital(tmp_path, cohort(100))
    for i in range(5):
        hospital.ask(study(), "d", "counts", run=f"r{i}")
    path = hospital.settings.state / "releases.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:2] + lines[3:]) + "\n")
    assert as_table(read_releases(hospital.settings.state))[-1].startswith("NOT TO BE RELIED ON: ")
    chained.cache_clear()
    with pytest.raises(Refused, match="not what was written"):
        hospital.ask(study(), "d", "counts", run="r6")


def test_a_withdrawal_taken_out_approves_nothing(tmp_path):
    for withdrawn in (False, True):
        record(tmp_path, "code", "0" * 64, "test", withdrawn=withdrawn)
    assert in_force(tmp_path) == {}
    path = tmp_path / "approvals.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    chained.cache_clear()
    with pytest.raises(ConfigError, match="nothing is approved"):
        in_force(tmp_path)
