"""Every usual spelling of a lead, and none that means another."""

from __future__ import annotations

import numpy as np
import pytest

from ecgshared.ecg.leads import LEADS, standard_name, to_standard_order


@pytest.mark.parametrize("lead", LEADS)
def test_usual_spellings(lead: str) -> None:
    for before in (
        "",
        "Lead ",
        "LEAD_",
        "lead-",
        "MDC_ECG_LEAD_",
        "ECG ",
        "ECG_",
        "EKG ",
        "ECG Lead ",
        "Abl. ",
        "Ableitung ",
    ):
        for after in ("", " ", " (mV)", " [uV]", " [µV]", "/mV", "."):
            for form in (lead, lead.upper(), lead.lower()):
                assert standard_name(f"{before}{form}{after}") == lead, (before, form, after)


@pytest.mark.parametrize("number", range(1, 7))
def test_chest_leads_by_the_iec(number: int) -> None:
    for form in (
        f"C{number}",
        f"c{number}",
        f"C {number}",
        f"C-{number}",
        f"V {number}",
        f"V-{number}",
        f"MDC_ECG_LEAD_C{number}",
    ):
        assert standard_name(form) == f"V{number}"


def test_limb_leads_of_other_languages_and_signs() -> None:
    spellings = {"DI": "I", "D II": "II", "D3": "III", "Ⅱ": "II", "a V R": "aVR", "A-V-L": "aVL", "a.V.F.": "aVF"}
    assert {form: standard_name(form) for form in spellings} == spellings


@pytest.mark.parametrize(
    "name", ["-aVR", "Lead -aVR", "- aVR", "−aVR", "aVR(-)", "inverted aVR", "V3R", "V7", "C7", "C10", "CR1", "CM5",
             "X", "VR", "D", "D4", "lead", "ECG", "", " ", "I-II", "V", "1"],
)  # fmt: skip
def test_what_is_none_of_the_twelve(name: str) -> None:
    assert standard_name(name) is None


def test_order_and_derivation() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(0, 1, (2, 50)).astype(np.float32)
    chest = rng.normal(0, 1, (6, 50)).astype(np.float32)
    names = ["C6", "C5", "C4", "C3", "C2", "C1", "DII", "DI"]
    x = to_standard_order(np.concatenate([chest, two[None], one[None]]), names)
    np.testing.assert_allclose(x[:6], [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2], atol=1e-6)
    np.testing.assert_array_equal(x[6:], chest[::-1])
