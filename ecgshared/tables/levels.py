"""The levels of a column over all sites: one level however a site spells it, and how many rows of each site have it.

Numbers are compared as numbers (1, 1.0 and 01 are one level), words without regard to case and to blanks. What was
joined is said; what means the same but is another word (M and male) cannot be known, and shows in the counts by site.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgshared.errors import ConfigError

MOST_LEVELS = 50
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def meaning(word: object) -> str:
    """Return what two spellings of one level have in common: the number's shortest form, or the folded word."""
    text = " ".join(str(word).split())
    if _NUMBER.fullmatch(text):
        number = float(text)
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    return text.casefold()


@dataclass(frozen=True)
class Levels:
    """Levels of one column.

    Attributes
    ----------
    name : of the column. labels : each level as it is shown, numbers in their order, else words in theirs.
    rows : rows of each label by site, sites without it at 0. notes : spellings that were taken for one.
    """

    name: str
    labels: tuple[str, ...]
    rows: dict[str, dict[str, int]]
    notes: tuple[str, ...] = ()

    def of(self, cells: pd.Series) -> NDArray[Any]:
        """Return the label of each cell, object array, shape = (n,); "" where it is none of them."""
        known = {meaning(label): label for label in self.labels}
        return np.array([known.get(meaning(cell), "") for cell in cells], dtype=object)

    def with_reference(self, reference: str) -> Levels:
        """Return the same with ``reference`` first; refuse one that is none of them."""
        found = next((label for label in self.labels if meaning(label) == meaning(reference)), None)
        if found is None:
            raise ConfigError(
                f"{self.name!r} has no such level", where="--reference", value=reference, allowed=", ".join(self.labels)
            )
        return Levels(self.name, (found, *(x for x in self.labels if x != found)), self.rows, self.notes)


def levels_of(name: str, sites: Sequence[str], columns: Sequence[pd.Series]) -> Levels:
    """Join the levels of one column over sites; ``columns`` hold text, without missing cells."""
    spellings: dict[str, Counter[str]] = {}
    rows: dict[str, dict[str, int]] = {}
    where: dict[tuple[str, str], list[str]] = {}
    for site, cells in zip(sites, columns, strict=True):
        for word, count in Counter(str(cell) for cell in cells).items():
            key = meaning(word)
            spellings.setdefault(key, Counter())[word] += count
            rows.setdefault(key, dict.fromkeys(sites, 0))[site] += count
            where.setdefault((key, word), []).append(site)
    # A word is shown as the first site that has it spells it.
    labels = {k: k if _NUMBER.fullmatch(k) else " ".join(next(iter(found)).split()) for k, found in spellings.items()}
    notes = [
        f"{name}: one level {labels[key]!r} is spelt "
        + ", ".join(f"{word!r} ({', '.join(where[key, word])})" for word in found)
        for key, found in spellings.items()
        if len(found) > 1
    ]
    ordered = sorted(labels, key=lambda key: (0, float(key), "") if _NUMBER.fullmatch(key) else (1, 0.0, key))
    return Levels(name, tuple(labels[k] for k in ordered), {labels[k]: rows[k] for k in ordered}, tuple(notes))
