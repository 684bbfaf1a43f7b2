"""What the intervals of concordance, AUC by a horizon and calibration slope cover with about ten to fifty events."""

from __future__ import annotations

import numpy as np
import pytest
from test_few_events import coverage


@pytest.mark.benchmark
def test_coverage_by_number_of_events(capsys):
    lines = ["patients  effect  figure    95% interval holds the truth (draws)"]
    held = []
    for n, rate in ((45, 0.25), (150, 0.1), (600, 0.025)):
        for effect in (0.3, 0.8, 1.5):
            for name, (share, draws) in coverage(n, effect, rate, draws=400).items():
                held.append(share)
                lines.append(f"{n:8d}  {effect:6.1f}  {name:8}  {share:.3f} ({draws})")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert np.min(held) > 0.90
    assert 0.935 < np.mean(held) < 0.975
