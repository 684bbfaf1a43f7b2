"""Names of the ways to attribute an output to its input; apart, so that a study is checked without torch."""

from __future__ import annotations

from typing import Literal

Method = Literal["gradient_x_input", "integrated_gradients"]
