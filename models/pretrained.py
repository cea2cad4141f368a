"""Checkpoints in the format of Hugging Face, behind our contract: `architecture: models.pretrained:Pretrained`.

Mamba and Mamba-2 become blocks of our own with the checkpoint's weights, so that their states are continued over many
tokens at once, which transformers does not support: it takes a non-empty state one token at a time. Every other causal
language model keeps its own code, GPT-NeoX (Pythia) among them, and its keys and values become a state of ours.

The vocabulary of a cell is three tokens of ours ([PAD], [EOS], [ANS]) and then the checkpoint's own tokenizer, in its
order (`tool_options.tokens`). [EOS] and [ANS] start as the checkpoint's end of text.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.backbone import Backbone, Block, Residual, Span, matrices
from models.base import Cost, Options, SequenceModel
from models.mamba1 import Mamba1Mixer
from models.mamba2 import Mamba2Mixer

OURS = 3
"""Tokens of a vocabulary that come before the checkpoint's own."""


@dataclass(frozen=True)
class PretrainedOptions(Options):
    checkpoint: str
    """A folder, or a name on the Hugging Face hub."""
    rope_scaling: float = 1.0
    """Positions of rotary embeddings are divided by this: contexts so many times longer than in pretraining."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""


class Pretrained(SequenceModel):
    """A checkpoint of Mamba, Mamba-2, GPT-NeoX or any other causal language model of the package transformers."""

    sizes = {
        "tiny": PretrainedOptions("state-spaces/mamba-130m-hf"),
        "paper": PretrainedOptions("state-spaces/mamba-1.4b-hf"),
    }

    def __new__(cls, vocabulary: int, options: PretrainedOptions) -> SequenceModel:  # type: ignore[misc]
        """The model that the checkpoint is: an instance of another class, with the weights loaded."""
        held = _load(options)
        kind = {"mamba": _mamba1, "mamba2": _mamba2}.get(held.config.model_type, _causal)
        return kind(vocabulary, options, held)


def _load(options: PretrainedOptions) -> Any:
    """The checkpoint as transformers has it; without weights under the device `meta`.

    Raises:
        ValueError: it is not there, or not a causal language model, in one line.
    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise ValueError("checkpoints need the package transformers: pip install 'lengthwise[pretrained]'") from error
    name = options.checkpoint
    try:
        config = AutoConfig.from_pretrained(name)
        if options.rope_scaling != 1.0:
            _scale(config, options.rope_scaling)
        if torch.empty(0).device.type == "meta":
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return AutoModelForCausalLM.from_pretrained(name, config=config, dtype=torch.float32)
    except Exception as error:  # of the network, the hub, the file system, or a file that is not what it should be
        if isinstance(error, ValueError) and str(error).startswith("rope_scaling"):
            raise
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"checkpoint {name!r} cannot be loaded ({type(error).__name__}: {why})") from error


def _scale(config: Any, factor: float) -> None:
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or factor <= 0:
        raise ValueError(f"rope_scaling: {factor:g} needs a checkpoint with rotary positions, and a number above 0")
    config.rope_parameters = {**rope, "rope_type": "linear", "factor": factor}


def _grown(weight: Tensor, vocabulary: int, end: int | None) -> nn.Parameter:
    """Rows of a vocabulary of ours: OURS further ones, like that of the token `end`, before the checkpoint's."""
    known = vocabulary - OURS
    if not 0 < known <= len(weight):
        raise ValueError(
            f"the vocabulary has {known:,} tokens, the checkpoint knows {len(weight):,}: "
            "the tokenizer must be the checkpoint's own (tool_options.tokens)"
        )
    first = weight[end if isinstance(end, int) and end < len(weight) else 0]
    return nn.Parameter(torch.cat([first.expand(OURS, -1), weight[:known]]).clone())


@dataclass(frozen=True)
class _Shape:
    """What a backbone asks of its options."""

    d_model: int
    checkpointing: bool


class Mamba(Backbone):
    """A Mamba or Mamba-2 checkpoint in blocks of our own."""

    def _through(self, tokens: Tensor, before: list[Any], span: Span) -> tuple[Tensor, list[Any]]:
        if not (self.options.checkpointing and self.training and torch.is_grad_enabled()):
            return super()._through(tokens, before, span)
        after = []
        x = self.embedding(tokens)
        for block, memory in zip(self.blocks, before, strict=True):
            x, memory = checkpoint(block, x, memory, span, use_reentrant=False)
            after.append(memory)
        return self.norm(x), after


