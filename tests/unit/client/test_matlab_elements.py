"""MATLAB v5 files with elements of kinds and sizes that the format does not have: scipy alone would end the process."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from client.readers._matlab import arrays
from ecgshared.errors import EcgReadError


def _saved(path: Path) -> bytes:
    scipy.io.savemat(path, {"ECG": {"sex": "Male", "age": 50.0, "data": np.zeros((2, 9))}})
    return path.read_bytes()


def _heads(body: bytes, base: int) -> list[int]:
    """Places of the heads of all elements, those within matrices too."""
    found, at = [], 0
    while at + 8 <= len(body):
        found.append(base + at)
        kind, size = struct.unpack_from("<II", body, at)
        if kind >> 16:
            at += 8
            continue
        if kind == 14:
            found += _heads(body[at + 8 : at + 8 + size], base + at + 8)
        at += 8 + -(-size // 8) * 8
    return found


@pytest.mark.parametrize("kind", [0, 8, 10, 11, 19, 127, 65_535])
def test_an_element_of_no_kind_is_refused(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.mat"
    intact = _saved(path)
    assert {"ECG.sex", "ECG.age", "ECG.data"} <= set(arrays(path))
    heads = _heads(intact[128:], 128)
    assert len(heads) > 12
    for head in heads:
        damaged = bytearray(intact)
        struct.pack_into("<H", damaged, head, kind)
        path.write_bytes(damaged)
        with pytest.raises(EcgReadError, match="MATLAB v5"):
            arrays(path)


def test_a_size_beyond_its_matrix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    intact = _saved(path)
    for head in _heads(intact[128:], 128)[1:]:
        damaged = bytearray(intact)
        small = struct.unpack_from("<I", intact, head)[0] >> 16
        struct.pack_into("<H" if small else "<I", damaged, head + (2 if small else 4), 60_000)
        path.write_bytes(damaged)
        with pytest.raises(EcgReadError):
            arrays(path)


@pytest.mark.parametrize("size", [-1, 30_000, 2**31 - 1])
def test_more_members_than_bytes_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"val": np.zeros((3, 5))})
    damaged = bytearray(path.read_bytes())
    # Head of the matrix, its flags (16 bytes), head of its dimensions, the first of them.
    at = 128 + 8 + 16 + 8
    assert struct.unpack_from("<ii", damaged, at) == (3, 5)
    struct.pack_into("<i", damaged, at, size)
    path.write_bytes(damaged)
    with pytest.raises(EcgReadError, match="kind or size"):
        arrays(path)
