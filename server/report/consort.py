"""A CONSORT diagram as SVG: what was there, what each rule took away, what was analysed at each hospital."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape

from server.report.figures import INK, MUTED
from server.report.sections import Consort, ConsortBox

_WIDTH, _MAIN, _SIDE, _GAP = 860, 380, 400, 30
_LINE, _PAD, _AIR = 15.0, 9.0, 22.0
_LETTER = 5.9
"""Width of a letter at 11.5 px, generous."""
MOST_ENDS = 4


def consort_svg(figure: Consort, prefix: str = "f") -> str:
    """Draw a CONSORT diagram as one ``<svg>`` element that needs nothing outside it."""
    parts: list[str] = []
    y, centre, below = 6.0, _MAIN / 2, 0.0
    for i, box in enumerate(figure.boxes):
        side, lines = _side_lines(box), _main_lines(box)
        if i:
            room = max(_height(side) + 2 * 8 if side else 0, _AIR)
            parts.append(_arrow(prefix, centre, below, centre, y + room))
            if side:
                middle = y + room / 2
                parts.append(_arrow(prefix, centre, middle, _MAIN + _GAP, middle))
                parts.append(_box(_MAIN + _GAP, y + 8, _SIDE, side))
            y += room
        parts.append(_box(0.75, y, _MAIN, lines))
        y += _height(lines)
        below = y
    if figure.ends:
        y = _ends(figure.ends, below, parts, prefix)
    arrow = (
        f'<defs><marker id="{prefix}-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0,0.5 L7,4 L0,7.5 z" fill="{MUTED}"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 6:.0f}" font-size="11.5" fill="{INK}">'
        f"{arrow}{''.join(parts)}</svg>"
    )


def _ends(ends: Sequence[tuple[str, Sequence[str]]], below: float, parts: list[str], prefix: str) -> float:
    """Draw one box a site, in rows of four; return where they end."""
    columns = min(MOST_ENDS, len(ends))
    width = (_WIDTH - 1.5 - (columns - 1) * 14) / columns
    y = below + _AIR
    for first in range(0, len(ends), columns):
        row = ends[first : first + columns]
        texts = [
            # Bold letters are wider.
            [(line, bold) for bold in (True, False) for line in _wrapped([name] if bold else lines, width - 18 * bold)]
            for name, lines in row
        ]
        for c, text in enumerate(texts):
            x = 0.75 + c * (width + 14)
            if not first:
                parts.append(_elbow(prefix, _MAIN / 2, below, x + width / 2, y))
            parts.append(_box(x, y, width, text, least=max(map(_height, texts))))
        y += max(map(_height, texts)) + 14
    return y - 14


def _main_lines(box: ConsortBox) -> list[tuple[str, bool]]:
    return [
        *((line, True) for line in _wrapped([box.title], _MAIN)),
        (box.counts, False),
        *((line, False) for line in _wrapped(box.sites, _MAIN, joined=True)),
    ]


def _side_lines(box: ConsortBox) -> list[tuple[str, bool]]:
    if not box.reasons:
        return []
    return [
        (f"Excluded: {box.excluded}", True),
        *((line, False) for line in _wrapped([", or ".join(box.reasons)], _SIDE)),
        *((line, False) for line in _wrapped(box.excluded_sites, _SIDE, joined=True)),
    ]


def _wrapped(texts: Sequence[str], width: float, joined: bool = False) -> list[str]:
    letters = int((width - 2 * _PAD) / _LETTER)
    whole = ["; ".join(texts)] if joined and texts else list(texts)
    return [line for text in whole for line in textwrap.wrap(text, letters) or [""]]


def _height(lines: Sequence[object]) -> float:
    return len(lines) * _LINE + 2 * _PAD


def _box(x: float, y: float, width: float, lines: Sequence[tuple[str, bool]], least: float = 0.0) -> str:
    height = max(_height(lines), least)
    texts = "".join(
        f'<text x="{x + _PAD:.1f}" y="{y + _PAD + (i + 0.76) * _LINE:.1f}"'
        f"{' font-weight=' + chr(34) + '600' + chr(34) if bold else ''}>{escape(text)}</text>"
        for i, (text, bold) in enumerate(lines)
    )
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4" fill="#fff" '
        f'stroke="#7f8c99" stroke-width="1.1"/>{texts}'
    )


def _arrow(prefix: str, x0: float, y0: float, x1: float, y1: float) -> str:
    return (
        f'<path d="M{x0:.1f},{y0:.1f} L{x1:.1f},{y1:.1f}" fill="none" stroke="{MUTED}" stroke-width="1.2" '
        f'marker-end="url(#{prefix}-arrow)"/>'
    )


def _elbow(prefix: str, x0: float, y0: float, x1: float, y1: float) -> str:
    middle = (y0 + y1) / 2
    return (
        f'<path d="M{x0:.1f},{y0:.1f} V{middle:.1f} H{x1:.1f} V{y1:.1f}" fill="none" stroke="{MUTED}" '
        f'stroke-width="1.2" marker-end="url(#{prefix}-arrow)"/>'
    )
