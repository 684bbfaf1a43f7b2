"""A daemon's log: what may stand in it, what is dropped, who can read it, how it rotates, and a disk that is full."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import signal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ecgshared.errors import RefusalCode
from ecgshared.service.logs import FIELDS, clean, json_log


@pytest.fixture
def log(tmp_path):
    made = json_log(tmp_path / "logs" / "site.log")
    yield made
    made.close()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_json_with_codes_and_counts(log, tmp_path):
    log.info("answered", stage="train", phase="fit", round=3, seconds=2.5, bytes_out=1000, study="a" * 64, run="scd.1")
    log.warning("refused", code=RefusalCode.BUDGET_SPENT, site="oslo", replayed=False, node_id=2**64 - 1)
    first, second = lines(tmp_path / "logs" / "site.log")
    assert first.pop("at").endswith("Z")
    assert first == {
        "level": "info", "event": "answered", "stage": "train", "phase": "fit", "round": 3, "seconds": 2.5,
        "bytes_out": 1000, "study": "a" * 64, "run": "scd.1",
    }  # fmt: skip
    assert (second["level"], second["code"], second["node_id"]) == ("warning", "budget-spent", str(2**64 - 1))


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "/data/ecg/7.xml"},
        {"patient": "01017012345"},
        {"message": "no such file"},
        {"reason": "patient 01017012345 has no ECG"},
        {"reason": "01017012345"},
        {"code": "/data"},
        {"stage": "a1"},
        {"error": "KeyError: 'Olsen'"},
        {"at_code": "/home/x/app.py:3"},
        {"site": "Ole Olsen"},
        {"run": "../x"},
        {"run": "a\nb"},
        {"round": "3"},
        {"round": -1},
        {"round": True},
        {"round": 1.5},
        {"round": 1017012345},
        {"seconds": float("nan")},
        {"seconds": "3"},
        {"paused": 1},
        {"study": "a" * 63},
        {"code": ["a"]},
        {"code": {"a": 1}},
        {"code": None},
        {"code": b"a"},
    ],
)
def test_what_is_of_no_known_kind_is_dropped_and_marked(fields):
    line = clean("refused", {**fields, "attempts": 2})
    (name,) = fields
    assert line == {"event": "refused", "attempts": 2, "dropped": [name if name in FIELDS else "1 unknown"]}


@pytest.mark.parametrize("event", ["Patient 7", "no /data", "x" * 200, "", "7", "ünknown", "ends-", 'a"b'])
def test_an_event_is_words(event):
    assert clean(event, {}) == {"event": "unnamed"}


@given(
    st.dictionaries(st.sampled_from([*FIELDS, "patient", "path"]), st.text() | st.integers() | st.floats() | st.none())
)
@example({"reason": "a-b", "error": "OSError", "site": "oslo_1"})
def test_no_sentence_and_no_path_passes(fields):
    for name, value in clean("x", fields).items():
        if isinstance(value, str):
            assert not set(value) & set(" /\\\n\"'@,;"), (name, value)
    json.dumps(clean("x", fields), allow_nan=False)


def test_an_exception_is_its_type_and_place(log, tmp_path):
    try:
        {}["Olsen, 01017012345"]
    except KeyError as error:
        log.failure("answer-failed", error, round=2)
    text = (tmp_path / "logs" / "site.log").read_text()
    assert "Olsen" not in text
    line = json.loads(text)
    assert line["error"] == "KeyError"
    assert line["at_code"].startswith("test_logs.py:")
    assert line["level"] == "error"


def test_a_library_is_followed_without_its_text(log, tmp_path):
    logger = logging.getLogger("some.library")
    handler = log.follow("some.library")
    try:
        logger.warning("cannot read %s", "/data/01017012345.xml")
        logger.info("not serious enough")
    finally:
        logger.removeHandler(handler)
    (line,) = lines(tmp_path / "logs" / "site.log")
    assert (line["event"], line["library"], line["level"]) == ("library-message", "some.library", "warning")
    assert "01017012345" not in json.dumps(line)


def test_rotation_keeps_what_was_asked_and_all_of_it_is_the_owners(tmp_path):
    path = tmp_path / "logs" / "site.log"
    log = json_log(path, max_bytes=2000, backups=2)
    for number in range(200):
        log.info("counted", round=number)
    log.close()
    held = sorted(path.parent.iterdir())
    assert [p.name for p in held] == ["site.log", "site.log.1", "site.log.2"]
    assert all(p.stat().st_size <= 2000 and p.stat().st_mode & 0o777 == 0o600 for p in held)
    assert path.parent.stat().st_mode & 0o077 == 0
    rounds = [line["round"] for p in reversed(held) for line in lines(p)]
    assert rounds == list(range(rounds[0], 200))


def test_a_file_open_to_others_is_closed_to_them(tmp_path):
    path = tmp_path / "site.log"
    path.write_text("")
    path.chmod(0o644)
    json_log(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_stops_nobody_and_is_told_later(tmp_path):
    path = tmp_path / "site.log"

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        log = json_log(path)
        log.info("before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 9, hard))
        log.info("lost", round=1)
        log.info("lost", round=2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.info("after")
        log.close()
        os._exit(7)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(30)
    assert process.exitcode == 7
    text = path.read_text()
    assert '"event": "before"' in text
    assert json.loads(text.splitlines()[-1])["lost_lines"] == 2


def test_half_a_line_spoils_no_other(tmp_path):
    path = tmp_path / "site.log"
    path.write_text('{"event": "cut o')
    log = json_log(path)
    log.info("after")
    log.close()
    assert json.loads(path.read_text().splitlines()[1])["event"] == "after"
