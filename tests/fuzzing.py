"""Read damaged files in a process of its own, with little memory and a watchdog, and tell what came of it.

Run as ``python fuzzing.py SEEDS COUNT FIRST REPORT``: SEEDS holds intact files, one folder each; mutant number n of
a folder depends on n alone, so a failure can be made again. REPORT gets one JSON object at the end, and before each
file the number in hand, so that a crash of the interpreter names its file.

Each mutant has two seconds of processor time and a gibibyte above what the libraries take.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
import re
import resource
import signal
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

CPU_SECONDS, MEMORY_BYTES = 2.0, 1 << 30

EXTREMES = (0, 1, -1, 127, -128, 255, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1)
WORDS = (
    b"",
    b"0",
    b"-1",
    b"-500",
    b"nan",
    b"inf",
    b"1e999",
    b"1e-300",
    b"99999999999999999999",
    b"x",
    b"\xff\xfe",
    b"1 2",
)
ENTITIES = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


class TimeUp(BaseException):
    """The watchdog; no reader may catch it."""


def is_text(data: bytes) -> bool:
    return data.lstrip()[:1] == b"<" or data[:2] in (b"\xff\xfe", b"\xfe\xff")


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: int(len(data) * rng.random() ** rng.choice((0.2, 1, 3)))]


def bits_flipped(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    reach = len(out) if rng.random() < 0.4 else min(len(out), 2048)
    for _ in range(rng.choice((1, 2, 8, 40))):
        out[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(out)


def sizes_changed(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        width = rng.choice((1, 2, 4, 8))
        at = rng.randrange(max(1, min(len(out), rng.choice((64, 600, 4000, len(out)))) - width))
        out[at : at + width] = struct.pack("<q", rng.choice(EXTREMES) % 2**63)[:width]
    return bytes(out)


def block_replaced(data: bytes, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice((1, 16, 256, 4096))
    return data[:at] + rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length))) + data[at + length :]


def block_moved(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    block = data[start : start + rng.choice((2, 50, 5000))]
    at = rng.randrange(len(data))
    return rng.choice((data[:at] + block + data[at:], data[:start] + data[start + len(block) :]))


def number_replaced(data: bytes, rng: random.Random) -> bytes:
    """Put a hostile number where a text has one, before the samples if there is a choice."""
    spots = list(re.finditer(rb"(?<=[>\"= ])-?\d+(?:\.\d+)?(?=[<\" ])", data))
    heads = [spot for spot in spots if data[spot.end() : spot.end() + 1] != b" "] or spots
    if not heads:
        return sizes_changed(data, rng)
    spot = rng.choice(heads)
    return data[: spot.start()] + rng.choice(WORDS) + data[spot.end() :]


def text_replaced(data: bytes, rng: random.Random) -> bytes:
    spots = list(re.finditer(rb">[^<]+<|\"[^\"]*\"", data))
    if not spots:
        return block_replaced(data, rng)
    spot = rng.choice(spots)
    new = rng.choice((*WORDS, rng.randbytes(9), b"A" * rng.choice((10, 100_000)), b"&lt;" * 500))
    return data[: spot.start() + 1] + new + data[spot.end() - 1 :]


def base64_broken(data: bytes, rng: random.Random) -> bytes:
    spots = list(re.finditer(rb"[A-Za-z0-9+/=\s]{400,}", data))
    if not spots:
        return bits_flipped(data, rng)
    spot = rng.choice(spots)
    at = rng.randrange(spot.start(), spot.end())
    noise = rng.choice((b"=", b"*", b"\x00", b"====", base64.b64encode(rng.randbytes(30)), b""))
    return data[:at] + noise + data[at + rng.choice((0, 1, 37)) :]


def entities_added(data: bytes, rng: random.Random) -> bytes:
    at = data.find(b"?>") + 2
    inside = rng.choice((b"", b"&b;" * 10))
    opened = data.find(b">", at) + 1
    return data[: max(at, 0)] + ENTITIES + data[max(at, 0) : opened] + inside + data[opened:]


def element_repeated(data: bytes, rng: random.Random) -> bytes:
    spots = list(re.finditer(rb"<(\w+)[^<>]*>[^<]{0,200}</\1>", data))
    if not spots:
        return block_moved(data, rng)
    spot = rng.choice(spots)
    return data[: spot.start()] + spot[0] * rng.choice((0, 2, 2000)) + data[spot.end() :]


ANY: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    truncated,
    bits_flipped,
    sizes_changed,
    block_replaced,
    block_moved,
)
TEXT = (number_replaced, text_replaced, base64_broken, entities_added, element_repeated, number_replaced)


def repaired(data: bytes) -> bytes:
    """Put right the checksums of an SCP file, so that what they guard is reached."""
    out = bytearray(data)
    if len(out) < 142 or out[16:22] != b"SCPECG":
        return data
    for i in range(12):
        _, length, index = struct.unpack_from("<HII", out, 22 + 10 * i)
        if length >= 16 and index > 0 and index - 1 + length <= len(out):
            section = out[index + 1 : index - 1 + length]
            struct.pack_into("<H", out, index - 1, binascii.crc_hqx(bytes(section), 0xFFFF))
    struct.pack_into("<H", out, 0, binascii.crc_hqx(bytes(out[2:]), 0xFFFF))
    return bytes(out)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return a damaged copy."""
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff") and rng.random() < 0.7
    work = data.decode("utf-16", "replace").encode("utf-8", "replace") if wide else data
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if work:
            work = rng.choice(ANY + TEXT * 2 if is_text(work) else ANY)(work, rng)
    if wide:
        work = work.decode("utf-8", "replace").encode("utf-16")
    return repaired(work) if rng.random() < 0.5 else work


