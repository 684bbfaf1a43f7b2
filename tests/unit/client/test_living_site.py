"""A site that lives on while its files change: every change counts at the next answer, and at the one being made."""

from __future__ import annotations

import csv
import os
import pickle

import numpy as np
import pytest
import yaml
from hospital import make_hospital, make_study, write_recording

import client.site.current
from client.answer import Site, Sites, answer_bytes, of_this_process
from client.dataset import cohorts
from client.ingest.run import ingest_site
from client.operator.forget import forget_patient
from client.site.current import FileMark, SiteFile, wait_until_still
from ecgshared.errors import CohortError, ConfigError, RefusalCode, Refused
from ecgshared.stages.describe import SiteCounts
from ecgshared.study.registry import room
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Request

STUDY = make_study(sites={"train": ("north",)})


def rows(n):
    return [
        {"file": f"r{i}", "patient_id": f"p{i}", "age": str(40 + i), "sex": "FM"[i % 2], "outcome": str(i % 2)}
        for i in range(n)
    ]


@pytest.fixture
def hospital(tmp_path):
    make_hospital(tmp_path, rows(6), limits={"min_patients": 1, "min_events": 0}, exclude="out.txt", seed=1)
    (tmp_path / "out.txt").write_text("")
    key = tmp_path / "state" / "keys" / "site.key"
    key.parent.mkdir(parents=True)
    key.write_text("5a" * 32)
    key.chmod(0o600)
    return tmp_path


@pytest.fixture
def site(hospital):
    return Site(hospital / "site.yaml")


@pytest.fixture
def openings(monkeypatch):
    """Count the openings of cohorts."""
    seen = []
    real = cohorts.open_cohort
    monkeypatch.setattr(cohorts, "open_cohort", lambda *a, **k: seen.append(1) or real(*a, **k))
    return seen


def write_table(folder, content):
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(content[0]))
        writer.writeheader()
        writer.writerows(content)


def change_site(folder, **changes):
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def counted(site, run, study=STUDY):
    """Ask for Table 1; return the ECGs it counts in all."""
    request = Request(study.sha256, run, "table1", "counts", 0, {})
    body = answer_bytes(site, study, request)
    payload = decode_payload(body, SiteCounts, stamp_of(request, "north"))
    return float(np.nansum(payload.ecgs)), payload


def all_ecgs(site):
    return site.cohort(STUDY).flow[-1][1]


def test_who_is_forgotten_is_not_in_the_next_answer_and_no_stranger_is_either(site, hospital):
    before = site.cohort(STUDY)
    theirs = before.batch(np.array([2]))
    assert theirs.any()
    forget_patient(site.settings(), "p2")
    # A new recording of a new patient, read by another command beside this process.
    write_recording(hospital / "records" / "r9", 99)
    write_table(hospital, [*rows(6), {"file": "r9", "patient_id": "p9", "age": "80", "sex": "F", "outcome": "1"}])
    after = site.cohort(STUDY)
    assert len(after) == 6
    assert after.age.tolist() == [40, 41, 43, 44, 45, 80]
    assert not before.batch(np.array([2])).any()
    np.testing.assert_array_equal(after.batch(np.arange(5)), before.batch(np.array([0, 1, 3, 4, 5])))


def test_answers_count_what_the_files_say_at_that_time(site, hospital, openings):
    everybody = counted(site, "one")[0]
    assert counted(site, "again")[0] == everybody
    assert len(openings) == 1
    here = set(np.flatnonzero(site.cohort(STUDY).split != 2).tolist())  # describe never sees the lockbox
    gone = sorted(here)[:3]
    forget_patient(site.settings(), f"p{gone[0]}")
    assert counted(site, "forgotten")[0] == everybody - 1
    (hospital / "out.txt").write_text(f"p{gone[1]}\n")
    assert counted(site, "opted-out")[0] == everybody - 2
    write_table(hospital, [row for i, row in enumerate(rows(6)) if i != gone[2]])
    assert counted(site, "another-table")[0] == everybody - 3
    change_site(hospital, exclude=None)
    assert counted(site, "another-list")[0] == everybody - 2
    # What was answered before is what it was: asked again, the very same bytes.
    assert counted(site, "one")[0] == everybody
    assert len(openings) == 5


def test_a_recording_that_came_later_is_there_once_it_is_ingested(hospital, openings):
    (hospital / "records" / "r4.hea").rename(hospital / "away")
    site = Site(hospital / "site.yaml")
    assert all_ecgs(site) == 5
    (hospital / "away").rename(hospital / "records" / "r4.hea")
    assert ingest_site(site.settings(), [STUDY]).read == 1
    assert all_ecgs(site) == 6
    assert ingest_site(site.settings(), [STUDY]).read == 0
    assert all_ecgs(site) == 6
    write_recording(hospital / "records" / "r5", 77)
    os.utime(hospital / "records" / "r5.hea", ns=(1, 1))
    before = site.cohort(STUDY).batch(np.array([5]))
    assert ingest_site(site.settings(), [STUDY]).read == 1
    assert not np.array_equal(site.cohort(STUDY).batch(np.array([5])), before)
    assert len(openings) == 3


