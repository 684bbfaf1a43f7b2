"""What a site approved, and that nothing else runs: on its disk, on the command line, and in Flower's own ClientApp."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hospital import make_hospital
from typer.testing import CliRunner

from client.answer import Site, answer_bytes
from client.app import app
from client.approval import register as approvals
from client.approval import required as approval
from client.approval.envelope import check_envelope
from client.approval.show import show_study
from client.egress.gate import Release
from client.egress.outbox import Outbox
from client.network.fleet_messages import Head, deflate
from client.network.inbox import Inbox, answer_of
from client.network.worker import _answer_or_refuse
from client.operator.cli import app as cli
from client.site.settings import SiteSettings
from ecgshared.errors import ConfigError, RefusalCode, Refused
from ecgshared.service.fingerprint import code_sha256, folders_sha256
from ecgshared.study.registry import room
from ecgshared.study.study import load_study
from ecgshared.wire.bytes import body_of, encode_request, refusal_of, to_records
from ecgshared.wire.protocol import Request

STUDY = {
    "name": "test",
    "sites": {"train": ["north"], "zero_shot": ["far"]},
    "input": {"fs_hz": 100, "seconds": 5, "band_hz": [0.5, 40]},
    "endpoints": {"outcome": {"kind": "binary", "column": "outcome"}},
    "steps": [
        {"id": "table1", "stage": "describe"},
        {"id": "risk", "stage": "train", "uses": ["table1"], "heads": ["outcome"],
         "model": {"blocks": 1, "width": 8, "groups": 2, "hidden": 8, "dropout": 0.0}, "local": {"steps": 2},
         "privacy": {"epsilon": 3, "delta": 1e-5}},
        {"id": "judged", "stage": "evaluate", "uses": ["risk"], "score": "risk.outcome", "sites": "all"},
    ],
}  # fmt: skip


@pytest.fixture
def study_file(tmp_path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


@pytest.fixture
def site(tmp_path) -> tuple[Path, SiteSettings]:
    rows = [{"file": f"r{i}", "patient_id": f"p{i}", "age": "60", "sex": "m", "outcome": str(i % 2)} for i in range(4)]
    network = {
        "coordinator": "127.0.0.1:9", "ca": "ca.crt", "certificate": "c.crt", "key": "k.key", "envelope": "ab" * 32,
    }  # fmt: skip
    settings = make_hospital(tmp_path / "north", rows, network=network, limits={"min_patients": 1, "min_events": 0})
    approval._code.clear()
    return tmp_path / "north" / "site.yaml", settings


def approve(site_file: Path, *what: object, typed: str | None = None) -> str:
    options = ["--yes"] if typed is None else []
    done = CliRunner().invoke(cli, ["approve", str(site_file), *map(str, what), *options], input=typed)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_an_approval_is_recorded_and_a_withdrawal_ends_it(site, study_file):
    site_file, settings = site
    sha256 = load_study(study_file).sha256
    assert sha256 in approve(site_file, study_file)
    approve(site_file, "code")
    approve(site_file, "envelope")
    held = approvals.in_force(settings.state)
    assert set(held) == {("study", sha256), ("code", code_sha256()), ("envelope", "ab" * 32)}
    assert held["study", sha256].what == "test"
    assert approval.approved_study(settings, sha256).sha256 == sha256
    done = CliRunner().invoke(cli, ["withdraw", str(site_file), str(study_file)])
    assert done.exit_code == 0, done.output
    assert ("study", sha256) not in approvals.in_force(settings.state)
    with pytest.raises(Refused) as refused:
        approval.approved_study(settings, sha256)
    assert refused.value.code is RefusalCode.STUDY_NOT_APPROVED
    lines = [json.loads(line) for line in (settings.state / "approvals.jsonl").read_text().splitlines()]
    assert [line.get("withdrawn", False) for line in lines] == [False, False, False, True]
    assert set(lines[0]) == {"at", "kind", "sha256", "by", "what", "mac"}


def test_the_name_must_be_typed(site, study_file):
    site_file, settings = site
    assert "not approved" in approve(site_file, study_file, typed="yes\n")
    assert not approvals.in_force(settings.state)
    assert "approved: study test" in approve(site_file, study_file, typed="test\n")
    assert approvals.in_force(settings.state)


def test_a_study_without_this_site_and_a_foreign_code_are_not_approved(site, study_file):
    site_file, settings = site
    study_file.write_text(yaml.safe_dump(STUDY | {"sites": {"train": ["south"], "zero_shot": ["far"]}}))
    with pytest.raises(ConfigError, match="does not name site 'north'"):
        approve(site_file, study_file)
    with pytest.raises(ConfigError, match="not the hash of the software installed here"):
        approve(site_file, "0" * 64)
    assert not approvals.in_force(settings.state)


def test_the_sites_own_copy_is_the_configuration(site, study_file):
    site_file, settings = site
    sha256 = load_study(study_file).sha256
    approve(site_file, study_file)
    study_file.write_text("gone: astray")
    assert approval.approved_study(settings, sha256).name == "test"
    approvals.study_path(settings.state, sha256).write_text(yaml.safe_dump(STUDY | {"seed": 99}))
    with pytest.raises(Refused) as refused:
        approval.approved_study(settings, sha256)
    assert refused.value.code is RefusalCode.STUDY_NOT_APPROVED


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"kind": "study"}', '{"at":"","kind":"all","sha256":"*","by":"","what":""}']
)
def test_a_damaged_line_approves_nothing(site, study_file, line):
    site_file, settings = site
    sha256 = load_study(study_file).sha256
    approve(site_file, study_file)
    with (settings.state / "approvals.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match="line 2"):
        approvals.in_force(settings.state)
    with pytest.raises(Refused):
        approval.approved_study(settings, sha256)


def ask_app(site_file: Path, kind: str, study: str, step: str = "table1", phase: str = "counts") -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    request = Request(study, "r", step, phase, 0, {})
    message = Message(to_records(encode_request(request)), 2, kind)
    message.metadata.__dict__["_message_id"] = "m"
    return app(message, Context(1, 2, {"site": str(site_file)}, RecordDict(), {}))


def test_flowers_own_clientapp_asks_for_the_approvals_too(site, study_file):
    site_file, _ = site
    study = load_study(study_file)
    for kind in ("query.hello", "query.ask"):
        assert refusal_of(ask_app(site_file, kind, study.sha256).content) == ("north", RefusalCode.CODE_NOT_APPROVED)
    approve(site_file, "code")
    assert ask_app(site_file, "query.hello", study.sha256).content.config_records["hello"]["study"] == ""
    assert refusal_of(ask_app(site_file, "query.ask", study.sha256).content) == (
        "north", RefusalCode.STUDY_NOT_APPROVED,
    )  # fmt: skip
    approve(site_file, study_file)
    assert ask_app(site_file, "query.hello", study.sha256).content.config_records["hello"]["study"] == study.sha256
    first = body_of(ask_app(site_file, "query.ask", study.sha256).content)
    assert body_of(ask_app(site_file, "query.ask", study.sha256).content) == first


@pytest.mark.parametrize("kind", ["study", "code"])
def test_what_is_withdrawn_while_an_answer_is_computed_lets_nothing_leave(site, study_file, monkeypatch, kind):
    site_file, settings = site
    approve(site_file, "code")
    approve(site_file, study_file)
    handlers = room("client", "describe").PHASES
    real = handlers["counts"]
    sha256 = {"study": load_study(study_file).sha256, "code": code_sha256()}

    def slow(context, request):
        answer = real(context, request)
        approvals.record(settings.state, kind, sha256[kind], "test", withdrawn=True)
        return answer

    monkeypatch.setitem(handlers, "counts", slow)
    reply = ask_app(site_file, "query.ask", sha256["study"])
    assert refusal_of(reply.content) == ("north", RefusalCode(f"{kind}-not-approved"))
    assert not (settings.state / "releases.jsonl").exists()
    assert not list((settings.state / "outbox").rglob("*.answer"))


def test_an_answer_over_the_limit_is_not_kept_to_be_sent(site, study_file, tmp_path):
    site_file, _ = site
    approve(site_file, study_file)
    approve(site_file, "code")
    request = Request(load_study(study_file).sha256, "r", "table1", "counts", 0, {})
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    head, parts = deflate(Message(to_records(encode_request(request)), 2, "query.ask"))
    parcel = Inbox(tmp_path / "inbox").open(Head(head).message_id, head)
    for name, content in parts.items():
        parcel.keep(name, content)
    outcome = {limit: _answer_or_refuse(
        site_file, folder=str(parcel.folder), node_id=2, max_bytes=limit, piece_bytes=1 << 20)
               for limit in (1000, 100_000)}  # fmt: skip
    assert outcome[1000] == {"made": False, "code": "gate-closed"}
    assert (outcome[100_000]["made"], outcome[100_000]["code"], outcome[100_000]["stage"]) == (True, None, "describe")
    assert 1000 < outcome[100_000]["bytes"] < 100_000
    answer = answer_of(parcel)
    assert not answer.lacks(Head(answer.head()).object_ids)


def test_a_replayed_round_gives_the_kept_bytes_and_under_privacy_nothing_else(site, study_file, tmp_path):
    """An attacker who has recorded round 1 sends it again after round 9: nothing is computed and nothing is charged."""
    site_file, settings = site
    approve(site_file, study_file)
    study = load_study(study_file)

    def request(round: int, value: float) -> Request:
        return Request(study.sha256, "r", "risk", "fit", round, {"weights": np.full(3, value)})

    outbox = Outbox(settings.state / "outbox")
    for number in range(1, 10):
        log = {"site": "north", "study": study.sha256, "round": number}
        outbox.keep(request(number, 0.5), Release(b"answer %d" % number, log))
    here = Site(site_file)
    assert answer_bytes(here, study, request(9, 0.5)) == b"answer 9"
    for replay in (request(9, 0.6), request(1, 0.5), request(1, 0.6)):
        with pytest.raises(Refused) as refused:
            answer_bytes(here, study, replay)
        assert refused.value.code is RefusalCode.BAD_REQUEST
    lines = [json.loads(line) for line in (settings.state / "releases.jsonl").read_text().splitlines()]
    assert [(line["round"], line["replayed"]) for line in lines] == [(9, True)]


def test_show_says_what_would_run_and_leave(site, study_file):
    site_file, settings = site
    text = "\n".join(show_study(settings, load_study(study_file)))
    for said in (
        load_study(study_file).sha256, "north trains; not approved", "1. table1", "2. risk", "3. judged",
        "differential privacy: epsilon 3, delta 1e-05", "model weights, one vector: update",
        "LOCKBOX: opened by judged", "groups of fewer than 1 patients", "5 s at 100 Hz",
    ):  # fmt: skip
        assert said in text, said
    approve(site_file, study_file)
    done = CliRunner().invoke(cli, ["show", str(site_file), load_study(study_file).sha256])
    assert done.exit_code == 0, done.output
    assert "north trains; approved on" in done.output


def test_what_takes_no_part_is_said_to_leave_nothing(site, study_file):
    _, settings = site
    study_file.write_text(yaml.safe_dump(STUDY | {"steps": [{"id": "t", "stage": "describe", "sites": ["far"]}]}))
    assert "nothing leaves" in "\n".join(show_study(settings, load_study(study_file)))


def test_the_codes_hash_covers_every_file_and_no_folder(tmp_path):
    for where in ("one", "two"):
        for name, text in (("a.py", "x = 1"), ("b/c.yaml", "k: 1"), ("b/d.bin", "no code"), ("__pycache__/a.py", "x")):
            path = tmp_path / where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    hashes = [folders_sha256({"pkg": tmp_path / where}) for where in ("one", "two")]
    assert hashes[0] == hashes[1]
    (tmp_path / "two" / "b" / "d.bin").write_text("other")
    assert folders_sha256({"pkg": tmp_path / "two"}) == hashes[0]
    for change in (("a.py", "x = 2"), ("b/c.yaml", "k: 2"), ("new.py", "")):
        (tmp_path / "two" / change[0]).write_text(change[1])
        assert folders_sha256({"pkg": tmp_path / "two"}) not in hashes
        hashes.append(folders_sha256({"pkg": tmp_path / "two"}))
    assert folders_sha256({"other": tmp_path / "one"}) != hashes[0]
    assert len(code_sha256()) == 64


def test_an_envelope_with_code_in_it_is_refused_by_any_hash():
    import hashlib
    import io
    import zipfile

    for name in ("client/app.py", "x.so", "setup.cfg", "run.sh", ".pth", ".info/x.py", "sub/LICENSE"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("pyproject.toml", "")
            file.writestr(name, "import os")
        with pytest.raises(Refused) as refused:
            check_envelope(buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest())
        assert refused.value.code is RefusalCode.ENVELOPE_NOT_APPROVED
    with pytest.raises(Refused):
        check_envelope(b"no zip", hashlib.sha256(b"no zip").hexdigest())