def _backbone(vocabulary: int, options: PretrainedOptions, held: Any, mixers: list[Block]) -> Mamba:
    """The parts that Mamba and Mamba-2 share, with the weights of the checkpoint."""
    config, source = held.config, held.state_dict()
    width, eps = config.hidden_size, config.layer_norm_epsilon
    blocks = [Residual(nn.RMSNorm(width, eps=eps), mixer) for mixer in mixers]
    norm = nn.RMSNorm(width, eps=eps)
    model = Mamba(vocabulary, _Shape(width, options.checkpointing), list(blocks), norm, 0.02, tied=True)
    model.embedding.weight = _grown(source["backbone.embeddings.weight"], vocabulary, config.eos_token_id)
    model.logits.weight = model.embedding.weight
    if not config.tie_word_embeddings:
        model.logits.weight = _grown(source["lm_head.weight"], vocabulary, config.eos_token_id)
    weights = {"norm.weight": source["backbone.norm_f.weight"]}
    for name, tensor in source.items():
        if name.startswith("backbone.layers."):
            number, _, part = name.removeprefix("backbone.layers.").partition(".")
            part = part.replace("mixer.conv1d.", "mixer.conv.").replace("mixer.norm.weight", "mixer.norm")
            weights[f"blocks.{number}.{part}"] = tensor.squeeze(1) if part == "mixer.conv.weight" else tensor
    missing, unknown = model.load_state_dict(weights, strict=False)
    left_out = [name for name in missing if name not in ("embedding.weight", "logits.weight")]
    if left_out or unknown:
        raise ValueError(f"checkpoint {options.checkpoint!r}: weights do not fit ({(*left_out, *unknown)[:3]})")
    return model


def _mamba1(vocabulary: int, options: PretrainedOptions, held: Any) -> SequenceModel:
    config = held.config
    _demand(options, config, hidden_act="silu", use_bias=False, use_conv_bias=True)
    expand, rest = divmod(config.intermediate_size, config.hidden_size)
    mixers: list[Block] = []
    for _ in range(config.num_hidden_layers):
        mixer = Mamba1Mixer(config.hidden_size, 1, config.state_size, expand, config.conv_kernel)
        if rest or mixer.rank != config.time_step_rank:
            raise ValueError(f"checkpoint {options.checkpoint!r}: such shapes of Mamba are not supported")
        mixers.append(mixer)
    return _backbone(vocabulary, options, held, mixers)


def _mamba2(vocabulary: int, options: PretrainedOptions, held: Any) -> SequenceModel:
    config = held.config
    _demand(options, config, hidden_act="silu", use_bias=False, use_conv_bias=True, n_groups=1)
    least, most = config.time_step_limit
    if least > 0 or most < 1e6 or config.layer_norm_epsilon != 1e-5:
        raise ValueError(f"checkpoint {options.checkpoint!r}: limits of the time steps or another epsilon of the norm")
    shape = (config.state_size, config.head_dim, int(config.expand), config.conv_kernel)
    mixers: list[Block] = [Mamba2Mixer(config.hidden_size, 1, *shape) for _ in range(config.num_hidden_layers)]
    return _backbone(vocabulary, options, held, mixers)


def _demand(options: PretrainedOptions, config: Any, **wanted: object) -> None:
    for name, value in wanted.items():
        if getattr(config, name) != value:
            found = getattr(config, name)
            raise ValueError(f"checkpoint {options.checkpoint!r}: {name} = {found!r}, supported is {value!r}")
    if options.rope_scaling != 1.0:
        raise ValueError("rope_scaling: a Mamba has no rotary positions")


@dataclass
class CacheState:
    """Keys and values of every layer."""

    position: Tensor
    """int64 [B]: tokens seen so far."""
    keys: list[Tensor]
    """float32 [B, T, heads, head size] of each layer; what lies at a row's position or beyond is not used."""
    values: list[Tensor]


def _causal(vocabulary: int, options: PretrainedOptions, held: Any) -> SequenceModel:
    return CausalModel(vocabulary, options, held)


