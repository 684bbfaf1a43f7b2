"""XML from outside: no entities, no external references, bounded before the parser sees it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeTree
from numpy.typing import NDArray

from client.readers._source import read_bytes
from ecgshared.errors import EcgReadError

MAX_XML_BYTES = 32 << 20
MAX_MARKUP = 400_000
"""Most tags, and most attributes, of one document: each costs a hundred bytes of memory and more."""

MAX_NUMBERS_CHARS = 8 << 20

_ROOT = re.compile(r"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)[\s/>]")
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
    raw = read_bytes(path, MAX_XML_BYTES)
    for mark, what in ((b"<", "tags"), (b"=", "attributes")):
        if raw.count(mark) > MAX_MARKUP:
            raise EcgReadError(
                f"holds more {what} than an ECG needs",
                where=path,
                allowed=f"at most {MAX_MARKUP}",
                remedy="export the resting ECG alone",
            )
    try:
        root: Element = SafeTree.fromstring(raw, forbid_entities=True, forbid_external=True)
    except DefusedXmlException as error:
        raise EcgReadError(
            f"declares entities of its own or refers to other files ({type(error).__name__})",
            where=path,
            allowed="XML without entity declarations",
            remedy="do not open this file elsewhere; export the ECG again",
        ) from error
    except ParseError as error:
        line, column = error.position
        raise EcgReadError(
            f"is not well-formed XML at column {column}", where=f"{path}:{line}", remedy=_REMEDY
        ) from error
    except (ValueError, LookupError) as error:
        raise EcgReadError(
            "is in an encoding that cannot be read", where=path, allowed="UTF-8, UTF-16, ISO-8859-1", remedy=_REMEDY
        ) from error
    for element in root.iter():
        if isinstance(element.tag, str) and "}" in element.tag:
            element.tag = element.tag.rpartition("}")[2]
    return root


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
    try:
        return np.array(text.replace(",", " ").split(), dtype=np.float64)
    except ValueError as error:
        raise EcgReadError(
            f"{what} holds something that is no number",
            where=where,
            allowed="numbers separated by blanks or commas",
            remedy=_REMEDY,
        ) from error


def fail(what: str, where: object, value: object, allowed: str) -> NoReturn:
    """Raise :class:`EcgReadError` about a document's content."""
    raise EcgReadError(what, where=where, value=value, allowed=allowed, remedy=_REMEDY)
