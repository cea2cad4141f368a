"""mamba-ssm's own models, as baselines: its fused forward, and its decoding in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

LAYERS = {"mamba1": "Mamba1", "mamba2": "Mamba2"}


def vendor_model(architecture: str, options: Any, vocabulary: int, device: torch.device) -> Any | None:
    """mamba-ssm's model of the same shape, its weights in bf16, where that is fastest; None without the package."""
    if architecture not in LAYERS or device.type != "cuda":
        return None
    try:
        from mamba_ssm.models.config_mamba import MambaConfig  # type: ignore[import-not-found]
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel  # type: ignore[import-not-found]
    except ImportError:
        return None
    layer = {"layer": LAYERS[architecture], "d_state": options.d_state, "expand": options.expand}
    if architecture == "mamba2":
        layer["headdim"] = options.head_size
        layer["use_mem_eff_path"] = find_spec("causal_conv1d") is not None  # that path calls it unasked
    config = MambaConfig(
        d_model=options.d_model, n_layer=options.layers, vocab_size=vocabulary, ssm_cfg=layer, rms_norm=True
    )
    return MambaLMHeadModel(config, device=device, dtype=torch.bfloat16).eval()


def vendor_forward(model: Any, tokens: Tensor) -> Callable[[], Tensor]:
    """Its forward, final norm included, without the head."""
    return lambda: model.backbone(tokens)


def vendor_decoder(model: Any, rows: int, device: torch.device, graph: bool = True) -> Callable[[], Any]:
    """One step of its decoding of `rows` rows at once, its own state update kernels; in a CUDA graph or eagerly.

    As its `generate` does it: caches allocated once and kept in place, the step captured after warm-up on a side
    stream. The token fed is always the same: the time of a step does not depend on it.
    """
    from mamba_ssm.utils.generation import InferenceParams  # type: ignore[import-not-found]

    cache = model.allocate_inference_cache(rows, 1, torch.bfloat16)
    params = InferenceParams(max_seqlen=1 << 20, max_batch_size=rows, seqlen_offset=1, key_value_memory_dict=cache)
    token = torch.zeros(rows, 1, dtype=torch.int64, device=device)
    place = torch.ones(rows, 1, dtype=torch.int64, device=device)

    def step() -> Tensor:
        return model(token, position_ids=place, inference_params=params, num_last_tokens=1).logits.argmax(-1)

    return captured(step, device) if graph else step


def captured(step: Callable[[], Any], device: torch.device) -> Callable[[], None]:
    """A step as a CUDA graph, warmed up on a side stream first."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