class CausalModel(SequenceModel):
    """A causal language model of transformers with attention; its state grows with every token."""

    def __init__(self, vocabulary: int, options: PretrainedOptions, held: Any) -> None:
        super().__init__(vocabulary, options)
        config = held.config
        tied = held.get_output_embeddings().weight is held.get_input_embeddings().weight
        end = config.eos_token_id
        held.get_input_embeddings().weight = _grown(held.get_input_embeddings().weight.data, vocabulary, end)
        head = held.get_output_embeddings()
        head.weight = held.get_input_embeddings().weight if tied else _grown(head.weight.data, vocabulary, end)
        if getattr(head, "bias", None) is not None:
            head.bias = nn.Parameter(_grown(head.bias.data[:, None], vocabulary, end)[:, 0].detach().clone())
        if options.checkpointing:
            held.gradient_checkpointing_enable()
        self.body, self.logits = held.base_model, head
        self.layers = config.num_hidden_layers
        heads = config.num_attention_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.heads = getattr(config, "num_key_value_heads", None) or heads
        self.attended = heads * self.size
        known = inspect.signature(type(self.body).forward).parameters
        self.takes = "cache" if "cache" in known else "past_key_values"
        if self.device.type != "meta":
            self._check(held)

    @torch.no_grad()
    def _check(self, held: Any) -> None:
        """Raise ValueError unless features and head make the model's own logits, and all memory is keys and values."""
        trained = held.training
        held.eval()
        tokens = torch.arange(4)[None] % self.vocabulary
        whole = held(input_ids=tokens, use_cache=False).logits
        try:
            mine, state = self.eval()(tokens[:, :2])
            rest, _ = self(tokens[:, 2:], state)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"checkpoint {self.options.checkpoint!r}: its memory is not keys and values") from error
        held.train(trained)
        if not torch.allclose(torch.cat([mine, rest], 1), whole, rtol=1e-3, atol=1e-3):
            raise ValueError(f"checkpoint {self.options.checkpoint!r}: its logits are not made as we make them")

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> CacheState:
        device = self.device if device is None else torch.device(device)
        shape = (batch, 0, self.heads, self.size)
        caches = [[torch.zeros(shape, device=device) for _ in range(self.layers)] for _ in range(2)]
        return CacheState(torch.zeros(batch, dtype=torch.int64, device=device), *caches)

    def hidden(
        self, tokens: Tensor, state: CacheState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, CacheState]:
        from transformers import DynamicCache

        batch, width = tokens.shape
        before = self.initial_state(batch, tokens.device) if state is None else state
        room = before.keys[0].shape[1]
        counts = torch.full_like(before.position, width) if lengths is None else lengths.to(tokens.device)
        steps = torch.arange(width, device=tokens.device)
        if self.training and state is None:  # nothing is to be kept
            made = self.body(input_ids=tokens, use_cache=False)
            return made[0], before
        cache = DynamicCache()
        if room:
            for layer, (keys, values) in enumerate(zip(before.keys, before.values, strict=True)):
                cache.update(keys.transpose(1, 2), values.transpose(1, 2), layer)
        old = torch.arange(room, device=tokens.device) < before.position[:, None]
        mask = torch.cat([old, torch.ones(batch, width, dtype=torch.bool, device=tokens.device)], dim=1)
        made = self.body(
            input_ids=tokens,
            attention_mask=mask.long(),
            position_ids=before.position[:, None] + steps,
            use_cache=True,
            **{self.takes: cache},
        )
        after = before.position + counts
        # Rows differ in what they had seen: each row's new keys move up to where its old ones end.
        size = int(after.max()) if batch else 0
        slot = torch.arange(size, device=tokens.device)
        begin = before.position[:, None]
        index = torch.where(slot < begin, slot, (room + slot - begin).clamp(max=room + width - 1)).clamp(min=0)
        moved = [[self._moved(tensor, index) for tensor in (layer.keys, layer.values)] for layer in cache.layers]
        return made[0], CacheState(after, *(list(part) for part in zip(*moved, strict=True)))

    @staticmethod
    def _moved(tensor: Tensor, index: Tensor) -> Tensor:
        held = tensor.transpose(1, 2).float()
        return held.gather(1, index[:, :, None, None].expand(-1, -1, *held.shape[2:]))

    def head(self, features: Tensor) -> Tensor:
        return self.logits(features)

    def step(self, tokens: Tensor, state: CacheState) -> tuple[Tensor, CacheState]:
        features, state = self.hidden(tokens[:, None], state)
        return self.head(features[:, 0]), state

    def cost(self, length: int) -> Cost:
        weights = matrices(self.body) + self.logits.weight.numel()
        attention = 4 * self.layers * self.attended * length
        state = 8 + 8 * self.layers * self.heads * self.size * length
        return Cost(self.parameter_count(), 2.0 * weights + attention, state)


__all__ = ["CausalModel", "Pretrained", "PretrainedOptions"]
