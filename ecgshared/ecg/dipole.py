"""The twelve leads as a dipole shows in them: eight are independent, the other limb leads follow from two."""

from __future__ import annotations

import numpy as np

INDEPENDENT: tuple[int, ...] = (0, 1, 6, 7, 8, 9, 10, 11)
"""I, II, V1..V6 among the twelve leads."""

LIMB = np.array([[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]])
"""The six limb leads from I and II."""

LEAD_FIELD = np.array(
    [
        *([0.632, -0.235, 0.059], [0.235, 1.066, -0.132]),
        *([-0.515, 0.157, -0.917], [0.044, 0.164, -1.387], [0.882, 0.098, -1.277]),
        *([1.213, 0.127, -0.601], [1.125, 0.127, -0.086], [0.831, 0.076, 0.230]),
    ]
)
"""The eight independent leads of a dipole's X, Y, Z (Dower 1980, doi 10.1016/S0022-0736(80)80024-8)."""
