"""Approvals by named people: each signs with a key of their own, and so many of them are needed before one counts.

A user's name on a machine says who was logged in; a signature says who decided. The public keys stand in the site file,
each private key lies with its person, under a passphrase.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from client.site.settings import ApprovalsPolicy
from ecgshared.errors import ConfigError
from ecgshared.service.files import write_once

PASSPHRASE_VARIABLE = "ECGFED_PERSON_PASSPHRASE"
_SIGNED = ("at", "kind", "sha256", "by", "what", "federation")
_LEAST_PASSPHRASE = 8


@dataclass(frozen=True)
class Person:
    """Somebody who approves, and the key they sign with."""

    name: str
    key: Ed25519PrivateKey

    def sign(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Return a line of the approvals as this person's: named, and signed."""
        named = {**line, "by": self.name}
        return {**named, "signature": self.key.sign(_message(named)).hex()}


def make_key(file: Path, passphrase: str) -> str:
    """Make a person's key, encrypted and readable by its owner only; return the public one for the site file.

    Raises
    ------
    ConfigError : there is such a file, or the passphrase is too short.
    """
    if len(passphrase) < _LEAST_PASSPHRASE:
        raise ConfigError("this passphrase is too short", allowed=f"at least {_LEAST_PASSPHRASE} characters")
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode()))
    if not write_once(file, content):
        raise ConfigError("there is such a file", where=file, remedy="give another one")
    return public_of(key)


def open_key(policy: ApprovalsPolicy, name: str, file: Path, passphrase: Callable[[], str]) -> Person:
    """Return a person whom the site file names, with their key.

    Raises
    ------
    ConfigError : the site file does not name them, or the key is not theirs or cannot be opened.
    """
    if name not in policy.people:
        raise ConfigError(
            "the site file does not name this person under approvals.people",
            value=name,
            allowed=", ".join(policy.people) or "it names nobody",
        )
    try:
        given = os.environ.get(PASSPHRASE_VARIABLE) or passphrase()
        key = load_pem_private_key(file.read_bytes(), password=given.encode())
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the key cannot be opened ({type(error).__name__})", where=file, remedy="is the passphrase right?"
        ) from None
    if not isinstance(key, Ed25519PrivateKey) or public_of(key) != policy.people[name]:
        raise ConfigError(f"this is not the key of {name}", where=file)
    return Person(name, key)


def public_of(key: Ed25519PrivateKey) -> str:
    """Return the public key as a site file has it, hexadecimal."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def is_signed(policy: ApprovalsPolicy, line: Mapping[str, Any], federation: str) -> bool:
    """Whether a line of the approvals is signed by the person it names, for this federation."""
    public = policy.people.get(str(line.get("by")))
    if public is None or line.get("federation") != federation:
        return False
    try:
        signature = bytes.fromhex(str(line.get("signature", "")))
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, _message(line))
    except (InvalidSignature, ValueError):
        return False
    return True


def _message(line: Mapping[str, Any]) -> bytes:
    return b"ecgfed approval v1\0" + json.dumps({key: line.get(key) for key in _SIGNED}, sort_keys=True).encode()
