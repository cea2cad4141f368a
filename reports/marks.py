"""What the page's filters act on: who a trace, a panel or a line of a table is about.

A trace says it in its `meta`, an element in its `data-` attributes, both from the same line of a table; what leaves a
value out is not filtered by it (seeds pooled: no seed). Filters hide; they never compute a number anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FILTERS = ("task", "setting", "architecture", "seed")
AGAINST = "against"
"""A second architecture: what compares two is hidden with either."""


def about(line: Mapping[str, Any]) -> dict[str, str]:
    """The filtered values a line has, as texts: the `meta` of a trace."""
    return {name: str(line[name]) for name in (*FILTERS, AGAINST) if line.get(name) is not None}


def marks(line: Mapping[str, Any]) -> dict[str, object]:
    """The same as attributes for `markup.element`: data_task, data_setting, ..."""
    return {f"data_{name}": value for name, value in about(line).items()}
