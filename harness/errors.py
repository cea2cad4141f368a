"""What the user did wrong, said in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input. The message is one line: what, where, what is allowed. The command line prints it and exits with 2."""


class Stopped(Exception):
    """The work of a cell was asked to stop; what is done is in the store."""


class Diverged(Exception):
    """The loss is not finite. The same cell would get there again, so it is not retried."""


class Lost(Exception):
    """A process the work was spread over is gone; another attempt goes on from the last checkpoint."""


class OverLimit(Exception):
    """The cell takes more than the grid allows. Another attempt would, too."""


def unknown(kind: str, name: object, allowed: Iterable[str], where: str = "") -> UserError:
    """The error for a name that is not one of `allowed`, with the closest match."""
    names = sorted(allowed)
    close = get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {kind} {str(name)!r}{hint}; allowed: {', '.join(names) or 'none'}")


def one_line(error: BaseException) -> str:
    """Type and message of an error on one line of at most 400 characters, passwords of URLs blotted out."""
    text = " ".join(str(error).split())
    return redacted(f"{type(error).__name__}: {text}")[:400]


def redacted(text: str) -> str:
    """A text without the passwords of the URLs in it."""
    return re.sub(r"(\w://[^\s:/@]*):[^\s/@]+@", r"\1:***@", text)
