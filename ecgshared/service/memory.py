"""Memory that is taken and given back many times a second, kept by the process instead."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of ``mallopt`` in glibc's malloc.h."""

KEPT_BYTES, LARGEST_BYTES = 64 * 2**20, 16 * 2**20


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep up to 64 MiB of freed memory at hand while this lasts, and give it back afterwards.

    glibc returns a freed array of some hundred kilobytes to the kernel, and takes it again page by page for the next
    one: of ECGs read one after another a tenth of the time went into that. Elsewhere nothing happens.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.mallopt(_MMAP_THRESHOLD, LARGEST_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
    try:
        yield
    finally:
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
