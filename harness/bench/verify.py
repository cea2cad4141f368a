"""`lengthwise bench verify`: verification against the forward alone, and against decoding token by token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.ahead import Helpers
from harness.bench.forward import forward_of
from harness.bench.timing import Timing, machine, peak_memory, peaks, synchronise, table, timed
from harness.bench.vendor import vendor_decoder, vendor_forward, vendor_model
from harness.decide import autocast
from harness.errors import UserError
from harness.memory import rows_that_fit
from harness.pieces import rounds
from harness.train import default_device
from harness.verify import Verified, longest, verify
from models.build import build
from tasks.base import Problem
from tasks.problems import problems as draw
from tasks.scenario import Scenario
from tasks.trajectory import Encoded

STEPS, STEP_SECONDS = 1000, 5.0
"""Steps of decoding that are timed, as many as are launched in so many seconds; the rest is extrapolated."""


class Planted(Scenario):
    """A scenario whose oracle makes one wrong token: the model's own one at `place` or next after it."""

    place: int | None = None

    def stream_encoded(self, problem: Problem, chunk: int) -> Iterator[Encoded]:
        seen = 0
        for piece in super().stream_encoded(problem, chunk):
            if self.place is not None and self.place < seen + len(piece) and len(piece):
                later = np.flatnonzero(piece.own & (np.arange(seen, seen + len(piece)) >= self.place))
                if len(later):
                    wrong = piece.ids.copy()
                    wrong[later[0]] = wrong[later[0]] % (len(self.vocabulary) - 1) + 1
                    self.place = None
                    piece = Encoded(
                        wrong, piece.roles, piece.own, piece.steps, piece.phases, piece.calls, piece.longest_walk
                    )
            seen += len(piece)
            yield piece


def loaded(architecture: str, size: str, scenario: Scenario, weights: str | None) -> Any:
    """A model on the default device, with the weights of a store's file, or fresh ones.

    Raises UserError when the file does not hold weights of this model for this scenario.
    """
    try:
        model = build(architecture, size, len(scenario.vocabulary), seed=0)
    except ValueError as error:
        raise UserError(str(error)) from error
    if weights is not None:
        try:
            held = torch.load(weights, weights_only=True, map_location="cpu")
            if tuple(held["vocabulary"]) != scenario.vocabulary.tokens:
                raise UserError(f"--weights {weights}: not of {scenario.task.name} with tool {scenario.tool_name}")
            model.load_state_dict(held["weights"])
        except (OSError, KeyError, RuntimeError, TypeError) as error:
            raise UserError(f"--weights {weights}: {error}") from error
    return model.to(default_device()).eval()


