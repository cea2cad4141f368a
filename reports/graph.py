"""Plotly's graph objects as plain values, named and called as in `plotly.graph_objects`.

Those check every value of every trace, which took two thirds of the time a large report needed; here the tests check
(`plotly.graph_objects.Figure(figure.specification())`).
"""

from __future__ import annotations

from typing import Any

Trace = dict[str, Any]


def Scatter(**values: Any) -> Trace:
    return {"type": "scatter", **values}


def Bar(**values: Any) -> Trace:
    return {"type": "bar", **values}


def Heatmap(**values: Any) -> Trace:
    return {"type": "heatmap", **values}


class Figure:
    """Traces, shapes and a layout, to be written as JSON for Plotly's script."""

    def __init__(self) -> None:
        self.data: list[Trace] = []
        self.layout: dict[str, Any] = {}

    def add_trace(self, trace: Trace) -> None:
        self.data.append(trace)

    def add_shape(self, **values: Any) -> None:
        self.layout.setdefault("shapes", []).append(values)

    def add_annotation(self, **values: Any) -> None:
        self.layout.setdefault("annotations", []).append(values)

    def update_layout(self, **values: Any) -> None:
        self.layout |= values

    def specification(self) -> dict[str, Any]:
        return {"data": self.data, "layout": self.layout}

    def to_json(self) -> str:
        """NaN and infinities become null, arrays lists."""
        from plotly.io.json import to_json_plotly

        return str(to_json_plotly(self.specification()))
