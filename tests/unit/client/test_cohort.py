from __future__ import annotations

import json
import stat

import numpy as np
import pytest
from hospital import make_hospital, make_study, write_recording
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import client.cohort.selection
import client.ingest.reading
from client.cohort.link import assign_splits, eligibility, most_recent
from client.dataset.opening import open_site
from client.egress.audit import record_lockbox_opening
from client.operator.check import check_site
from client.operator.cli import app
from client.site.keys import SiteKeys, load_keys
from client.site.settings import QualityPolicy
from ecgshared.errors import CohortError, PrivacyError
from ecgshared.study.study import EligibilityConfig, SplitConfig
from ecgshared.wire.protocol import SPLITS

KEYS = SiteKeys(bytes(range(32)), bytes(range(32)))


def rows(n, **more):
    return [
        {"file": f"e{i}", "patient_id": f"p{i // 2}", "age": "60", "sex": "F", "outcome": str(i % 2), **more}
        for i in range(n)
    ]


shares = st.tuples(st.integers(0, 100), st.integers(0, 100)).map(
    lambda cuts: SplitConfig(
        lockbox=min(cuts) / 100,
        validation=(max(cuts) - min(cuts)) / 100,
        train=1 - min(cuts) / 100 - (max(cuts) - min(cuts)) / 100 if max(cuts) < 100 else 0.0,
    )
)
ids = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=50, unique=True)


@given(ids=ids, a=shares, b=shares)
def test_a_lockbox_only_widens_with_its_share(ids, a, b):
    if a.lockbox > b.lockbox:
        a, b = b, a
    positions = KEYS.split_positions(ids)
    assert ((positions >= 0) & (positions < 1)).all()
    small, large = (assign_splits(positions, s) == SPLITS.index("lockbox") for s in (a, b))
    assert not (small & ~large).any()
    np.testing.assert_array_equal(KEYS.split_positions(ids[::-1])[::-1], positions)


def test_shares_are_met_and_another_key_draws_another_split():
    names = [f"p{i}" for i in range(20_000)]
    splits = assign_splits(KEYS.split_positions(names), SplitConfig())
    counts = np.bincount(splits, minlength=3) / len(names)
    np.testing.assert_allclose(counts, [0.3, 0.3, 0.4], atol=0.02)
    other = SiteKeys(bytes(32), bytes(32)).split_positions(names)
    assert abs(np.corrcoef(other, KEYS.split_positions(names))[0, 1]) < 0.05


def test_no_share_means_nobody():
    positions = KEYS.split_positions([f"p{i}" for i in range(500)])
    for name in SPLITS:
        whole = {split: float(split == name) for split in SPLITS}
        assert set(assign_splits(positions, SplitConfig(**whole))) == {SPLITS.index(name)}


def test_the_sites_key_lasts_and_is_its_owners_alone(tmp_path):
    settings = make_hospital(tmp_path, rows(2))
    first = load_keys(settings)
    path = settings.state / "keys" / "site.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_keys(settings) == first
    assert first.own.hex() not in repr(first)
    path.chmod(0o644)
    with pytest.raises(PrivacyError, match="other users"):
        load_keys(settings)


def test_a_consortium_key_gives_two_hospitals_the_same_split_but_not_the_same_pseudonyms(tmp_path):
    key = tmp_path / "consortium.key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    a, b = (load_keys(make_hospital(tmp_path / name, rows(2), consortium_key=str(key))) for name in ("a", "b"))
    np.testing.assert_array_equal(a.split_positions(["x", "y"]), b.split_positions(["x", "y"]))
    assert a.patient("x") != b.patient("x")
    key.write_text("ab")
    with pytest.raises(PrivacyError, match="too short"):
        load_keys(make_hospital(tmp_path / "c", rows(2), consortium_key=str(key)))


def test_no_patient_stands_in_two_splits_and_no_study_changes_the_split(tmp_path):
    settings = make_hospital(tmp_path, rows(40))
    data = open_site(settings, make_study())
    for patient in range(data.n_patients):
        assert len(set(data.split[data.patient == patient])) == 1
    again = open_site(
        settings, make_study(name="another", seed=5, endpoints={"m": {"kind": "binary", "column": "male"}})
    )
    np.testing.assert_array_equal(data.split, again.split)
    seen = data.without_lockbox()
    assert len(seen) == len(data.rows("train", "validation"))
    assert not len(seen.rows("lockbox"))
    np.testing.assert_array_equal(seen.batch(np.arange(len(seen))), data.batch(data.rows("train", "validation")))
    assert np.unique(seen.patient).tolist() == list(range(seen.n_patients))


def test_a_site_that_never_trains_is_all_lockbox(tmp_path):
    settings = make_hospital(tmp_path, rows(6), site="far")
    assert len(open_site(settings, make_study()).rows("lockbox")) == 6
    stranger = settings.model_copy(update={"site": "stranger"})
    assert len(open_site(stranger, make_study()).rows("lockbox")) == 6


