"""Shamir's secret sharing over one prime field: any ``threshold`` shares give a secret back, fewer tell nothing of it.

The field is that of the Mersenne prime 2^521 - 1, so that a 32-byte key is one element, and a few dozen small counts
packed into one integer are too: shares are additive, and the sum of shares is a share of the sum. Shamir, How to share
a secret, CACM 1979.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

from ecgshared.errors import PrivacyError

PRIME = 2**521 - 1
SHARE_BYTES = 66


def split(secret: int, threshold: int, holders: int) -> list[int]:
    """Return the shares of holders 1, 2, ..., ``holders``; each is the value of one random polynomial there.

    Raises
    ------
    PrivacyError : the secret is no element of the field, or so many shares would never be enough.
    """
    if not 0 <= secret < PRIME:
        raise PrivacyError("a secret is no element of the field its shares are of")
    if not 1 <= threshold <= holders:
        raise PrivacyError("a secret cannot be shared so", value=threshold, allowed=f"a threshold of 1 to {holders}")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    shares = []
    for x in range(1, holders + 1):
        value = 0
        for coefficient in coefficients:
            # Reduced once, at the end: a holder's number is small, and so the value grows by a few bits a step.
            value = (value + coefficient) * x
        shares.append((value + secret) % PRIME)
    return shares


def join(shares: Mapping[int, int], threshold: int) -> int:
    """Return the secret behind shares by holder (1-based); any ``threshold`` of them are taken.

    Raises
    ------
    PrivacyError : there are fewer. Wrong shares are NOT noticed: whoever joins holds a commitment to what must come.
    """
    if len(shares) < threshold:
        raise PrivacyError("too few shares to join a secret", value=len(shares), allowed=f"at least {threshold}")
    holders = tuple(sorted(shares))[:threshold]
    weights = _weights_at_zero(holders)
    return sum(weight * shares[x] for x, weight in zip(holders, weights, strict=True)) % PRIME


@lru_cache(maxsize=64)
def _weights_at_zero(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights that give the polynomial's value at 0 from its values at ``holders``."""
    found = []
    for x in holders:
        above, below = 1, 1
        for other in holders:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(found)


_CELL_BITS = 60
_CELLS = 520 // _CELL_BITS


def pack(numbers: Sequence[int]) -> list[int]:
    """Return small counts as field elements that add up cell by cell: the sum of packed counts is the packed sum.

    Raises
    ------
    PrivacyError : a count is negative or not below 2^48, so that 4096 of them could run over into the next cell.
    """
    if any(not 0 <= number < 2**48 for number in numbers):
        raise PrivacyError("a count does not fit its cell", allowed="0 to 2^48 - 1")
    packed = []
    for start in range(0, len(numbers), _CELLS):
        packed.append(sum(int(n) << (_CELL_BITS * i) for i, n in enumerate(numbers[start : start + _CELLS])))
    return packed


def unpack(elements: Sequence[int], count: int) -> list[int]:
    """Return the ``count`` counts that were packed, or their sums."""
    cell = (1 << _CELL_BITS) - 1
    cells = [(element >> (_CELL_BITS * i)) & cell for element in elements for i in range(_CELLS)]
    return cells[:count]


def to_bytes(shares: Sequence[int]) -> bytes:
    """Write field elements, SHARE_BYTES each."""
    return b"".join(share.to_bytes(SHARE_BYTES, "big") for share in shares)


def from_bytes(data: bytes) -> list[int]:
    """Read what :func:`to_bytes` wrote."""
    if len(data) % SHARE_BYTES:
        raise PrivacyError("shares of another length than their field's")
    found = [int.from_bytes(data[i : i + SHARE_BYTES], "big") for i in range(0, len(data), SHARE_BYTES)]
    if any(value >= PRIME for value in found):
        raise PrivacyError("a share is no element of the field")
    return found
