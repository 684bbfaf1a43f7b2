"""Whom the coordinator asks again, whom it waits for, and whose word it takes: hospitals that fail by a script."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest
import yaml
from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from ecgshared.errors import RefusalCode, RunError
from ecgshared.wire import protocol
from ecgshared.wire.bytes import (
    MESSAGE_TYPE_HELLO,
    body_of,
    decode_request,
    encode_payload,
    hello_records,
    refusal_records,
    stamp_of,
    to_records,
)
from ecgshared.wire.protocol import Public
from server.rounds import federation as rounds
from server.rounds import presence
from server.rounds.federation import Federation
from server.rounds.patience import Stopped, WaitingPolicy
from server.rounds.run_folder import RunFolder

SITES = ("north", "coast", "valley")
LOST = "lost (Flower error 5)"
HOSPITALS = {"patience_seconds": 30.0}


@dataclass(frozen=True)
class Total:
    value: Annotated[float, Public()]


class Hospitals(Grid):
    """Nodes 11, 12, 13 are the sites; ``script`` says what each does when asked: one word a question, the last stays.

    ok, lost (the process died), silent, a refusal's code, garbage, inf; "late" answers after the others.
    """

    def __init__(self, script: dict[str, list[str]], study: str) -> None:
        self.nodes: dict[int, str] = dict(zip((11, 12, 13), SITES, strict=True))
        self.online = set(self.nodes)
        self.script = {site: list(script.get(site, ["ok"])) for site in SITES}
        self.asked: list[str] = []
        self.answers: dict[str, Message] = {}
        self.late_until = 0.0
        self.refuses_hello: dict[str, RefusalCode] = {}
        self.study, self._count = study, 0
        # Flower stamps messages with the task that sends them.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def send_and_receive(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self.online)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            self._count += 1
            name = f"m{self._count}"
            ids.append(name)
            node = message.metadata.dst_node_id
            if node not in self.online:
                continue
            site = self.nodes[node]
            if message.metadata.message_type == MESSAGE_TYPE_HELLO:
                hello = hello_records(site, self.study, "1")
                refused = self.refuses_hello.get(site)
                self.answers[name] = self._reply(name, hello if refused is None else refusal_records(site, refused))
                continue
            self.asked.append(site)
            steps = self.script[site]
            word = steps.pop(0) if len(steps) > 1 else steps[0]
            self._act(name, site, word, message)
        return ids

    def _act(self, name: str, site: str, word: str, message: Message) -> None:
        request = decode_request(body_of(message.content))
        if word == "silent":
            return
        if word == "lost":
            self.answers[name] = self._reply(name, None)
        elif word == "garbage":
            self.answers[name] = self._reply(name, to_records(b"nonsense"))
        elif word in {code.value for code in RefusalCode}:
            self.answers[name] = self._reply(name, refusal_records(site, RefusalCode(word)))
        else:
            value = np.inf if word == "inf" else float(len(site))
            body = encode_payload(Total(value), stamp_of(request, site))
            self.answers[name] = self._reply(name, to_records(body))
            if word == "late":
                self.answers[name].metadata.__dict__["_group_id"] = "late"

    def _reply(self, name: str, content: RecordDict | None) -> Message:
        data = Metadata(1, "", 1, 1, name, "", time.time(), 60.0, "query")
        return make_message(metadata=data, error=Error(5)) if content is None else make_message(data, content)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = []
        for name in list(message_ids):
            answer = self.answers.get(name)
            if answer is None or (answer.metadata.group_id == "late" and time.monotonic() < self.late_until):
                continue
            found.append(self.answers.pop(name))
        return found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(protocol._PAYLOADS, ("sum", "total"), Total)
    monkeypatch.setattr(rounds, "POLL_SECONDS", 0.002)
    monkeypatch.setattr(presence, "POLL_SECONDS", 0.002)
    monkeypatch.setattr(rounds, "_LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(rounds, "_REVOKED_SECONDS", 0.05)
    monkeypatch.setattr(presence, "_HELLO_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(presence, "_LATECOMERS_SECONDS", 0.05)


@dataclass
class Asked:
    """One question to hospitals that follow a script."""

    folder: RunFolder
    hospitals: Hospitals
    federation: Federation

    def ask(self) -> Any:
        return self.federation.ask("s", "sum", "total", 1, {"w": np.zeros(3)}, SITES)

    @property
    def line(self) -> dict[str, Any]:
        return json.loads((self.folder.path / "history.jsonl").read_text().splitlines()[-1])


@pytest.fixture
def hospitals(tmp_path):
    opened = []

    def make(script: dict[str, list[str]], policy: dict[str, Any] | None = None, **federation: Any) -> Asked:
        study = {
            "name": "waiting",
            "sites": {"train": list(SITES)},
            "endpoints": {"male": {"kind": "binary", "column": "male"}},
            "federation": {"quorum": "all", "deadline_seconds": 20, "retries": 2} | federation,
            "steps": [{"id": "s", "stage": "describe"}],
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
        folder = RunFolder.create(tmp_path / "run", tmp_path / "study.yaml", backend="test")
        opened.append(folder)
        grid = Hospitals(script, folder.study.sha256)
        known = WaitingPolicy(**(HOSPITALS if policy is None else policy))
        return Asked(folder, grid, Federation(grid, folder.study, folder, known))

    yield make
    for folder in opened:
        folder.close()


def test_a_lost_answer_is_asked_for_again_and_told(hospitals):
    asked = hospitals({"coast": ["lost", "lost", "ok"]})
    assert set(asked.ask().by_site) == set(SITES)
    assert asked.line["lost"] == {"coast": [LOST, LOST]}
    assert asked.line["absent"] == {}
    assert asked.hospitals.asked.count("coast") == 3
    assert asked.hospitals.asked.count("north") == 1, "who answered is left in peace"


def test_it_is_asked_again_while_others_are_still_at_work(hospitals):
    """With a quorum of two the round would otherwise end without it."""
    asked = hospitals({"coast": ["lost", "ok"], "valley": ["late"]}, quorum=2)
    asked.hospitals.late_until = time.monotonic() + 0.5
    assert set(asked.ask().by_site) == set(SITES)
    assert asked.line["lost"] == {"coast": [LOST]}


def test_with_a_quorum_and_nobody_at_work_the_round_ends_without_it(hospitals):
    asked = hospitals({"coast": ["lost"]}, quorum=2)
    replies = asked.ask()
    assert set(replies.by_site) == {"north", "valley"}
    assert replies.absent == {"coast": LOST}


@pytest.mark.parametrize("code", ["paused", "worker-lost", "internal", "data-unavailable", "code-not-approved"])
def test_a_passing_refusal_is_waited_for(hospitals, code):
    asked = hospitals({"north": [code] * 6 + ["ok"]})
    assert set(asked.ask().by_site) == set(SITES)
    assert asked.line["lost"] == {"north": [code] * 6}
    assert asked.folder.info["status"] == "running"


@pytest.mark.parametrize("code", ["too-few", "budget-spent", "privacy-required", "not-a-member"])
def test_a_lasting_refusal_is_taken_at_its_word(hospitals, code):
    asked = hospitals({"north": [code]})
    replies = asked.ask()
    assert replies.absent == {"north": code}
    assert asked.hospitals.asked.count("north") == 1


@pytest.mark.parametrize(("word", "reason"), [("garbage", "malformed"), ("inf", "not-finite")])
def test_nonsense_is_asked_for_a_few_times_only(hospitals, word, reason):
    asked = hospitals({"north": [word]}, retries=2)
    with pytest.raises(RunError, match="2 of 3 needed sites"):
        asked.ask()
    assert asked.line["absent"]["north"].startswith(reason)
    assert asked.hospitals.asked.count("north") == 3


def test_below_the_quorum_it_is_said_for_whom_it_waits(hospitals):
    asked = hospitals({"valley": ["paused"]}, {"patience_seconds": 60.0})
    worker = threading.Thread(target=asked.ask)
    worker.start()
    end = time.monotonic() + 20
    while asked.folder.info["status"] != "waiting":
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "2 of 3 needed sites answered (valley: paused)" in asked.folder.info["waiting_for"]
    asked.hospitals.script["valley"] = ["ok"]
    worker.join(20)
    assert asked.folder.info["status"] == "running"
    assert asked.folder.info["waiting_for"] is None
    assert asked.line["absent"] == {}


def test_patience_ends(hospitals):
    asked = hospitals({"valley": ["paused"]}, {"patience_seconds": 0.3}, retries=0, deadline_seconds=0.2)
    with pytest.raises(RunError, match="2 of 3 needed sites") as raised:
        asked.ask()
    assert "valley: paused" in str(raised.value)
    assert "resume" in raised.value.remedy


def test_waiting_for_days_does_not_overflow():
    assert rounds._wait(100_000) == rounds._LONGEST_PAUSE_SECONDS


def test_one_process_does_not_wait(hospitals):
    asked = hospitals({"valley": ["paused"]}, {}, retries=1)
    with pytest.raises(RunError):
        asked.ask()
    assert asked.hospitals.asked.count("valley") == 2


def test_a_silent_site_is_late_at_the_deadline_and_its_late_answer_counts_for_nothing(hospitals):
    asked = hospitals({"coast": ["late"]}, quorum=2, deadline_seconds=0.3)
    asked.hospitals.late_until = time.monotonic() + 0.6
    replies = asked.ask()
    assert replies.absent == {"coast": "deadline"}
    time.sleep(0.5)
    asked.hospitals.script["coast"] = ["silent"]
    assert set(asked.ask().by_site) == {"north", "valley"}, "the answer to the first question is not taken for another"


def test_a_site_that_comes_back_as_another_node(hospitals):
    asked = hospitals({"coast": ["lost"]})

    def comes_back():
        asked.hospitals.script["coast"] = ["ok"]
        asked.hospitals.nodes[22] = "coast"
        asked.hospitals.online ^= {12, 22}

    timer = threading.Timer(0.2, comes_back)
    timer.start()
    assert set(asked.ask().by_site) == set(SITES)
    timer.join()


def test_a_node_cannot_be_another_site_than_the_one_its_key_was_let_in_as(hospitals):
    """A hospital that says it is its neighbour is not heard, and the neighbour is."""
    registry = {11: "north", 12: "coast", 13: "valley", 14: "north"}
    asked = hospitals({}, HOSPITALS | {"site_of": registry.get}, quorum=3)
    asked.hospitals.nodes[14] = "coast"
    asked.hospitals.nodes[15] = "valley"
    asked.hospitals.online |= {14, 15}
    known = asked.federation._presence
    known.connect(SITES, 0.5, lambda: None)
    assert known.nodes == {"north": 11, "coast": 12, "valley": 13}
    assert set(asked.ask().by_site) == set(SITES)


def test_where_nobody_lets_nodes_in_two_of_one_name_are_an_error(hospitals):
    asked = hospitals({}, {})
    asked.hospitals.nodes[14] = "coast"
    asked.hospitals.online.add(14)
    with pytest.raises(RunError, match="two nodes both say they are site 'coast'"):
        asked.ask()


def test_a_run_that_is_to_stop_stops_while_it_waits(hospitals):
    asked = hospitals({"valley": ["silent"]}, HOSPITALS)
    stopped = threading.Event()
    asked.federation._policy = WaitingPolicy(**HOSPITALS, stopped=stopped.is_set)
    threading.Timer(0.2, stopped.set).start()
    with pytest.raises(Stopped):
        asked.ask()


def test_who_is_late_is_told(hospitals):
    seen: list[dict[str, Any]] = []
    asked = hospitals({"valley": ["late"]}, HOSPITALS | {"tell": seen.append})
    asked.hospitals.late_until = time.monotonic() + 0.2
    asked.ask()
    assert seen[0]["late"] == sorted(SITES)
    assert [told["late"] for told in seen][-2:] == [["valley"], []]
    assert seen[-1]["phase"] == "total"


def test_a_site_that_refuses_to_greet_is_told_with_its_reason(hospitals):
    asked = hospitals({}, HOSPITALS, quorum=2, deadline_seconds=0.5)
    asked.hospitals.refuses_hello["valley"] = RefusalCode.CODE_NOT_APPROVED
    assert asked.ask().absent == {"valley": "code-not-approved"}


def test_the_deadline_begins_when_the_question_is_sent(hospitals):
    """One site is away, and waited for as long as the deadline lasts: those that are here get all of theirs."""
    asked = hospitals({"north": ["late"]}, {"patience_seconds": 0.5}, deadline_seconds=1, retries=0)
    asked.hospitals.online.remove(13)
    asked.hospitals.late_until = time.monotonic() + 1.4
    with pytest.raises(RunError, match="2 of 3 needed sites"):
        asked.ask()
    assert asked.hospitals.asked.count("north") == 1
    assert asked.line["lost"] == {}
    assert asked.line["absent"] == {"valley": "not-connected"}


def test_an_answer_that_comes_late_counts_while_the_round_still_waits(hospitals):
    asked = hospitals({"coast": ["late", "silent"]}, deadline_seconds=1)
    asked.hospitals.late_until = time.monotonic() + 1.3
    assert sorted(asked.ask().by_site) == sorted(SITES)
    assert asked.hospitals.asked.count("coast") == 2
    assert asked.line["lost"] == {"coast": ["deadline"]}


def test_a_revoked_site_is_named_so_and_not_waited_for(hospitals):
    asked = hospitals({}, HOSPITALS | {"revoked": lambda site: site == "valley"}, deadline_seconds=0.5, retries=0)
    asked.hospitals.online.discard(13)
    begun = time.monotonic()
    with pytest.raises(RunError, match="2 of 3 needed sites") as raised:
        asked.ask()
    assert "valley: revoked" in str(raised.value)
    assert time.monotonic() - begun < HOSPITALS["patience_seconds"]


def test_a_quorum_goes_on_without_a_revoked_site_and_says_so(hospitals):
    policy = HOSPITALS | {"revoked": lambda site: site == "valley"}
    asked = hospitals({}, policy, deadline_seconds=0.5, quorum=2)
    asked.hospitals.online.discard(13)
    assert asked.ask().absent == {"valley": "revoked"}


def test_who_is_revoked_while_it_works_is_not_waited_for_until_the_deadline(hospitals):
    gone = threading.Event()
    asked = hospitals({"valley": ["silent"]}, HOSPITALS | {"revoked": lambda site: site == "valley" and gone.is_set()},
                      deadline_seconds=20, retries=0)  # fmt: skip
    threading.Timer(0.3, gone.set).start()
    begun = time.monotonic()
    with pytest.raises(RunError, match="2 of 3 needed sites") as raised:
        asked.ask()
    assert time.monotonic() - begun < 15
    assert raised.value.value == "valley: revoked"
    assert raised.value.remedy.endswith("ecgfed coordinator amend RUN --without valley")
    assert asked.line["lost"] == {"valley": ["revoked"]}
