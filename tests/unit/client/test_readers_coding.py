"""The decoders of compressed samples against slower ones: sierraecg for XLI, bit by bit for SCP-ECG's Huffman codes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import vendor_exports as exports
from sierraecg.lzw import LzwDecoder

from client.readers import _huffman, _xli, read


def library(chunk: bytes) -> bytes:
    """Inflate a chunk byte by byte, as sierraecg does."""
    decoder, out = LzwDecoder(chunk, bits=10), bytearray()
    while (byte := decoder.read()) >= 0:
        out.append(byte)
    return bytes(out)


@pytest.mark.parametrize("kind", ["noise", "steps", "one byte", "runs"])
def test_lzw_equals_sierraecg(kind: str) -> None:
    rng = random.Random(kind)
    for size in (0, 1, 2, 5, 700, 3000, 11_000):
        data = {
            "noise": lambda n: rng.randbytes(n),
            "steps": lambda n: bytes(rng.choice((0, 0, 0, 1, 255)) for _ in range(n)),
            "one byte": lambda n: b"\x07" * n,
            "runs": lambda n: b"".join(bytes([rng.randrange(4)]) * rng.randrange(1, 90) for _ in range(n // 40)),
        }[kind](size)
        packed = exports._lzw(data) if data else b""
        assert _xli.inflate(packed, 1 << 20).tobytes() == library(packed)[: 1 << 20]
        assert library(packed)[: len(data)] == data
        limit = len(data) // 2
        assert _xli.inflate(packed, limit).tobytes() == library(packed)[:limit]


def test_damaged_lzw_is_refused_or_equal() -> None:
    """What the library reads of damaged codes, ours reads too; what neither can know is an error, not a guess."""
    rng, refused = random.Random(4), 0
    packed = exports._lzw(bytes(rng.choice((0, 1, 2, 250)) for _ in range(4000)))
    for _ in range(300):
        damaged = bytearray(packed)
        for _ in range(rng.choice((1, 3))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            mine = _xli.inflate(bytes(damaged), 1 << 20).tobytes()
        except ValueError:
            refused += 1
            continue
        assert mine == library(bytes(damaged))
    assert 0 < refused < 300


def test_real_philips_exports_equal_sierraecg(shared_data: Path) -> None:
    import sierraecg

    for path in sorted((shared_data / "vendor" / "philips_xml").glob("*orig.xml")):
        oracle = {lead.label: np.asarray(lead.samples) for lead in sierraecg.read_file(str(path)).leads}
        record = read(path)
        assert record.adc_units_per_mv is not None
        digital = np.rint(record.p_signal * record.adc_units_per_mv).astype(int)
        for name, row in zip(record.sig_name, digital, strict=True):
            np.testing.assert_array_equal(row, oracle[name][: len(row)])


def bit_by_bit(data: bytes, tables: list[_huffman.Table], limit: int) -> list[int]:
    """The definition: at each bit the first code of the table in force whose prefix stands there."""
    bits = "".join(f"{byte:08b}" for byte in data)
    out: list[int] = []
    at = current = 0
    while len(out) < limit:
        for code in tables[current]:
            if bits.startswith(f"{code.prefix:0{code.prefix_bits}b}", at) and at + code.total_bits <= len(bits):
                break
        else:
            return out
        extra = bits[at + code.prefix_bits : at + code.total_bits]
        number = int(extra, 2) - ((1 << len(extra)) if extra[0] == "1" else 0) if extra else 0
        if code.switch_to is None:
            out.append(code.base + number)
        else:
            current = code.switch_to
        at += code.total_bits
    return out


def prefix_free(rng: random.Random, longest: int) -> list[tuple[int, int]]:
    """Split the tree of all codes at random: (bits, prefix) of its leaves, some left out."""
    leaves = [(1, 0), (1, 1)]
    for _ in range(rng.randrange(1, 25)):
        bits, prefix = leaves.pop(rng.randrange(len(leaves)))
        both = [(bits + 1, prefix << 1), (bits + 1, prefix << 1 | 1)]
        leaves += both if bits < longest else [(bits, prefix)]
    return [leaf for leaf in leaves if rng.random() < 0.9] or leaves


@pytest.mark.parametrize("longest", [5, 12, 20])
def test_huffman_codes_equal_their_definition(longest: int) -> None:
    rng, decoded = random.Random(longest), 0
    for trial in range(150):
        count = rng.choice((1, 1, 1, 2, 3))
        tables = []
        for _ in range(count):
            codes = [
                _huffman.Code(
                    bits,
                    min(bits + rng.choice((0, 0, 0, 2, 8, 16)), _huffman.MAX_CODE_BITS),
                    prefix,
                    rng.randint(-300, 300),
                    rng.randrange(count) if count > 1 and rng.random() < 0.15 else None,
                )
                for bits, prefix in prefix_free(rng, longest)
            ]
            tables.append(tuple(codes))
        if trial % 10 == 0:
            tables = [_huffman.default_table()]
        decoder = _huffman.Decoder(tables)
        for size in (0, 1, 3, 200, 40, 700):
            data, limit = rng.randbytes(size), rng.choice((1, 7, 10_000))
            found = decoder(data, limit).tolist()
            assert found == bit_by_bit(data, tables, limit), (trial, size)
            decoded += len(found)
    assert decoded > 10_000
