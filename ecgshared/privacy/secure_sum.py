"""The cryptography of a secure sum: keys, masks, shares, and how the masks are taken off a sum of many.

After Bonawitz et al., Practical secure aggregation, CCS 2017. Each site adds to its words, modulo 2^64, a mask of its
own and one for each other site, which that site subtracts. The pair's masks follow from an X25519 agreement between
keys made for this one sum; seeds of masks are stretched by AES-256 in counter mode. Every site shares its two secrets
(its own mask's seed, the private key of its pairs' masks) among all by Shamir's scheme. To open a sum, one needs for
each site that sent its words the seed, and for each that did not the key: the sites reveal for each site one kind of
share, never both, so that no single site's words can be bared.

Nothing here knows of messages, files or names: members are numbered 0, 1, ... in the order of their names, and holder
``i + 1`` of shares is member ``i``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ecgshared.errors import PrivacyError
from ecgshared.privacy import shamir
from ecgshared.privacy.fixed_point import Words
from ecgshared.study.secure import LEAST_SITES

KEY_BYTES = 32
_NONCE_BYTES = 12
SEALED_BYTES = _NONCE_BYTES + 16
_CHUNK = 1 << 18


def context(*parts: object) -> bytes:
    """Return what binds keys and seals to one use, 32 bytes: the digest of the parts, told apart."""
    texts = [str(part).encode() for part in parts]
    return hashlib.sha256(b"".join(len(text).to_bytes(8, "big") + text for text in texts)).digest()


def new_key() -> bytes:
    """Return a private X25519 key, 32 bytes."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> bytes:
    """Return the public key of a private one, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def loaded(private: bytes) -> X25519PrivateKey:
    """Return a private key to agree by; worth keeping where many are to be agreed with: it is half of the work."""
    return X25519PrivateKey.from_private_bytes(private)


def agreed(private: X25519PrivateKey, public: bytes, use: bytes) -> bytes:
    """Return the secret that two keys agree on for one use, 32 bytes.

    Raises
    ------
    PrivacyError : the public key is none (of low order, so that anybody could know the secret).
    """
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise PrivacyError("a public key with which no secret can be agreed") from None
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=use).derive(shared)


def seal(key: bytes, content: bytes, use: bytes) -> bytes:
    """Encrypt and authenticate; SEALED_BYTES longer than ``content``."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, use)


def unseal(key: bytes, sealed: bytes, use: bytes) -> bytes:
    """Return what was sealed; raise :class:`PrivacyError` where it was changed, or was for another use."""
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], use)
    except (InvalidTag, ValueError):
        raise PrivacyError(
            "an envelope between two sites was changed on its way, or was meant for something else"
        ) from None


def commitment(seed: bytes) -> bytes:
    """Return what a seed that is joined from shares must match, 32 bytes; signed with the keys it belongs to."""
    return hashlib.sha256(b"ecgfed mask seed v1\0" + seed).digest()


def add_mask(words: Words, seed: bytes, *, subtract: bool = False) -> None:
    """Add the mask of a seed to words in place, modulo 2^64; or take it off."""
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    size = min(_CHUNK, max(len(words), 1))
    zeros, mask = memoryview(bytes(8 * size)), bytearray(8 * size + 16)
    numbers = np.frombuffer(mask, dtype=np.uint64)
    for start in range(0, len(words), size):
        part = words[start : start + size]
        stream.update_into(zeros[: 8 * len(part)], mask)
        if subtract:
            part -= numbers[: len(part)]
        else:
            part += numbers[: len(part)]


@dataclass(frozen=True)
class PublicKeys:
    """What one sum's members have published: keys of pairs' masks, and commitments to own seeds, by member."""

    use: bytes
    keys: Mapping[int, bytes]
    commitments: Mapping[int, bytes]

    @property
    def members(self) -> tuple[int, ...]:
        """In order."""
        return tuple(sorted(self.keys))


def hide(words: Words, member: int, private: bytes, seed: bytes, published: PublicKeys) -> Words:
    """Return a member's words under its own mask and those of its pairs; ``words`` stay as they are."""
    hidden, mine = words.copy(), loaded(private)
    add_mask(hidden, seed)
    for other in published.members:
        if other != member:
            pair = agreed(mine, published.keys[other], published.use)
            add_mask(hidden, pair, subtract=other < member)
    return hidden


@dataclass(frozen=True)
class Reveal:
    """What one member gives so that a sum is opened: shares of the seeds of those whose words came, and of the keys of
    those whose did not; by member, field elements."""

    seeds: Mapping[int, int]
    keys: Mapping[int, int]


def open_sum(
    hidden: Mapping[int, Words], reveals: Mapping[int, Reveal], published: PublicKeys, threshold: int
) -> Words:
    """Return the sum of the members' words, from their hidden words and enough reveals.

    Raises
    ------
    PrivacyError : too few words or reveals, or a joined secret is not the one that was promised (a wrong share).
    """
    if len(hidden) < max(threshold, LEAST_SITES):
        raise PrivacyError("too few sites sent their words", value=len(hidden), allowed=f"at least {threshold}")
    total = np.zeros_like(next(iter(hidden.values())))
    for words in hidden.values():
        total += words
    for member in hidden:
        seed = _joined({v: r.seeds[member] for v, r in reveals.items() if member in r.seeds}, threshold)
        if commitment(seed) != published.commitments[member]:
            raise PrivacyError("shares do not give back the seed that a site promised", value=member)
        add_mask(total, seed, subtract=True)
    for gone in set(published.members) - set(hidden):
        key = _joined({v: r.keys[gone] for v, r in reveals.items() if gone in r.keys}, threshold)
        if public_key(key) != published.keys[gone]:
            raise PrivacyError("shares do not give back the key that a site published", value=gone)
        theirs = loaded(key)
        for member in hidden:
            # What `member` added for the pair stands in the sum; `gone` would have taken it off.
            pair = agreed(theirs, published.keys[member], published.use)
            add_mask(total, pair, subtract=gone > member)
    return total


def share_secrets(private: bytes, seed: bytes, threshold: int, members: int) -> list[tuple[int, int]]:
    """Return for each member its shares of (the key, the seed) of one sum."""
    keys = shamir.split(int.from_bytes(private, "big"), threshold, members)
    seeds = shamir.split(int.from_bytes(seed, "big"), threshold, members)
    return list(zip(keys, seeds, strict=True))


def joined_counts(shares: Mapping[int, Iterable[int]], threshold: int, count: int) -> list[int]:
    """Return sums of packed counts from members' summed shares of them."""
    rows = {holder + 1: list(elements) for holder, elements in shares.items()}
    lengths = {len(row) for row in rows.values()}
    if len(lengths) != 1:
        raise PrivacyError("summed shares of different lengths")
    elements = [shamir.join({x: row[i] for x, row in rows.items()}, threshold) for i in range(lengths.pop())]
    return shamir.unpack(elements, count)


def _joined(shares: Mapping[int, int], threshold: int) -> bytes:
    secret = shamir.join({member + 1: share for member, share in shares.items()}, threshold)
    try:
        return secret.to_bytes(KEY_BYTES, "big")
    except OverflowError:
        raise PrivacyError("shares do not give back a secret of this protocol") from None
