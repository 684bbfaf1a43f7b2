"""What leaves a site in the parts of a secure sum; see docs/decisions/0012-secure-sums.md for the order they come in.

Before any sum: ``+keys``, ``+shares``, ``+hold``. Of each sum of the answers to a phase: ``<phase>+evidence`` and
``<phase>+weigh`` where the limits are those of all sites together, then ``<phase>+hidden`` and ``<phase>+reveal``.
Envelopes are sealed from site to site, one row for each member in the order of their names; the coordinator hands
them on and cannot read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.wire.protocol import ANY_STAGE, Hidden, Public, payload

Bytes = NDArray[np.uint8]


@payload(ANY_STAGE, "++keys")
@dataclass(frozen=True)
class KeysOffered:
    """A site's public keys for the next sums. S sums.

    ``proof``: who signs: a certificate (DER), or in a simulation a public key. ``signature``: over all the rest and
    what it is for. ``channel``: (32,), to seal envelopes with. ``keys``, ``commitments``: (S, 32), see
    :mod:`ecgshared.privacy.secure_sum`.
    """

    proof: Annotated[Bytes, Hidden()]
    signature: Annotated[Bytes, Hidden()]
    channel: Annotated[Bytes, Hidden()]
    keys: Annotated[Bytes, Hidden()]
    commitments: Annotated[Bytes, Hidden()]


@payload(ANY_STAGE, "++shares")
@dataclass(frozen=True)
class SharesDealt:
    """``envelopes``: (n, L), for each member its shares of this site's secrets."""

    envelopes: Annotated[Bytes, Hidden()]


@payload(ANY_STAGE, "++hold")
@dataclass(frozen=True)
class SharesHeld:
    """``held``: of how many members the site holds shares."""

    held: Annotated[int, Public()]


@payload(ANY_STAGE, "+evidence")
@dataclass(frozen=True)
class EvidenceDealt:
    """``envelopes``: (n, L), for each member its share of the sizes of this site's groups; ``cells``: how many."""

    envelopes: Annotated[Bytes, Hidden()]
    cells: Annotated[int, Public()]


@payload(ANY_STAGE, "+weigh")
@dataclass(frozen=True)
class EvidenceSummed:
    """``envelopes``: (n, L), for each member this site's share of the sizes of all sites' groups together."""

    envelopes: Annotated[Bytes, Hidden()]


@payload(ANY_STAGE, "+hidden")
@dataclass(frozen=True)
class HiddenWords:
    """``words``: uint64, the site's numbers under its masks. ``layout``: which numbers they are. ``told``: what of the
    answer says nothing of people, as ``name=value``."""

    words: Annotated[NDArray[Any], Hidden()]
    layout: Annotated[tuple[str, ...], Public()]
    told: Annotated[tuple[str, ...], Public()]


@payload(ANY_STAGE, "+reveal")
@dataclass(frozen=True)
class Revealed:
    """Shares of the seeds of those whose words came, and of the keys of those whose did not: (n, 66) each, else 0."""

    seeds: Annotated[Bytes, Hidden()]
    keys: Annotated[Bytes, Hidden()]
