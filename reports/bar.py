"""The bar at the top: contents, filters, the legend that is the filter of architectures, the theme."""

from __future__ import annotations

from reports.legend import legend
from reports.markup import Markup, element
from reports.view import View

_THEMES = {"": "As the system", "light": "Light", "dark": "Dark"}


def bar(view: View) -> Markup:
    """A menu per filter that has something to choose; architectures stand open, since they are the legend, too."""
    menus = [_filter(name, _values(view, name)) for name in ("task", "setting", "seed")]
    everything = element("button", "Show all", type="button", id="everything", hidden=True)
    return element(
        "div",
        _menu("Contents", element("nav", id="contents", aria_label="Contents")),
        menus,
        legend(view.looks, bool(view.unfit.height)) if view.looks else None,
        everything,
        _menu("Theme", _themes(), "theme"),
        element("p", id="shown", class_="unseen", role="status"),
        class_="bar",
        role="group",
        aria_label="Contents, filters and theme",
    )


def _values(view: View, name: str) -> list[str]:
    return [str(value) for value in view.cells[name].drop_nulls().unique().sort() if value != ""]


def _filter(name: str, values: list[str]) -> Markup | None:
    if len(values) < 2:
        return None
    boxes = [_box(name, value) for value in values]
    return _menu(f"{name.capitalize()}s", element("fieldset", element("legend", f"{name}s shown"), boxes), name)


def _box(name: str, value: str) -> Markup:
    return element("label", element("input", type="checkbox", checked=True, data_filter=name, value=value), value)


def _themes() -> Markup:
    choices = [
        element("label", element("input", type="radio", name="theme", value=value, checked=not value), text)
        for value, text in _THEMES.items()
    ]
    return element("fieldset", element("legend", "Theme"), choices)


def _menu(title: str, content: Markup, name: str | None = None) -> Markup:
    summary = element("summary", title, " ", element("span", class_="count"))
    return element("details", summary, element("div", content), class_="menu", data_menu=name)