def test_raised_limits_hold_for_the_next_answer_and_open_nothing_anew(site, hospital, openings):
    assert np.isfinite(counted(site, "one")[1].ecgs[0])
    change_site(hospital, limits={"min_patients": 50, "min_events": 5})
    assert np.isnan(counted(site, "two")[1].ecgs).all()
    assert len(openings) == 1


def test_what_changes_nothing_opens_nothing(site, hospital, openings):
    first = site.cohort(STUDY)
    for name in ("table.csv", "site.yaml", "out.txt"):
        os.utime(hospital / name, (1, 1))
    (hospital / "site.yaml").write_text("# a comment\n" + (hospital / "site.yaml").read_text())
    content = (hospital / "table.csv").read_bytes()
    (hospital / "table.csv").unlink()
    (hospital / "table.csv").write_bytes(content)
    assert site.cohort(STUDY) is first
    assert len(openings) == 1


def test_the_memory_of_scores_goes_with_the_cohort_and_other_studies_cohorts_go_too(site, openings):
    other = make_study(name="other", sites={"train": ("north",)})
    asked = [Request(study.sha256, "r", "table1", "counts", 0, {}) for study in (STUDY, other)]
    first, second = (site.context(study, r, ledger=None) for study, r in zip((STUDY, other), asked, strict=True))
    made = []

    def remembered(context):
        return context.remembered(
            "logits", "m", (np.arange(3),), lambda: np.asarray([float(made.append(1) or 7)]), most=2
        )

    assert remembered(first) is remembered(site.context(STUDY, asked[0], ledger=None))
    assert len(made) == 1
    forget_patient(site.settings(), "p1")
    assert not site.is_now(first)
    third = site.context(STUDY, asked[0], ledger=None)
    assert remembered(third) == 7
    assert len(made) == 2
    assert list(site._cohorts._opened) == [STUDY.sha256]
    assert third.memory is not second.memory
    assert len(openings) == 3


def test_what_is_forgotten_in_the_middle_of_an_answer_is_not_in_it(site, monkeypatch):
    handlers = room("client", "describe").PHASES
    real, tries = handlers["counts"], []

    def slow(context, request):
        answer = real(context, request)
        tries.append(len(context.data))
        if len(tries) == 1:
            forget_patient(site.settings(), f"p{int(context.data.age[0]) - 40}")
        return answer

    everybody = counted(site, "before")[0]
    monkeypatch.setitem(handlers, "counts", slow)
    assert counted(site, "during")[0] == everybody - 1
    assert tries == [everybody, everybody - 1]


def test_a_failure_over_recordings_that_went_away_is_no_failure(site, monkeypatch):
    handlers = room("client", "describe").PHASES
    real, tries = handlers["counts"], []

    def failing(context, request):
        tries.append(1)
        if len(tries) == 1:
            forget_patient(site.settings(), "p1")
            raise KeyError("a slot")
        return real(context, request)

    monkeypatch.setitem(handlers, "counts", failing)
    assert counted(site, "r")[0] > 0
    assert len(tries) == 2
    monkeypatch.setitem(handlers, "counts", lambda *_: {}["a fault of our own"])
    with pytest.raises(KeyError):
        counted(site, "s")


def test_what_changes_every_time_is_refused(site, hospital, monkeypatch):
    handlers = room("client", "describe").PHASES
    real, patients = handlers["counts"], iter(range(5))

    def busy(context, request):
        answer = real(context, request)
        forget_patient(site.settings(), f"p{next(patients)}")
        return answer

    monkeypatch.setitem(handlers, "counts", busy)
    with pytest.raises(Refused) as refused:
        counted(site, "r")
    assert refused.value.code is RefusalCode.DATA_UNAVAILABLE
    assert not (hospital / "state" / "releases.jsonl").exists()


def test_limits_raised_in_the_middle_of_an_answer_hold_for_it(site, hospital, monkeypatch):
    handlers = room("client", "describe").PHASES
    real, tries = handlers["counts"], []

    def slow(context, request):
        tries.append(1)
        change_site(hospital, limits={"min_patients": 50, "min_events": 5})
        return real(context, request)

    monkeypatch.setitem(handlers, "counts", slow)
    assert np.isnan(counted(site, "r")[1].ecgs).all()
    assert len(tries) == 2


