"""NVIDIA's Multi-Process Service (MPS): processes that share a GPU run their kernels side by side, not in turns."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from harness.errors import UserError

CONTROL = "nvidia-cuda-mps-control"
PATIENCE = 10
"""Seconds the daemon waits at the end for clients that still hold on."""


@contextmanager
def service() -> Iterator[dict[str, str]]:
    """A daemon of our own, ended afterwards: the environment that leads to it. Raises UserError where none starts."""
    import torch

    gpus = torch.cuda.device_count()
    if not gpus or shutil.which(CONTROL) is None:
        raise UserError(f"MPS: this machine has {f'no {CONTROL}' if gpus else 'no GPU'}")
    with tempfile.TemporaryDirectory() as folder:
        environment = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for path in environment.values():
            os.mkdir(path)
        around = {**os.environ, **environment}
        begun = subprocess.run([CONTROL, "-d"], env=around, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if begun.returncode:
            raise UserError(f"MPS: {CONTROL} does not start: {(begun.stderr or begun.stdout).strip()}")
        try:
            # Of the GPUs that a daemon sees its clients count from 0.
            yield {**environment, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus)))}
        finally:
            with suppress(OSError, subprocess.TimeoutExpired):  # no reason to lose what was done meanwhile
                subprocess.run([CONTROL], input=f"quit -t {PATIENCE}\n", env=around, text=True, timeout=3 * PATIENCE)


@contextmanager
def exported(environment: Mapping[str, str]) -> Iterator[None]:
    """These variables in the environment of this process, and of those it starts meanwhile."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
