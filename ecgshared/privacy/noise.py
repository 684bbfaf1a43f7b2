"""Gaussian noise from a cryptographically secure source.

Each call makes a fresh 256-bit key from the operating system, expands it by AES-256 in counter mode (several times
as fast as the system's own generator, which matters for 17 million weights), and forgets it: no state outlives the
call, so there is nothing to replay. torch's and numpy's generators would not do: their state can be solved from
their output.

Against attacks on the floating-point form of one Gaussian (Mironov 2012; Jin et al., arXiv:2112.05307) each value is
the sum of independent ones over the root of their number, as Holohan and Braghin (arXiv:2107.10138) propose: two where
the result is rounded to float32, which hides all but one in 2^29 of the steps of float64, and four where it is not. It
is made and added in float64 and rounded only then. Uniforms have 63 bits, so a single Gaussian reaches 9.4 SD.
"""

from __future__ import annotations

import math
import os

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

CHUNK = 1 << 15
"""Pairs made at a time: what a processor's cache holds."""

DRAWS, ROUNDED_DRAWS = 4, 2


def secure_gaussian(size: int, *, std: float, device: torch.device | str = "cpu", draws: int = DRAWS) -> torch.Tensor:
    """Return ``size`` independent Gaussians of standard deviation ``std``, float64, on ``device``.

    Parameters
    ----------
    draws : Gaussians that each is the sum of.
    """
    out = torch.zeros(size, dtype=torch.float64, device=device)
    if std == 0 or size == 0:
        return out
    stream = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    for start in range(0, size, 2 * CHUNK):
        part = out[start : start + 2 * CHUNK]
        pairs = (len(part) + 1) // 2
        zeros = bytes(16 * pairs)
        for _ in range(draws):
            words = bytearray(stream.update(zeros))
            uniform = _open_uniform(torch.frombuffer(words, dtype=torch.int64).to(device))
            part += _box_muller(uniform[:pairs], uniform[pairs:])[: len(part)]
    return out.mul_(std / math.sqrt(draws))


def add_secure_gaussian(values: torch.Tensor, *, std: float, divide: float) -> torch.Tensor:
    """Add noise to ``values``, divide, and round to their precision, in their own memory, a piece at a time.

    Returns
    -------
    ``values`` themselves.
    """
    draws = DRAWS if values.dtype is torch.float64 else ROUNDED_DRAWS
    flat = values.view(-1)
    for start in range(0, len(flat), 2 * CHUNK):
        part = flat[start : start + 2 * CHUNK]
        noised = secure_gaussian(len(part), std=std, device=values.device, draws=draws).add_(part)
        part.copy_(noised.div_(divide))
    return values


def _open_uniform(words: torch.Tensor) -> torch.Tensor:
    """Map 64-bit words to (0, 1], float64: 63 bits, centred in their cells so that 0 cannot occur."""
    return (words & (2**63 - 1)).double().add_(0.5).mul_(2.0**-63)


def _box_muller(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return 2 n standard Gaussians from 2 n uniforms (Box and Muller 1958), in the memory of these."""
    radius, angle = u.log_().mul_(-2).sqrt_(), v.mul_(2 * math.pi)
    return torch.cat((angle.cos().mul_(radius), angle.sin().mul_(radius)))