def outcome(address: Path, folder: Path, described: dict[str, Any] | None = None) -> tuple[str, str | None]:
    """Read one file; return what came of it and, where that is a fault of the reader, a description."""
    import numpy as np

    from client.readers import read
    from client.site.described import DescribedConfig
    from ecgshared.errors import EcgReadError

    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        record = read(address) if described is None else read(address, DescribedConfig(**described))
    except EcgReadError as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        text = str(error)
        if str(folder) not in text or not error.remedy:
            return "fault", f"names no file or no remedy: {text}"
        if "reader cannot decode" in text or "MemoryError" in text:
            return "fault", f"not explained: {text}"
        return "refused", None
    except TimeUp:
        return "fault", f"took more than {CPU_SECONDS:g} s"
    except BaseException as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return "fault", f"{type(error).__name__}: {error}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    p_signal = record.p_signal
    sound = (
        p_signal.shape[0] == 12
        and p_signal.dtype == np.float32
        and p_signal.shape[1] > 0
        and 20 <= record.fs <= 32_000
        and not np.isinf(p_signal).any()
        and (record.age_years is None or 0 <= record.age_years <= 130)
        and record.sex in (None, "F", "M")
    )
    return ("read", None) if sound else ("fault", "a record that cannot be one")


def limit_resources() -> None:
    """Load everything, then let the process grow by no more than the limit."""
    import edfio  # noqa: F401
    import h5py  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pydicom  # noqa: F401
    import scipy.io  # noqa: F401
    import soundfile  # noqa: F401
    import wfdb  # noqa: F401

    from client.readers import _described, readers  # noqa: F401

    readers()

    def ring(*_: object) -> None:
        raise TimeUp

    signal.signal(signal.SIGPROF, ring)
    with Path("/proc/self/statm").open() as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))


def run(seeds: Path, count: int, first: int, report: Path) -> None:
    """Read ``count`` mutants, taking the folders of ``seeds`` in turn; an address.txt says what to read in one.

    A described.json is what a site says of plain arrays.
    """
    limit_resources()
    folders = sorted(path for path in seeds.iterdir() if path.is_dir())
    aside = ("address.txt", "described.json")
    contents = {f: {p.name: p.read_bytes() for p in f.iterdir() if p.name not in aside} for f in folders}
    described = {f: json.loads((f / aside[1]).read_text()) for f in folders if (f / aside[1]).exists()}
    tally: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "case"
        for number in range(first, first + count):
            folder = folders[number % len(folders)]
            rng = random.Random(f"{folder.name} {number}")
            files = contents[folder]
            damaged = rng.choice(sorted(files))
            work.mkdir()
            for name, data in files.items():
                (work / name).write_bytes(mutate(data, rng) if name == damaged else data)
            report.write_text(json.dumps({"crashed_on": number, "seed": folder.name}))
            result, fault = outcome(work / (folder / "address.txt").read_text(), work, described.get(folder))
            tally[f"{result} {folder.name}"] += 1
            if fault is not None:
                faults.append({"number": number, "seed": folder.name, "fault": fault[:400]})
            for path in work.iterdir():
                path.unlink()
            work.rmdir()
    # Not ru_maxrss: over fork and exec it keeps the size of the process that started this one.
    high_water = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if high_water is None:
        raise OSError("the kernel tells no VmHWM")
    peak = int(high_water.group(1)) >> 10
    report.write_text(json.dumps({"tally": tally, "faults": faults, "peak_mib": peak}))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
