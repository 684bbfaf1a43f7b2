"""Terms of a regression: what the study writes, as values."""

from __future__ import annotations

import numpy as np
import pytest

from ecgshared.study.terms import Term

COLUMNS = {"lvef": np.array([0.3, 0.35, 0.4, np.nan]), "age": np.array([50.0, 80.0, np.nan, 60.0])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lvef", [0.3, 0.35, 0.4, np.nan]),
        ("lvef<=0.35", [1, 1, 0, np.nan]),
        ("lvef < 0.35", [1, 0, 0, np.nan]),
        ("age>=80", [0, 1, np.nan, 0]),
        ("age>80", [0, 0, np.nan, 0]),
    ],
)
def test_a_factor_of_each_kind(text, expected):
    (factor,) = Term.read(text).factors
    np.testing.assert_array_equal(factor.of(COLUMNS), expected)


def test_single_precision_meets_its_bound():
    held = np.array([0.3], dtype=np.float32).astype(np.float64)
    assert held[0] > 0.3
    assert Term.read("lvef<=0.3").factors[0].of({"lvef": held})[0] == 1


@pytest.mark.parametrize("text", ["", "a:b:c", "a:a", "a<=x", "<=3", "a b:", "A", "a==1"])
def test_what_is_no_term_is_refused(text):
    with pytest.raises(ValueError, match="is no term"):
        Term.read(text)


def test_a_column_that_is_not_there_is_named_with_what_is_near():
    assert Term.read("agee:lvef<=0.3").faults(["age", "lvef"]) == [
        "'agee' of term 'agee:lvef<=0.3' is no column of the study; did you mean age?"
    ]
