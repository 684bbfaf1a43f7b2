"""An answer as numbers that add up: what a site puts into a secure sum, and what comes out of it as one answer.

A payload of sums and counts goes in as it is. A stage whose answers must be weighed first (training) says how, by
``as_sums(payload, request, study, site)`` and ``of_sums(sums, told, request)`` in its shared room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import PrivacyError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.privacy.fixed_point import EXACT, SHORT, FixedPoint, Words
from ecgshared.wire.protocol import Count, Public, Sums, Together, field_kinds

_MOST_TOLD = 64


@dataclass(frozen=True)
class Summand:
    """One site's part of a sum.

    Attributes
    ----------
    arrays : float arrays by name.
    short : names of those that go as one word a number (weights), the others as two.
    told : texts that say nothing about people, by name; they go beside the sum, readable.
    """

    arrays: Mapping[str, NDArray[Any]]
    short: frozenset[str] = frozenset()
    told: Mapping[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> tuple[str, ...]:
        """The order, shapes and forms of the numbers, the same at all sites of one sum: ``name:2x3:exact``."""
        return tuple(
            f"{name}:{'x'.join(map(str, np.shape(array))) or '1'}:{'short' if name in self.short else 'exact'}"
            for name, array in self.arrays.items()
        )

    def words(self, sites: int) -> Words:
        """Return the numbers as words that can be added; raises :class:`PrivacyError` as ``FixedPoint.encode`` does."""
        parts = [
            (SHORT if name in self.short else EXACT).encode(array, sites, what=f"{name!r}")
            for name, array in self.arrays.items()
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def size_of(layout: Sequence[str]) -> int:
    """Return how many words a layout takes; raise :class:`PrivacyError` where it is none."""
    return sum(form.words * int(np.prod(shape, dtype=np.int64)) for _, shape, form in _parsed(layout))


def sums_of(words: Words, layout: Sequence[str]) -> dict[str, Floats]:
    """Return the summed numbers by name."""
    found, start = {}, 0
    for name, shape, form in _parsed(layout):
        size = form.words * int(np.prod(shape, dtype=np.int64))
        found[name] = form.decode(words[start : start + size]).reshape(shape)
        start += size
    if start != len(words):
        raise PrivacyError("a sum of another length than its layout says", value=len(words), allowed=str(start))
    return found


def _parsed(layout: Sequence[str]) -> list[tuple[str, tuple[int, ...], FixedPoint]]:
    found = []
    for text in layout:
        try:
            name, shape, form = text.split(":")
            found.append((name, tuple(int(n) for n in shape.split("x")), {"exact": EXACT, "short": SHORT}[form]))
        except (ValueError, KeyError):
            raise PrivacyError("is no layout of a secure sum", value=text) from None
    if any(n < 0 for _, shape, _ in found for n in shape):
        raise PrivacyError("is no layout of a secure sum", value=layout)
    return found


def summand_of(payload: Any, untold: Sequence[str] = ()) -> Summand:
    """Return a payload of sums and counts as it is added, without some fields; what is public is told beside.

    Raises
    ------
    TypeError : it holds what does not add up. PrivacyError : a number of it is not known.
    """
    arrays: dict[str, NDArray[Any]] = {}
    told: dict[str, str] = {}
    for name, (kind_of_value, kind) in field_kinds(type(payload)).items():
        value = getattr(payload, name)
        if isinstance(kind, Public):
            told[name] = _text(kind_of_value, value)
        elif name in untold:
            continue
        elif isinstance(kind, Sums | Count):
            arrays[name] = np.asarray(value, dtype=np.float64)
        else:
            raise TypeError(f"{type(payload).__name__}.{name} is no sum")
    return Summand(arrays, told=told)


def payload_of(cls: type[Any], sums: Mapping[str, Floats], told: Sequence[Mapping[str, str]]) -> Any:
    """Return summed answers as one; NaN where nothing was told. Of what is public the least holds for all sites.

    Raises
    ------
    PrivacyError : the sum is not of this kind of answer.
    """
    values: dict[str, Any] = dict(sums)
    for name, (kind_of_value, kind) in field_kinds(cls).items():
        if isinstance(kind, Public):
            found = [texts.get(name, "") for texts in told]
            if kind_of_value is int and not all(text.isdecimal() for text in found):
                raise PrivacyError("a site did not say what goes beside its numbers", value=name)
            values[name] = min(int(text) for text in found) if kind_of_value is int else min(found)
        elif name not in values:
            values[name] = np.full(1, np.nan)
    if set(values) != set(field_kinds(cls)):
        raise PrivacyError("a sum of other numbers than the answer's", value=", ".join(sums))
    return cls(**values)


def _text(kind: Any, value: Any) -> str:
    if kind is int or kind is str:
        return str(value)
    raise TypeError("only whole numbers and texts are told beside a sum")


# Evidence -----------------------------------------------------------------------------------------------------

_CARRIED_UNIT = 2.0**-24


def evidence_counts(found: Together) -> list[int]:
    """Return evidence as counts that add up; weights in units of 2^-24, never to the good of the sum."""
    carried = np.asarray(found.carried, dtype=np.float64).reshape(-1, 2) / _CARRIED_UNIT
    if not np.isfinite(carried).all():
        raise PrivacyError("weights of patients in a sum are not finite")
    rounded = np.column_stack([np.floor(carried[:, 0]), np.ceil(carried[:, 1])])
    cells = [*np.ravel(found.patients), *np.ravel(found.events), *rounded.ravel()]
    return [int(c) for c in cells]


def require_enough(counts: Sequence[int], like: Together, limits: DisclosureLimits) -> None:
    """Raise :class:`PrivacyError` unless the groups of all sites together meet limits.

    Parameters
    ----------
    counts : summed evidence, see :func:`evidence_counts`. like : one site's, for its shape.
    """
    k, m = np.size(like.patients), np.size(like.events)
    patients, events = np.array(counts[:k], dtype=np.float64), np.array(counts[k : k + m], dtype=np.float64)
    carried = np.array(counts[k + m :], dtype=np.float64).reshape(-1, 2) * _CARRIED_UNIT
    least = max(limits.min_patients, like.least_patients)
    if (patients < least).any() or (events < limits.min_events).any():
        raise PrivacyError("the group of all sites together is too small")
    if (carried[:, 0] ** 2 < limits.min_patients * carried[:, 1]).any():
        raise PrivacyError("a few patients among all sites carry the sum")
