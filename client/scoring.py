"""Scores of this site's ECGs: logits of trained heads, and the calibrated risk. They never leave the site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.site import SiteContext


def feature_matrix(
    site: SiteContext, inputs: tuple[str, ...], arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return score inputs for ``rows``, shape = (len(rows), len(inputs)).

    ``inputs`` names ``"<train step>.<head>"`` (a logit, from ``arrays["<train step>.weights"]``), ``"age"``
    (years) or ``"male"`` (1/0) or a covariate of the study; NaN where unknown.
    """
    raise RuntimeError("laid by the train stage")
