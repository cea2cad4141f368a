"""How long the work of a grid would take, from speeds that were measured: in its own store, else on one H200."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.config import Cell
from harness.errors import UserError
from harness.schema import ROWS
from harness.store import Store

if TYPE_CHECKING:
    from harness.plan import Estimate

SAMPLE = 200
"""Cells of a store whose speeds are looked at, at most."""


@dataclass
class Speed:
    """Work that was done, and the seconds it took."""

    device: str
    cells: int = 0
    tokens: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0

    def add(self, tokens: float, flops: float, seconds: float) -> None:
        self.cells, self.tokens = self.cells + 1, self.tokens + tokens
        self.flops, self.seconds = self.flops + flops, self.seconds + seconds


SHIPPED = "mamba1 on one H200, docs/benchmarks.md"
PAPER = {
    "train": Speed(SHIPPED, 1, 205_351, 3 * 205_351 * 1.89e8, 1.0),
    "evaluate": Speed(SHIPPED, 1, 629_157, 629_157 * 1.89e8, 1.0),
}
"""Of a GPU and the paper's size (90.5M parameters, 0.189 GFLOP a token), for a first guess."""


@dataclass(frozen=True)
class Hours:
    """What work takes, and how that is known."""

    gpu: float
    """GPU-hours: a worker's hours times its share of a GPU."""
    worker: float
    """Hours of workers without a GPU."""
    sources: dict[str, int]
    """How a speed was known -> for how many cells."""
    unknown: int = 0
    """Cells of whose kind nothing was measured."""

    def __str__(self) -> str:
        if not self.sources and not self.unknown:
            return "no time: nothing is left to do"
        told = [f"{count} cells by {source}" for source, count in self.sources.items()]
        told += [f"{self.unknown} cells not counted: nothing like them was measured"] if self.unknown else []
        amounts = [f"{self.gpu:.3g} GPU-hours"] if self.gpu else []
        amounts += [f"{self.worker:.3g} hours of workers without a GPU"] if self.worker else []
        return f"{' and '.join(amounts) or 'unknown time'}, from measured speeds ({'; '.join(told)})"


class Throughput:
    """The speeds of a store: by kind of model (architecture, size, options), and by size alone."""

    def __init__(self, store: Store | None, prefer: Iterable[str] = ()) -> None:
        """`prefer`: ids of cells to look at first."""
        self.speeds: dict[tuple[Any, ...], Speed] = {}
        if store is None:
            return
        found = 0
        for name in dict.fromkeys([*prefer, *store.names("cells")]):
            found += self._look(name, store)
            if found >= SAMPLE:
                break

    def _look(self, cell: str, store: Store) -> bool:
        published = store.published(cell)
        if published is None or not published.get("train_seconds"):
            return False
        known = store.read_json(f"cells/{cell}/cell.json", frozenset({"config"}))
        if known is None:
            return False
        config, flops = Cell.model_validate(known["config"]), published["flops_per_token"]
        tokens, device = published["train_tokens"], published.get("train_device") or "unknown"
        self._add(config, "train", device, tokens, 3 * tokens * flops, published["train_seconds"])
        for extent in store.extents(cell)[:1]:
            table = store.arrow(f"cells/{cell}/rows/{extent.file}", ROWS, ["tokens", "seconds"])
            tokens, seconds = (sum(filter(None, table[name].to_pylist())) for name in ("tokens", "seconds"))
            if seconds:
                self._add(config, "evaluate", device, tokens, tokens * flops, seconds)
        return True

    def _add(self, config: Cell, what: str, device: str, *work: float) -> None:
        on = "cpu" if device.startswith("cpu") else "gpu"
        for key in ((on, what, *kind_of(config)), (on, what, config.size)):
            self.speeds.setdefault(key, Speed(device)).add(*work)

    def seconds(self, config: Cell, on: str, what: str, tokens: float, flops: float) -> tuple[float, str] | None:
        """Seconds that work takes on a GPU ("gpu") or without one ("cpu"), and how that is known, if it is."""
        if speed := self.speeds.get((on, what, *kind_of(config))):
            return tokens * speed.seconds / speed.tokens, f"{speed.cells} such in this store, on {speed.device}"
        speed = self.speeds.get((on, what, config.size)) or (
            PAPER[what] if on == "gpu" and config.size == "paper" else None
        )
        if speed is None:
            return None
        return flops * speed.seconds / speed.flops, f"the FLOP/s of size {config.size}, {speed.device}"

    def hours(self, estimates: Iterable[tuple[Estimate, float | None]]) -> Hours:
        """Of all the work, each with its worker's share of a GPU (None: one GPU)."""
        spent, unknown = {"gpu": 0.0, "cpu": 0.0}, 0
        sources: dict[str, int] = {}
        for item, gpus in estimates:
            config, on, share = item.cell.config, "cpu" if gpus == 0 else "gpu", gpus or 1.0
            work = [("train", item.train_tokens, item.train_flops)]
            work.append(("evaluate", item.evaluate_tokens, item.evaluate_flops))
            known = [self.seconds(config, on, what, tokens, flops) for what, tokens, flops in work if tokens]
            found = [one for one in known if one is not None]
            spent[on] += share * sum(seconds for seconds, _ in found) / 3600
            if found:
                sources[found[0][1]] = sources.get(found[0][1], 0) + 1
            unknown += len(found) < len(known)
        return Hours(spent["gpu"], spent["cpu"], sources, unknown)


def kind_of(config: Cell) -> tuple[str, str, str]:
    return config.architecture, config.size, json.dumps(config.model, sort_keys=True)


def refuse(hours: Hours, limit: float | None) -> None:
    """Raise UserError when the work would take more GPU-hours than allowed, or nobody knows."""
    if limit is not None and (hours.gpu > limit or hours.unknown):
        raise UserError(f"--max-gpu-hours {limit:g}: the grid takes {hours}")
