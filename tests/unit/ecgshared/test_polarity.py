"""A recording upside down, and chest leads at another gain than the limb leads: told on real ones, and none wrongly."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.readers import read
from client.site.settings import QualityPolicy
from ecgshared.ecg.amplitude import TWO_GAINS, two_gains
from ecgshared.ecg.polarity import INVERTED
from ecgshared.ecg.quality import assess, decide
from ecgshared.ecg.record import EcgRecord

EVERY = 11


@pytest.fixture(scope="module")
def records(shared_data: Path) -> list[EcgRecord]:
    rows = list(csv.DictReader((shared_data / "records.csv").read_text().splitlines()))[::EVERY]
    return [read(shared_data / f"{row['file']}.hea") for row in rows]


def codes(record: EcgRecord) -> set[str]:
    return {finding.code for finding in assess(record)}


def test_upright_recordings_at_one_gain_have_neither_finding(records: list[EcgRecord]) -> None:
    assert not [r for r in records if codes(r) & {INVERTED, TWO_GAINS}]


def test_nine_in_ten_upside_down_are_told(records: list[EcgRecord]) -> None:
    told = [INVERTED in codes(replace(record, p_signal=-record.p_signal)) for record in records]
    assert np.mean(told) > 0.85


@pytest.mark.parametrize("factor", [10, 0.1])
def test_chest_leads_at_another_gain_are_told_and_refused(records: list[EcgRecord], factor: float) -> None:
    policy, told = QualityPolicy(), []
    for record in records:
        p_signal = record.p_signal.copy()
        p_signal[6:] *= np.float32(factor)
        found = assess(replace(record, p_signal=p_signal))
        told.append(any(finding.code == TWO_GAINS for finding in found))
        action = decide(found, policy.actions, policy.default, most_empty=policy.most_empty)
        assert action == "refuse" or not told[-1]
    assert np.mean(told) > 0.9


def test_the_factor_between_the_gains_is_said_and_few_leads_say_nothing() -> None:
    amplitude = np.array([1] * 6 + [12] * 6, dtype=np.float32)
    (finding,) = two_gains(amplitude, np.ones(12, dtype=bool))
    assert finding.value == pytest.approx(12)
    assert "12 times" in finding.message
    assert two_gains(amplitude, np.arange(12) < 9) == []
