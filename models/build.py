"""From the names in a grid to a model."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from models import ARCHITECTURES
from models.base import SequenceModel

VOCABULARY = 64
"""For which `describe` counts parameters."""


def build(
    architecture: str,
    size: str,
    vocabulary: int,
    options: Mapping[str, Any] = {},
    seed: int | None = None,
    device: str | None = None,
) -> SequenceModel:
    """A freshly initialised model.

    architecture: a name in `models.ARCHITECTURES`, or an import path `package.module:Class` of a SequenceModel; size:
    one of its presets; options: fields of its options class that differ from the preset. A seed decides the
    initialisation and leaves the global generator as it was. device "meta" allocates nothing, for counting parameters.
    Raises ValueError for an unknown name or an impossible value.
    """
    kind = resolve(architecture)
    chosen = resolve_options(architecture, kind, size, options)
    with ExitStack() as stack:
        stack.enter_context(torch.device(device or "cpu"))
        if device == "meta":
            stack.enter_context(OnPaper())
        if seed is not None:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.default_generator.manual_seed(seed)
        try:
            return kind(vocabulary, chosen)
        except ValueError as error:
            raise ValueError(f"{architecture}: {error}") from None


class OnPaper(TorchFunctionMode):
    """Fills nothing in where there is nothing to fill: PyTorch would import SymPy or its compiler for that."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return arguments[0] if arguments else options["tensor"]
        if function in _MADE and "device" not in options:
            return function(*arguments, **options, device="cpu").to("meta")
        if function in _IN_PLACE and arguments[0].is_meta:
            return arguments[0]
        if function in _POINTWISE:
            tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
            if all(tensor.is_meta and tensor.dtype == torch.float32 for tensor in tensors):
                return torch.empty(np.broadcast_shapes(*(tensor.shape for tensor in tensors)))
        return function(*arguments, **options)


_MADE = {torch.arange, torch.rand}
_IN_PLACE = {torch.Tensor.clamp_, torch.Tensor.div_, torch.Tensor.uniform_}
_POINTWISE = {torch.exp, torch.expm1, torch.log, torch.neg}
_POINTWISE |= {getattr(torch.Tensor, name) for name in ("exp", "log", "neg", "add", "sub", "__rsub__", "mul", "div")}
_POINTWISE |= {getattr(torch.Tensor, name) for name in ("pow", "__pow__", "remainder", "abs")}


def full_options(architecture: str, size: str, options: Mapping[str, Any] = {}) -> tuple[dict[str, Any], int]:
    """The options a model would be built with, preset included, and the architecture's revision.

    Options at the default of their class are left out, so that one added later renames nothing. Raises as `build`.
    """
    kind = resolve(architecture)
    chosen = resolve_options(architecture, kind, size, options)
    fields = {field.name: field.default for field in dataclasses.fields(chosen)}
    values = {name: getattr(chosen, name) for name, default in fields.items() if getattr(chosen, name) != default}
    return values, kind.revision


def describe() -> list[tuple[str, str, dict[str, int]]]:
    """For each architecture: name, one line about it, and parameters of each preset for a vocabulary of 64."""
    lines = []
    for name in ARCHITECTURES:
        kind = resolve(name)
        counts = {size: build(name, size, VOCABULARY, device="meta").parameter_count() for size in kind.sizes}
        lines.append((name, (kind.__doc__ or "").strip().split("\n")[0], counts))
    return lines


def resolve(architecture: str) -> type[SequenceModel]:
    """The class behind a name or an import path."""
    path = ARCHITECTURES.get(architecture, architecture)
    if ":" not in path:
        raise ValueError(_unknown("architecture", architecture, ARCHITECTURES, "or an import path module:Class"))
    module, _, name = path.partition(":")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise ValueError(f"architecture {architecture!r}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, SequenceModel)):
        raise ValueError(f"architecture {architecture!r}: not a class derived from models.base.SequenceModel")
    return kind


def resolve_options(architecture: str, kind: type[SequenceModel], size: str, options: Mapping[str, Any]) -> Any:
    """The preset with `options` put over it."""
    if size not in kind.sizes:
        raise ValueError(_unknown(f"size of {architecture}", size, kind.sizes))
    preset = kind.sizes[size]
    allowed = [field.name for field in dataclasses.fields(preset)]
    for name in options:
        if name not in allowed:
            raise ValueError(_unknown(f"option of {architecture}", name, allowed))
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    try:
        return dataclasses.replace(preset, **given)
    except ValueError as error:
        raise ValueError(f"{architecture}: {error}") from None


def _unknown(what: str, name: str, allowed: Iterable[str], more: str = "") -> str:
    allowed = list(allowed)
    close = difflib.get_close_matches(name, allowed, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {name!r}; allowed: {', '.join(allowed)}{' ' + more if more else ''}{guess}"
