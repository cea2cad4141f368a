"""One colour, dash and marker per architecture, the same in every report."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

INK = "#1a1a1a"
"""Okabe and Ito's black; the page's style sheet turns it light in dark mode."""
UNFIT = "#8f959e"


@dataclass(frozen=True)
class Style:
    colour: str
    dash: str
    marker: str
    """A Plotly marker symbol."""


# Okabe and Ito (2008), distinguishable under the common colour-vision deficiencies; the dash and the marker repeat
# what the colour says, for print in grey. The yellow is darkened to be seen on white.
_BLUE, _SKY, _GREEN, _ORANGE = "#0072b2", "#56b4e9", "#009e73", "#e69f00"
_VERMILLION, _PURPLE, _YELLOW = "#d55e00", "#cc79a7", "#b8a800"

KNOWN = {
    "mamba1": Style(_BLUE, "solid", "circle"),
    "mamba2": Style(_SKY, "dash", "square"),
    "transformer": Style(_VERMILLION, "solid", "diamond"),
    "sliding": Style(_ORANGE, "dash", "triangle-up"),
    "lstm": Style(_GREEN, "solid", "triangle-down"),
    "gru": Style(_PURPLE, "dash", "pentagon"),
    "gated_deltanet": Style(_YELLOW, "solid", "hexagon"),
    "rwkv7": Style(_YELLOW, "dash", "cross"),
    "hybrid": Style(INK, "solid", "star"),
}

_LEFT_OVER = [
    Style(colour, dash, marker)
    for dash, marker in (("dashdot", "hexagon"), ("longdash", "cross"), ("longdashdot", "x"), ("5px,2px", "hourglass"))
    for colour in (_YELLOW, _BLUE, _VERMILLION, _GREEN, _PURPLE, _SKY, _ORANGE, INK)
]


def styles(architectures: Iterable[str]) -> dict[str, Style]:
    """The style of each architecture. Unknown ones get a left-over style picked by their name
    (the next free one when two names meet)."""
    names = sorted(set(architectures))
    chosen = {name: KNOWN[name] for name in names if name in KNOWN}
    taken: set[int] = set()
    for name in names:
        if name not in chosen:
            place = zlib.crc32(name.encode()) % len(_LEFT_OVER)
            while place in taken and len(taken) < len(_LEFT_OVER):
                place = (place + 1) % len(_LEFT_OVER)
            taken.add(place)
            chosen[name] = _LEFT_OVER[place]
    return chosen


def order(architecture: str) -> tuple[int, str]:
    """Sort key: the known architectures in their fixed order, then the others by name."""
    known = list(KNOWN)
    return (known.index(architecture) if architecture in KNOWN else len(known), architecture)
