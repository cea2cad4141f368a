"""One line of an examination: of this machine, of a cluster, of what strangers can reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    subject: str
    says: str
    wrong: bool = False