@dataclass
class Bench:
    architecture: str
    size: str
    precision: str
    chunk: int
    workers: int
    repeats: int
    weights: str | None

    def run(self, digits: int, count: int, lengths: Sequence[int], plant: float, baselines: bool) -> dict[str, Any]:
        self.device = default_device()
        self.scenario = Scenario("addition", "interactive")
        self.model = loaded(self.architecture, self.size, self.scenario, self.weights)
        results: dict[str, Any] = {
            "bench": "verify",
            "machine": machine(self.device),
            "architecture": self.architecture,
            "size": self.size,
            "precision": self.precision,
            "kernels": self.model.kernels(),
            "parameters": self.model.parameter_count(),
            "peaks": peaks(self.device),
        }
        with Helpers(self.workers) as helpers:
            self.helpers = helpers
            results["verification"] = done = self._verification(digits, count)
            print(done, flush=True)
            if baselines:
                results["forward"] = self._forwards(done["rows"], done["tokens"] // done["rows"])
                results["decoding"] = self._decoding(done["rows"])
                _compare(done, results["forward"], results["decoding"])
            results["long"] = [self._long(length) for length in lengths]
            if plant and lengths:
                results["planted"] = self._planted(max(lengths), plant)
        return results

    def _verify(self, drawn: Sequence[Problem], scenario: Scenario | None = None) -> list[Verified]:
        """As the evaluation does it: in batches whose states fit, the solvers in helper processes."""
        scenario = scenario or self.scenario
        size = min(len(drawn), rows_that_fit(self.model, longest(scenario, drawn) or 1))
        options: dict[str, Any] = {"chunk": self.chunk, "precision": self.precision, "helpers": self.helpers}
        batches = [drawn[at : at + size] for at in range(0, len(drawn), size)]
        return [one for batch in batches for one in verify(self.model, scenario, batch, **options)]

    def _verification(self, digits: int, count: int) -> dict[str, Any]:
        drawn = draw(self.scenario.task, "evaluation", digits, count)
        verified = self._verify(drawn[: max(1, count // 10)])
        timings: list[Timing] = []

        def run() -> None:
            verified[:] = self._verify(drawn)

        most, _ = peak_memory(lambda: timings.append(timed(run, self.device, self.repeats)), self.device)
        [timing] = timings
        tokens = sum(one.tokens for one in verified)
        began = time.perf_counter()
        for _ in rounds(self.scenario, drawn, self.chunk, helpers=self.helpers):
            pass
        return {
            "digits": digits,
            "rows": len(drawn),
            "tokens": tokens,
            "seconds": timing.seconds,
            "runs": timing.runs,
            "tokens_per_second": tokens / timing.seconds,
            "exact": sum(one.divergence is None for one in verified),
            "peak_bytes": most,
            "oracle_tokens_per_second": tokens / (time.perf_counter() - began),
        }

    def _forwards(self, rows: int, length: int) -> dict[str, float]:
        """Tokens per second of the forward alone, by whom and at which shape; of a model whose tokens cost more the
        later they come, over whole trajectories."""
        vendor = vendor_model(self.architecture, self.model.options, len(self.scenario.vocabulary), self.device)
        shapes = [(8, 32768), (rows, 1024)] if self.device.type == "cuda" else [(rows, 256)]
        if self.model.cost(length).flops > self.model.cost(length - 1).flops:
            shapes = [(min(rows, 8), length)]
        found = {}
        for shape in shapes:
            tokens = torch.randint(1, len(self.scenario.vocabulary), shape, device=self.device)
            runs: dict[str, Callable[[], Any]] = {"ours": forward_of(self.model, tokens, self.precision)}
            if vendor is not None:
                runs["mamba-ssm"] = vendor_forward(vendor, tokens)
            for who, run in runs.items():
                try:
                    with torch.inference_mode():
                        found[f"{who} {shape[0]}x{shape[1]}"] = tokens.numel() / timed(run, self.device).seconds
                except Exception as error:
                    print(f"{who} {shape}: {type(error).__name__}: {error}", flush=True)
        return found

    def _decoding(self, rows: int) -> dict[str, float]:
        """Seconds of one step of `rows` rows at once, token by token, from STEPS steps."""
        found = {"ours, eager": self._step_seconds(self._loop(rows))}
        vendor = vendor_model(self.architecture, self.model.options, len(self.scenario.vocabulary), self.device)
        for name, graph in (("eager", False), ("CUDA graph", True)) if vendor is not None else ():
            try:
                with torch.inference_mode():
                    step = vendor_decoder(vendor, rows, self.device, graph)
                found[f"mamba-ssm, {name}"] = self._step_seconds(step)
            except Exception as error:  # a baseline that fails must not lose our own results
                print(f"mamba-ssm, {name}: {type(error).__name__}: {error}", flush=True)
        return found

    def _loop(self, rows: int) -> Callable[[], None]:
        state, token = self.model.initial_state(rows), torch.zeros(rows, dtype=torch.int64, device=self.device)

        def step() -> None:
            nonlocal state, token
            with autocast(self.device, self.precision):
                logits, state = self.model.step(token, state)
                token = logits.argmax(-1)

        return step

    def _step_seconds(self, step: Callable[[], Any]) -> float:
        with torch.inference_mode():
            for _ in range(10):
                step()
            synchronise(self.device)
            began, steps = time.perf_counter(), 0
            while steps < STEPS and time.perf_counter() - began < STEP_SECONDS:
                step()
                steps += 1
            synchronise(self.device)
        return (time.perf_counter() - began) / steps

    def _long(self, length: int) -> dict[str, Any]:
        """One problem of a length, the only row."""
        began = time.perf_counter()
        [problem] = draw(self.scenario.task, "evaluation", length, 1)
        drawn = time.perf_counter() - began
        verified: list[Verified] = []
        began = time.perf_counter()
        most, above = peak_memory(lambda: verified.extend(self._verify([problem])), self.device)
        seconds = time.perf_counter() - began
        [one] = verified
        result = {
            "digits": length,
            "tokens": one.tokens,
            "seconds": seconds,
            "tokens_per_second": one.tokens / seconds,
            "exact": one.divergence is None,
            "divergence": one.divergence,
            "peak_bytes": most,
            "peak_bytes_above_weights": above,
            "state_bytes": self.model.cost(one.tokens).state_bytes,
            "drawing_seconds": drawn,
        }
        print(result, flush=True)
        return result

    def _planted(self, length: int, share: float) -> dict[str, Any]:
        """Whether a wrong token of the oracle is found, and what is said of it."""
        [problem] = draw(self.scenario.task, "evaluation", length, 1)
        scenario = Planted("addition", "interactive")
        tokens = longest(scenario, [problem])
        assert tokens is not None
        scenario.place = place = int(share * tokens)
        [one] = self._verify([problem], scenario)
        names = self.scenario.vocabulary.tokens
        result = {
            "digits": length,
            "tokens": one.tokens,
            "planted_at_or_after": place,
            "found_at": one.divergence,
            "model_chose": None if one.got is None else names[one.got],
            "wrong_tokens": one.own - one.right,
        }
        print(result, flush=True)
        return result


def _compare(done: dict[str, Any], forwards: dict[str, float], decoding: dict[str, float]) -> None:
    rate = done["tokens_per_second"]
    lines: list[tuple[Any, ...]] = [("verification", rate, None, None)]
    lines += [(f"forward alone, {who}", other, f"{rate / other:.0%}", None) for who, other in forwards.items()]
    length = done["tokens"] / done["rows"]
    for who, seconds in decoding.items():
        whole = seconds * length
        lines.append((f"decoding, {who}", done["tokens"] / whole, f"{whole / done['seconds']:.1f}x", 1000 * seconds))
    table(("", "tok/s", "verification is", "ms a step"), lines)