def test_the_flow_counts_every_exclusion_in_order(tmp_path):
    table = rows(10)
    table[1]["file"] = "nowhere"
    table[2] |= {"file": "e0", "patient_id": "p0"}
    table[4]["age"] = "85"
    table[5]["age"] = ""
    table[7]["patient_id"] = ""
    names = {f"e{i}": i for i in (0, 3, 4, 5, 6, 7, 8, 9)} | {"spare": 99}
    names["e9"] = names["e8"]
    settings = make_hospital(tmp_path, table, recordings=names, patient_id_missing="drop", exclude="out.txt")
    (tmp_path / "out.txt").write_text("p3.0 # spelt otherwise\np3\n")
    study = make_study(eligibility=EligibilityConfig(max_age=80), sites={"train": ["north"]})
    data = open_site(settings, study)
    assert [(reason, ecgs) for reason, ecgs, _ in data.flow] == [
        ("rows of the site in its table", 10),
        ("recording not found", 9),
        ("recording named by an earlier row", 8),
        ("opted out", 7),
        ("no patient id", 6),
        ("age not known to be under 80", 4),
        ("recording cannot be read", 4),
        ("refused by the quality rules", 4),
        ("the same signal as an earlier row", 3),
    ]
    assert data.flow[-1] == ("the same signal as an earlier row", len(data), data.n_patients)
    assert data.descriptions["files"] == {"without a row": 1}


def test_quality_policy_decides_and_a_broken_recording_is_no_traceback(tmp_path):
    settings = make_hospital(tmp_path, rows(4))
    (tmp_path / "records" / "e1.hea").write_text("nonsense\n")
    dat = tmp_path / "records" / "e2.dat"
    dat.write_bytes(dat.read_bytes()[:-2] + b"\x11\x11")
    data = open_site(settings, make_study())
    assert {reason: ecgs for reason, ecgs, _ in data.flow}["recording cannot be read"] == 3
    assert len(data) == 2
    lenient = QualityPolicy(default="keep", actions={})
    assert len(open_site(settings.model_copy(update={"quality": lenient}), make_study())) == 3
    assert len(open_site(settings, make_study())) == 2


def test_missing_patient_ids_need_a_policy(tmp_path):
    table = rows(6)
    for row in table[:2]:
        row["patient_id"] = ""
    with pytest.raises(CohortError, match="2 ECGs have no patient id"):
        open_site(make_hospital(tmp_path, table), make_study())
    dropped = open_site(make_hospital(tmp_path, table, patient_id_missing="drop"), make_study())
    assert (len(dropped), dropped.n_patients, dropped.patients_known) == (4, 2, True)
    each = open_site(make_hospital(tmp_path, table, patient_id_missing="each-ecg-a-patient"), make_study())
    assert (len(each), each.n_patients, each.patients_known) == (6, 4, False)


def test_age_and_sex_come_from_the_recording_where_the_table_has_none(tmp_path):
    table = [
        {"file": "a", "patient_id": "1", "age": "", "sex": ""},
        {"file": "b", "patient_id": "2", "age": "50", "sex": "F"},
    ]
    settings = make_hospital(tmp_path, table)
    for name in "ab":
        write_recording(tmp_path / "records" / name, ord(name), comments=("Age: 71", "Sex: Male"))
    study = make_study(eligibility=EligibilityConfig(known_age=True, known_sex=True, min_age=18))
    data = open_site(settings, study)
    assert data.age.tolist() == [71, 50]
    assert data.male.tolist() == [1, 0]


def test_eligibility_is_decided_once_and_again_only_where_a_recording_told_more(tmp_path, monkeypatch):
    """Recordings say 30 years, or nothing; the table's word counts where there is one."""
    table = [
        {"file": "a", "patient_id": "1", "age": "60", "sex": "F"},
        {"file": "b", "patient_id": "2", "age": "", "sex": "F"},
        {"file": "c", "patient_id": "3", "age": "", "sex": "F"},
        {"file": "d", "patient_id": "4", "age": "40", "sex": "F"},
        {"file": "e", "patient_id": "5", "age": "61", "sex": ""},
    ]
    settings = make_hospital(tmp_path, table)
    for name in "ade":
        write_recording(tmp_path / "records" / name, ord(name), comments=("Age: 30", "Sex: Male"))
    write_recording(tmp_path / "records" / "b", 1, comments=("Age: 30",))
    write_recording(tmp_path / "records" / "c", 2)
    decided, read_files = [], []
    real, reader = client.cohort.selection.eligibility, client.ingest.reading.read
    monkeypatch.setattr(
        client.cohort.selection,
        "eligibility",
        lambda columns, n, *a, **k: decided.append(n) or real(columns, n, *a, **k),
    )
    monkeypatch.setattr(
        client.ingest.reading, "read", lambda path, *m: read_files.append(path.stem) or reader(path, *m)
    )
    study = make_study(eligibility=EligibilityConfig(min_age=50, known_sex=True))
    data = open_site(settings, study)
    assert data.age.tolist() == [60, 61]
    assert data.male.tolist() == [0, 1]
    # All rows once; then only those whose date, which the table never tells, might have come from the recording.
    assert decided == [5, 4]
    assert sorted(read_files) == ["a", "b", "c", "e"]
    assert [(reason, ecgs) for reason, ecgs, _ in data.flow if "known" in reason] == [
        ("age not known to be 50 or more", 2),
        ("sex not known", 2),
    ]