def test_a_broken_site_file_answers_nothing_until_it_is_mended(site, hospital):
    assert all_ecgs(site) == 6
    good = (hospital / "site.yaml").read_text()
    (hospital / "site.yaml").write_text(good + "limmits: {min_patients: 50}\n")
    with pytest.raises(ConfigError, match="limmits"):
        site.cohort(STUDY)
    assert site.last_settings is not None
    assert site.last_settings.site == "north"
    (hospital / "site.yaml").write_text(good)
    assert all_ecgs(site) == 6


NETWORK = {"coordinator": "127.0.0.1:9", "ca": "ca.crt", "certificate": "c.crt", "key": "k.key", "envelope": "ab" * 32}


@pytest.mark.parametrize("change", [{"site": "south"}, {"state": "elsewhere"}, {"network": None}])
def test_what_a_process_has_open_belongs_to_the_old_file(hospital, change):
    change_site(hospital, network=NETWORK)
    file = SiteFile(hospital / "site.yaml")
    first = file.now()
    change_site(hospital, **change)
    with pytest.raises(ConfigError, match=f"{next(iter(change))} changed; until a restart nothing is answered"):
        file.now()
    change_site(hospital, site="north", state="state", network=NETWORK)
    assert file.now() is first


def test_a_changed_connection_waits_for_a_restart_and_says_so(hospital):
    change_site(hospital, network=NETWORK)
    file = SiteFile(hospital / "site.yaml")
    file.now()
    assert file.waiting_for_restart() == ()
    change_site(hospital, network=NETWORK | {"coordinator": "127.0.0.1:10", "max_message_mb": 5})
    file.now()
    assert file.waiting_for_restart() == ("network.coordinator", "network.max_message_mb")


def test_a_change_of_the_same_size_and_time_is_seen(tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    os.utime(path, ns=(5, 5))
    mark = FileMark(path)
    path.write_text("two")
    os.utime(path, ns=(5, 5))
    assert mark.changed()
    path.write_text("one")
    assert not mark.changed()
    path.unlink()
    assert mark.changed()
    absent = FileMark(path)
    assert not absent.changed()
    path.write_text("")
    assert absent.changed()


def test_content_is_read_again_only_where_it_may_differ(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text("one")
    looks = []
    real = client.site.current._look
    monkeypatch.setattr(client.site.current, "_look", lambda p: looks.append(1) or real(p))
    mark = FileMark(path)
    assert not mark.changed()
    assert len(looks) == 2  # too young to tell
    monkeypatch.setattr(client.site.current, "_TICK_NS", 0)
    mark = FileMark(path)
    for _ in range(5):
        assert not mark.changed()
    assert len(looks) == 3


def test_a_table_that_is_being_written_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("a")
    writes = iter(range(3))

    def sleep(seconds):
        if next(writes, None) is not None:
            path.write_text(path.read_text() + "b")

    monkeypatch.setattr(client.site.current.time, "sleep", sleep)
    wait_until_still(path)
    assert path.read_text() == "abbb"
    monkeypatch.setattr(client.site.current, "_LONGEST_SECONDS", -1.0)
    monkeypatch.setattr(client.site.current.time, "sleep", lambda _: path.write_text(path.read_text() + "b"))
    with pytest.raises(CohortError, match="written all the time"):
        wait_until_still(path)


def test_an_app_sent_to_another_process_takes_no_cohort_along(site, hospital):
    sites = Sites()
    sites[hospital / "site.yaml"].cohort(STUDY)
    sent = pickle.dumps(sites)
    assert len(sent) < 200
    assert pickle.loads(sent) is of_this_process()
    assert pickle.loads(sent) is not sites


def test_who_is_left_out_by_a_study_s_rules_has_not_left(tmp_path):
    """Before: describe told of everybody, another study's calibrate of all but the oldest, and subtraction of her."""
    settings = make_hospital(tmp_path, rows(24), limits={"min_patients": 3, "min_events": 1})
    fit = {"id": "fit", "stage": "calibrate", "target": "outcome", "inputs": ["age"], "split": "validation"}
    members, split = {"train": ("north",)}, {"train": 0.0, "validation": 1.0, "lockbox": 0.0}
    everybody = make_study(sites=members, split=split)
    fewer = make_study(sites=members, split=split, steps=[fit], eligibility={"max_age": 62.5})

    def ask(study, step, phase):
        return answer_bytes(Site(tmp_path / "site.yaml"), study, Request(study.sha256, "r", step, phase, 0, {}))

    ask(everybody, "table1", "counts")
    with pytest.raises(Refused, match="fewer than 3 patients") as refused:
        ask(fewer, "fit", "moments")
    assert refused.value.code is RefusalCode.TOO_FEW
    # Who is gone from the table was not chosen by who asks.
    write_table(tmp_path, rows(24)[:-1])
    ask(make_study(sites=members, split=split, steps=[fit]), "fit", "moments")
    assert settings.state.exists()
