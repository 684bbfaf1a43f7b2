"""Three hospitals over the network find what the same three find in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from trial import TRAIN, Trial, events, fits, lines, result, weights


def test_five_rounds_are_those_of_one_process(federation: Trial, undisturbed: Path) -> None:
    alone = federation.simulated(federation.folder / "first.yaml")
    assert np.isfinite(weights(alone)).all()
    np.testing.assert_allclose(weights(undisturbed), weights(alone), rtol=0, atol=1e-6)
    for step in ("cohorts", "risk"):
        found, expected = result(undisturbed, step), result(alone, step)
        assert found.keys() == expected.keys()
        for key in expected:
            assert _close(found[key], expected[key]), key


def test_an_undisturbed_run_lost_nobody(federation: Trial, undisturbed: Path) -> None:
    rounds = list(fits(undisturbed))
    assert [line["round"] for line in rounds] == [1, 2, 3, 4, 5]
    assert all(line["answered"] == sorted(TRAIN) and not line["absent"] and not line["lost"] for line in rounds)
    assert [what for what, _ in events(undisturbed)] == ["submitted"]
    name = lines(federation.state("north") / "releases.jsonl")[0]["run"]
    for site in TRAIN:
        left = [line for line in lines(federation.state(site) / "releases.jsonl") if line["run"] == name]
        assert [(line["phase"], line["round"]) for line in left if line["step"] == "risk"] == [
            *(("fit", number) for number in range(1, 6)),
            ("validate", 5),
        ]


def _close(found: object, expected: object) -> bool:
    """Whether two results are equal; figures to 1e-6, which is what weights are held to."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(_close(found[key], expected[key]) for key in expected)
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_close, found, expected))
    if isinstance(expected, float):
        return isinstance(found, int | float) and abs(found - expected) <= 1e-6 * max(1.0, abs(expected))
    return found == expected
