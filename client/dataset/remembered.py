"""What a model says of a site's rows, kept for the phases of one step that ask for the same again and again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.rows.context import SiteContext


class Remembered:
    """The last few results, by all that determines them: site, study, model's step, rows, weights, and the run.

    Whether the step opens the lockbox is part of it: row numbers then mean other ECGs.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, NDArray[np.float64]] = OrderedDict()

    def get(
        self,
        site: SiteContext,
        model: str,
        arrays: tuple[NDArray[Any], ...],
        compute: Callable[[], NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """Return the kept result, or compute and keep it.

        Parameters
        ----------
        model : id of the train step.
        arrays : weights, standardisation and rows.
        """
        key = hashlib.sha256()
        for part in (site.settings.site, site.study.sha256, model, str(site.step.opens_lockbox), site.run):
            key.update(part.encode() + b"\0")
        for array in arrays:
            key.update(np.ascontiguousarray(array).tobytes())
        name = key.hexdigest()
        if name not in self._kept:
            self._kept[name] = compute()
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name]
