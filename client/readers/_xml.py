"""XML from outside: no entities, no external references, bounded before the parser sees it."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, ParseError, XMLParser

import numpy as np
from numpy.typing import NDArray

from client.readers._source import read_bytes
from ecgshared.errors import EcgReadError

MAX_XML_BYTES = 32 << 20
MAX_MARKUP = 400_000
"""Most tags, and most attributes, of one document: each costs a hundred bytes of memory and more."""

MAX_NUMBERS_CHARS = 8 << 20

_ROOT = re.compile(r"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)[\s/>]")
_ENCODING = re.compile(rb"\s*<\?xml[^>]{0,100}?\bencoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_KNOWN_ENCODINGS = re.compile(
    r"utf-?8(-sig)?|utf-?16(-?[lb]e)?|us-ascii|ascii|iso-?8859-?\d{1,2}|latin-?1|(windows-|cp)125\d|cp\d{3}"
    r"|shift[_-]jis|euc-jp|gb2312|gbk|gb18030|big5|euc-kr|koi8-r"
)
_REMEDY = "export it again; the file is damaged or was edited"


def root_name(head: bytes) -> str | None:
    """Return the root element's local name from a document's first bytes, None where there is none."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head[: len(head) // 2 * 2].decode("utf-16", errors="ignore")
    elif head.startswith(b"<\0"):
        text = head[: len(head) // 2 * 2].decode("utf-16-le", errors="ignore")
    else:
        text = head.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        end = None
        for opening, closing in (("<?", "?>"), ("<!--", "-->"), ("<!DOCTYPE", "]>"), ("<!DOCTYPE", ">")):
            if text.startswith(opening, at):
                if closing == "]>" and "[" not in text[at : max(at, text.find(">", at))]:
                    continue
                end = text.find(closing, at)
                if end < 0:
                    return None
                at = end + len(closing)
                break
        if end is None:
            match = _ROOT.match(text, at)
            return match[1] if match else None


def parse(path: Path) -> Element:
    """Return the root element; names of elements lose their namespace.

    Raises
    ------
    EcgReadError : not readable, not well-formed, larger than a recording can be, or with entities of its own.
    """
    text = _decoded(read_bytes(path, MAX_XML_BYTES), path)
    for mark, what in (("<", "tags"), ("=", "attributes")):
        if text.count(mark) > MAX_MARKUP:
            raise EcgReadError(
                f"holds more {what} than an ECG needs",
                where=path,
                allowed=f"at most {MAX_MARKUP}",
                remedy="export the resting ECG alone",
            )
    if "<!ENTITY" in text:
        # Without one there is nothing to expand and nothing to fetch: the parser loads no external subset.
        raise EcgReadError(
            "declares entities of its own or refers to other files",
            where=path,
            allowed="XML without entity declarations",
            remedy="do not open this file elsewhere; export the ECG again",
        )
    parser = XMLParser()
    try:
        parser.feed(text)
        root: Element = parser.close()
    except ParseError as error:
        line, column = error.position
        raise EcgReadError(
            f"is not well-formed XML at column {column}", where=f"{path}:{line}", remedy=_REMEDY
        ) from error
    except ValueError as error:
        raise EcgReadError("is not well-formed XML", where=path, remedy=_REMEDY) from error
    if "xmlns" in text:
        for element in root.iter():
            if isinstance(element.tag, str) and "}" in element.tag:
                element.tag = element.tag.rpartition("}")[2]
    return root


def _decoded(raw: bytes, path: Path) -> str:
    """Return the text of a document, by its byte order mark, its first bytes, or what it declares."""
    declared = _ENCODING.match(raw[:200])
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif raw.startswith((b"<\0", b"\0<")):
        encoding = "utf-16-le" if raw[0] else "utf-16-be"
    elif raw.startswith(b"\xef\xbb\xbf") or declared is None:
        encoding = "utf-8-sig"
    else:
        encoding = declared[1].decode("ascii").lower()
    try:
        if not _KNOWN_ENCODINGS.fullmatch(encoding):
            raise LookupError(encoding)
        return raw.decode(encoding)
    except (UnicodeError, LookupError) as error:
        raise EcgReadError(
            "is in an encoding that cannot be read",
            where=path,
            value=encoding[:20],
            allowed="UTF-8, UTF-16, ISO-8859, Windows-125x",
            remedy=_REMEDY,
        ) from error


def text_of(element: Element | None, path: str | None = None) -> str | None:
    """Return an element's, or a descendant's, text without blanks around it; None where there is none."""
    found = element if element is None or path is None else element.find(path)
    return None if found is None or found.text is None else found.text.strip() or None


def number(text: str | None, what: str, where: object, *, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number in [low, high] or raise :class:`EcgReadError` that names ``what``."""
    try:
        value = float(text) if text is not None and len(text) < 40 else math.nan
    except ValueError:
        value = math.nan
    if not (low <= value <= high and math.isfinite(value)):
        fail(
            f"the {what} is {'missing' if text is None else 'not valid'}",
            where,
            None if text is None else text[:40],
            "a number" if math.isinf(high) else f"{low:g} to {high:g}",
        )
    return value


def optional_number(text: str | None) -> float | None:
    """Return a finite number, None where the text is none."""
    try:
        value = float(text) if text is not None and len(text) < 40 else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def numbers(text: str | None, what: str, where: object) -> NDArray[np.float64]:
    """Return the numbers of a list separated by blanks or commas."""
    if text is None or not text.strip():
        fail(f"{what} holds no samples", where, None, "numbers separated by blanks or commas")
    if len(text) > MAX_NUMBERS_CHARS:
        fail(f"{what} is longer than an ECG can be", where, len(text), f"at most {MAX_NUMBERS_CHARS} characters")
    spaced = text.replace(",", " ")
    try:
        return _whole_numbers(spaced)
    except (ValueError, DeprecationWarning):
        pass
    try:
        return np.array(spaced.split(), dtype=np.float64)
    except ValueError as error:
        raise EcgReadError(
            f"{what} holds something that is no number",
            where=where,
            allowed="numbers separated by blanks or commas",
            remedy=_REMEDY,
        ) from error


def _whole_numbers(text: str) -> NDArray[np.float64]:
    """Return whole numbers, five times as fast as any; raise where there is anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # older numpy warns, and stops at what is no number
        return np.fromstring(text, dtype=np.int64, sep=" ").astype(np.float64)


def fail(what: str, where: object, value: object, allowed: str) -> NoReturn:
    """Raise :class:`EcgReadError` about a document's content."""
    raise EcgReadError(what, where=where, value=value, allowed=allowed, remedy=_REMEDY)
