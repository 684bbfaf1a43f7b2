"""Another key for a site's pseudonyms: nobody found by the old ones, nothing else changed, cut short anywhere."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hospital import make_hospital, make_study
from typer.testing import CliRunner

from client.answer import Site, answer_bytes
from client.cohort.optout import read_opt_outs
from client.dataset.opening import open_site
from client.ingest.run import ingest_site
from client.operator import rotation
from client.operator.cli import app
from client.operator.forget import find_person, forget_patient
from client.rows.allowance import FOLDER
from client.site.keys import LATER_KEYS, LATER_MARK, load_keys
from client.site.settings import load_site
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.wire.protocol import Request

N = 24
STUDY = make_study(sites={"train": ("north",)})
NEAR = make_study(sites={"train": ("north",)}, eligibility={"max_age": 40 + N - 1.5})
"""The same study without the oldest."""


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lived_in") / "hospital"
    limits, ages = {"min_patients": 3, "min_events": 1}, list(range(40, 40 + N))

    def rows():
        return [
            {"file": f"r{i}", "patient_id": f"p{i}", "age": str(ages[i]), "sex": "FM"[i % 2], "outcome": str(i % 2)}
            for i in range(N)
        ]

    keys = load_keys(make_hospital(folder, rows(), limits=limits))
    # The oldest is one of those who train, of whom there are enough to be told of.
    trained = np.flatnonzero(keys.split_positions([f"p{i}" for i in range(N)]) > 0.5)
    one = int(next(i for i in trained if i > 6))
    ages[one], ages[-1] = ages[-1], ages[one]
    settings = make_hospital(folder, rows(), limits=limits)
    ingest_site(settings, [STUDY])
    forget_patient(settings, "p5")
    ask(settings, STUDY, "first")
    return folder


@pytest.fixture
def hospital(lived_in, tmp_path):
    shutil.copytree(lived_in, tmp_path / "hospital")
    return load_site(tmp_path / "hospital" / "site.yaml")


def ask(settings, study, run):
    path = settings.state.parent / "site.yaml"
    return answer_bytes(Site(path), study, Request(study.sha256, run, "table1", "counts", 0, {}))


def told_by_files(state, keys):
    """Names of files that hold a pseudonym of a patient or a recording, whole or its first half, in any writing."""
    found = set()
    names = [keys.patient(f"p{i}") for i in range(N)] + [keys.record(f"r{i}") for i in range(N)]
    for path in state.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for name in names:
            if any(form in content for form in (name, name[:8], name[:8][::-1], name.hex().encode())):
                found.add(path.name)
    return found


def split_of(settings):
    data = open_site(settings, STUDY)
    return dict(zip(data.age.tolist(), data.split.tolist(), strict=True))


def test_nobody_is_found_by_the_old_names_and_all_else_stays(hospital):
    state, before, split = hospital.state, load_keys(hospital), split_of(hospital)
    assert {"index.sqlite", "opt-out.txt", "ledger.sqlite"} <= told_by_files(state, before)
    (signals,) = state.glob("cache/*/signals.i16")
    read = signals.stat().st_mtime_ns
    done = CliRunner().invoke(app, ["rotate", str(state.parent / "site.yaml")], catch_exceptions=False)
    assert "key 2 of this site" in done.output
    after = load_keys(hospital)
    assert told_by_files(state, before) == set()
    assert {"index.sqlite", "opt-out.txt", "ledger.sqlite"} <= told_by_files(state, after)
    assert (before.own, before.split) == (after.own, after.split)
    # The cache is found again, nothing is read anew, the split is what it was, the forgotten stay out.
    assert split_of(hospital) == split
    assert signals.stat().st_mtime_ns == read
    assert 45.0 not in split
    assert after.patient("p5") in read_opt_outs(hospital).forgotten
    assert find_person(hospital, "p5").known_before
    forget_patient(hospital, "p6")
    assert 46.0 not in split_of(hospital)


def test_whom_figures_were_told_of_is_remembered_under_the_new_names(hospital):
    with pytest.raises(Refused, match="fewer than 3 patients"):
        ask(hospital, NEAR, "near")
    account = hospital.state / FOLDER / f"{rotation.CUTS}score-{'0' * 32}.log"
    account.parent.mkdir(exist_ok=True)
    account.write_text("asked\n")
    for number in (2, 3):
        assert rotation.rotate(hospital).keys == number - 1
        ask(hospital, STUDY, f"again-{number}")
        with pytest.raises(Refused, match="fewer than 3 patients") as refused:
            ask(hospital, NEAR, f"near-{number}")
        assert refused.value.code is RefusalCode.TOO_FEW
    assert account.exists(), "of a group that the memory does not know the account stays as it is"


@pytest.mark.parametrize("at", range(0, 24, 3))
def test_cut_short_anywhere_it_goes_on_where_it_ended(hospital, monkeypatch, at):
    before, split = load_keys(hospital), split_of(hospital)
    left, real = [at], {name: getattr(rotation, name) for name in ("rename", "write_atomically", "_database")}

    class Cut(BaseException):
        pass

    def cut(name):
        def call(*args, **named):
            if left[0] == 0:
                raise Cut
            left[0] -= 1
            return real[name](*args, **named)

        return call

    for name in real:
        monkeypatch.setattr(rotation, name, cut(name))
    try:
        rotation.rotate(hospital)
    except Cut:
        with pytest.raises(PrivacyError, match="cut short"):
            load_keys(hospital)
    monkeypatch.undo()
    if left[0] == 0:
        rotation.rotate(hospital)
    assert told_by_files(hospital.state, before) == set()
    assert split_of(hospital) == split
    assert not list(hospital.state.rglob("*.rotated"))
    ask(hospital, STUDY, "again")
    with pytest.raises(Refused):
        ask(hospital, NEAR, "near")


def test_the_later_keys_are_missed_and_a_damaged_log_stops_it(hospital):
    told = hospital.state / "groups" / "told.jsonl"
    whole = told.read_bytes()
    told.write_bytes(whole.replace(b'"kind": "told"', b'"kind": "tolk"', 1))
    with pytest.raises(PrivacyError, match="not what was written"):
        rotation.rotate(hospital)
    told.write_bytes(whole)
    assert load_keys(hospital).later == ()
    assert not list(hospital.state.rglob("*.rotated"))
    rotation.rotate(hospital)
    kept = (hospital.state / LATER_KEYS).read_bytes()
    for content in (None, b"", b"00" * 32 + b"\n", kept + kept):
        (hospital.state / LATER_KEYS).unlink(missing_ok=True)
        if content is not None:
            (hospital.state / LATER_KEYS).write_bytes(content)
        with pytest.raises(PrivacyError, match="lost or of another state"):
            load_keys(hospital)
    (hospital.state / LATER_KEYS).write_bytes(kept)
    assert len(load_keys(hospital).later) == 1
    (hospital.state / LATER_MARK).unlink()
    with pytest.raises(PrivacyError, match="lost or of another state"):
        load_keys(hospital)


def test_pseudonyms_depend_on_every_key_and_the_split_on_the_first_alone(hospital):
    first = load_keys(hospital)
    rotation.rotate(hospital)
    second = load_keys(hospital)
    assert first.patient("p1") != second.patient("p1")
    assert first.near("p1") != second.near("p1")
    assert first.record("r1") != second.record("r1")
    names = [f"p{i}" for i in range(500)]
    assert np.array_equal(first.split_positions(names), second.split_positions(names))
    assert len({second.patient(name) for name in names}) == len(names)
