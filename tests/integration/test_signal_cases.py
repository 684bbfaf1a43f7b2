"""Files that were once accepted or refused wrongly, as cases laid beside the checkout hold them; and today's counts."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.operator.read_cli import app
from client.readers import read
from ecgshared.ecg.quality import assess

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "files"

MOST = {
    "amplitude-implausible": 2, "baseline-wander": 115, "beats-disagree": 2, "chest-lead-inverted": 1,
    "chest-leads-disordered": 0, "clipped": 3, "empty": 6, "flat-lead": 7, "low-amplitude": 2, "mains-noise": 9,
    "pacing-spikes": 9, "reversed-arm-leg": 1, "reversed-ra-la": 4, "reversed-ra-ll": 1, "spikes": 45,
    "swapped-v1-v2": 3, "swapped-v1-v3": 1, "swapped-v2-v3": 3, "swapped-v3-v4": 3, "swapped-v4-v5": 4,
}  # fmt: skip
"""Findings of 1,093 real recordings, by code. ``empty`` (six records with three to six leads of zeros) and
``amplitude-implausible`` (34 and 12 mV in the middle of the leads) are true; no code but these came with the rules on
rate, amplitude and contradictions."""


def shown(name: str, *options: str) -> dict:
    path = CASES / name
    if not path.exists():
        pytest.skip("the cases are not beside this checkout")
    result = CliRunner().invoke(app, [str(path), "--json", *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.mark.parametrize(
    ("name", "code", "action"),
    [
        ("muse-240hz/m.xml", "derived-lead", "keep"),
        ("gain-x10/x10.hea", "amplitude-implausible", "flag"),
        ("limb-leads-contradict/aVR_inverted.hea", "limb-lead-inverted", "refuse"),
        ("limb-leads-contradict/aVL_aVF_exchanged.hea", "leads-permuted", "refuse"),
        ("invalid-96-percent/n.hea", "empty", "refuse"),
    ],
)
def test_cases(name: str, code: str, action: str) -> None:
    facts = shown(name)
    assert code in {finding["code"] for finding in facts["findings"]}
    assert facts["action_by_default"] == action


def test_chest_leads_by_the_iec_are_chest_leads() -> None:
    facts = shown("chest-leads-c1-c6/c.hea")
    assert facts["findings"] == []
    assert all(facts["leads"][f"V{i}"] is not None for i in range(1, 7))


def test_a_fiftieth_of_a_recording_has_no_beats_and_no_warning() -> None:
    facts = shown("invalid-96-percent/n.hea", "--features")
    assert set(facts["features"].values()) == {None}
    assert facts["features_note"] == "not measured: no two whole beats show"


def test_paced_figures_are_those_without_spikes() -> None:
    plain = shown("paced/p0.hea", "--features")["features"]
    assert (plain["qrs_ms"], round(plain["qt_ms"])) == (pytest.approx(192, abs=4), pytest.approx(511, abs=4))
    for name in ("p0.3", "p4"):
        found = shown(f"paced/{name}.hea", "--features")["features"]
        assert found["qrs_ms"] == pytest.approx(plain["qrs_ms"], abs=6)
        assert found["qt_ms"] == pytest.approx(plain["qt_ms"], abs=6)


FIFTH = {
    "amplitude-implausible": 1, "baseline-wander I": 2, "baseline-wander II": 5, "baseline-wander III": 3,
    "baseline-wander V1": 4, "baseline-wander V2": 2, "baseline-wander V3": 3, "baseline-wander V4": 6,
    "baseline-wander V5": 3, "baseline-wander V6": 2, "clipped aVF": 1, "empty": 1, "flat-lead V1": 1,
    "flat-lead V2": 1, "flat-lead V3": 1, "flat-lead V4": 1, "flat-lead V5": 1, "flat-lead V6": 1, "mains-noise V3": 1,
    "mains-noise V6": 1, "spikes I": 1, "spikes II": 1, "spikes III": 1, "spikes V1": 3, "spikes V2": 2, "spikes V3": 2,
    "spikes V4": 3, "spikes V5": 4, "spikes V6": 3, "spikes aVF": 1, "spikes aVL": 1, "spikes aVR": 1,
    "swapped-v3-v4 V3": 1, "swapped-v4-v5 V4": 1,
}  # fmt: skip
"""Findings of every fifth of them, by code and lead, as they were when every rule still did all of its work."""


def test_what_a_rule_spares_itself_changes_no_finding(shared_data: Path) -> None:
    with (shared_data / "records.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::5]
    found = (assess(read(shared_data / f"{row['file']}.hea")) for row in rows)
    assert Counter(f"{each.code} {each.lead or ''}".strip() for findings in found for each in findings) == FIFTH


@pytest.mark.slow
def test_no_new_false_finding_on_real_records(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts, records = Counter[str](), 0
    with (shared_data / "records.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            counts.update({finding.code for finding in assess(read(shared_data / f"{row['file']}.hea"))})
            records += 1
    with capsys.disabled():
        print(f"\n{records} recordings: {dict(sorted(counts.items()))}")
    assert records == 1093
    assert {code: files for code, files in counts.items() if files > MOST.get(code, 0)} == {}
