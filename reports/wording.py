"""Numbers as people read them. A missing value is an en dash."""

from __future__ import annotations

NONE = "–"


def percent(share: float | None, digits: int = 0) -> str:
    """0.953 -> 95%; never rounds up to 100% or down to 0%."""
    if share is None:
        return NONE
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) == 100:
        return ">99%" if digits == 0 else f">{100 - 10**-digits:.{digits}f}%"
    if share > 0 and float(text) == 0:
        return "<1%" if digits == 0 else f"<{10**-digits:.{digits}f}%"
    return f"{text}%"


def span(low: float | None, high: float | None) -> str:
    """An interval of shares: 0.29, 1.0 -> 29–100%."""
    if low is None or high is None:
        return NONE
    return f"{100 * low:.0f}–{100 * high:.0f}%"


def whole(number: float | None) -> str:
    """1234567 -> 1,234,567."""
    return NONE if number is None else f"{number:,.0f}"


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    unit = 0
    while abs(number) >= step * 0.9995 and unit < len(units) - 1:
        number, unit = number / step, unit + 1
    digits = 0 if abs(number) >= 99.95 or (unit == 0 and number == int(number)) else 1 if abs(number) >= 9.995 else 2
    return f"{number:.{digits}f}{units[unit]}"


def short(number: float | None) -> str:
    """1234567 -> 1.23M."""
    return NONE if number is None else _scaled(number, 1000, ("", "k", "M", "G", "T", "P", "E"))


def size(count: float | None) -> str:
    """Bytes, by powers of 1,000 as on the axes of the figures: 2048 -> 2.05 kB."""
    return NONE if count is None else _scaled(count, 1000, (" B", " kB", " MB", " GB", " TB"))


def duration(seconds: float | None) -> str:
    """Seconds: 0.0034 -> 3.4 ms, 75 -> 1 min 15 s."""
    if seconds is None:
        return NONE
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(round(seconds) // 60)
    if seconds < 3600:
        return f"{minutes} min {round(seconds) % 60} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def reach(low: int | None, high: int | None, longest: int | None) -> str:
    """Reach of a seed: the last solved length, ≥ when it is the longest tested."""
    if low is None:
        return NONE
    if high is None:
        return f"≥ {longest:,}" if longest else NONE
    return f"{low:,}" if low else f"< {high:,}"


def listed(names: list[str], limit: int = 6) -> str:
    """a, b and c."""
    if len(names) > limit:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def median_reach(reach: float, longest: int) -> str:
    """A median of reaches: ≥ when it is the longest tested length."""
    return f"≥ {longest:,}" if reach >= longest else f"{reach:,.0f}"