def test_eligibility_by_date():
    def stamps(*texts):
        return np.array(texts, dtype="datetime64[s]")

    columns = {
        "recorded_at": stamps("2020-01-10", "2020-01-10", "2020-01-10", "2020-01-10", "NaT"),
        "icd_date": stamps("2020-01-10", "2020-01-11", "NaT", "2019-01-01", "2020-01-01"),
        "index_date": stamps("2020-01-12", "2020-01-13", "NaT", "2020-01-01", "2020-01-20"),
    }
    config = EligibilityConfig(exclude_defibrillator=True, min_days_before_index=3)
    (_, implanted), (_, before) = eligibility(columns, 5, config)
    assert implanted.tolist() == [False, True, True, False, False]
    assert before.tolist() == [False, True, True, False, False]
    unread = np.ones(5, dtype=bool)
    assert [passes[4] for _, passes in eligibility(columns, 5, config, unread=unread)] == [True, True]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 5), st.booleans()), max_size=30))
def test_most_recent_is_the_last_eligible_of_each_patient(cells):
    unit = np.array([c[0] for c in cells], dtype=np.int64)
    when = np.array([np.datetime64("NaT") if c[1] < 0 else c[1] for c in cells], dtype="datetime64[s]")
    eligible = np.array([c[2] for c in cells], dtype=bool)
    keep = most_recent(unit, when, eligible)
    for patient in set(unit.tolist()):
        mine = [i for i in range(len(cells)) if cells[i][0] == patient and cells[i][2]]
        best = max(mine, key=lambda i: (cells[i][1], i)) if mine else None
        assert np.flatnonzero(keep & (unit == patient)).tolist() == ([] if best is None else [best])


def test_opening_the_lockbox_is_written_down(tmp_path):
    settings = make_hospital(tmp_path, rows(2))
    for run in ("a", "b"):
        record_lockbox_opening(settings, study_hash="h", step="evaluate", run=run)
    path = settings.state / "lockbox.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["study"], line["step"], line["run"]) for line in lines] == [
        ("h", "evaluate", "a"),
        ("h", "evaluate", "b"),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_check_says_everything_at_once(tmp_path):
    table = rows(4)
    table[0]["age"], table[1]["sex"], table[2]["patient_id"] = "old", "3", ""
    make_hospital(tmp_path, table, exclude="missing.txt", studies=["nowhere.yaml"])
    found = check_site(tmp_path / "site.yaml")
    text = "\n".join(found.faults)
    for part in (
        "nowhere.yaml",
        ":2: age, found 'old'",
        ":3: sex, found '3'",
        ":4: 1 ECGs have no patient id",
        "missing.txt",
    ):
        assert part in text
    assert len(found.faults) == 5
    assert "usable as it stands: 1 of 4 rows, of 1 patient(s)" in found.notes
    (tmp_path / "missing.txt").write_text("")


def test_check_of_a_sound_site_tells_what_is_there(tmp_path):
    make_hospital(tmp_path, rows(4))
    found = check_site(tmp_path / "site.yaml")
    assert found.faults == []
    assert found.notes[:4] == [
        "rows: 4",
        "patients: 2",
        "rows with a recording: 4, without: 0",
        "recordings without a row: 0",
    ]


def test_the_commands_end_with_2_when_something_is_wrong_and_show_values_on_the_terminal_only(tmp_path, caplog):
    table = rows(4)
    table[0]["age"] = "ninetyish"
    make_hospital(tmp_path, table)
    runner = CliRunner()
    checked = runner.invoke(app, ["check", str(tmp_path / "site.yaml")])
    assert checked.exit_code == 2
    assert "table.csv:2: age, found 'ninetyish'" in checked.stdout
    assert "ninetyish" not in caplog.text
    table[0]["age"] = "90"
    make_hospital(tmp_path, table)
    assert runner.invoke(app, ["check", str(tmp_path / "site.yaml")]).exit_code == 0
    forgotten = runner.invoke(app, ["forget", str(tmp_path / "site.yaml"), "p1", "--yes"])
    assert forgotten.exit_code == 0
    assert "added to the opt-out list" in forgotten.stdout
    assert "rows opted out: 2" in runner.invoke(app, ["check", str(tmp_path / "site.yaml")]).stdout
