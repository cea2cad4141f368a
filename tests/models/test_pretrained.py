"""Checkpoints of transformers behind our contract: the conformance suite, and transformers' own logits as the truth."""

import pytest
import torch

from models.build import build
from models.conformance import CHECKS, random_tokens, trained
from models.pretrained import OURS

transformers = pytest.importorskip("transformers")

TOKENS = 29
"""Of a checkpoint's own vocabulary: a prime, and not a multiple of anything."""
TINY = {
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=32, hidden_size=32, state_size=4, num_hidden_layers=2, eos_token_id=1, pad_token_id=0
    ),
    "mamba2": lambda: transformers.Mamba2Config(
        vocab_size=32, hidden_size=32, state_size=8, num_hidden_layers=2, num_heads=4, head_dim=16, n_groups=1,
        chunk_size=8, eos_token_id=1, pad_token_id=0, bos_token_id=1,
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=512, eos_token_id=1, bos_token_id=1,
    ),
    "llama": lambda: transformers.LlamaConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=512, eos_token_id=1, bos_token_id=1, tie_word_embeddings=True,
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=32, n_embd=32, n_layer=2, n_head=4, n_positions=512, eos_token_id=1, bos_token_id=1
    ),
}  # fmt: skip


FAST = ("mamba", "gpt_neox")
"""Those that the contract is checked on in every run; on the others where there is time."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Randomly initialised checkpoints in the format of Hugging Face."""
    torch.set_num_threads(1)
    made = {}
    for name, config in TINY.items():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config())
        with torch.no_grad():
            for parameter in model.parameters():  # at initialisation much is too small to be told apart
                parameter.mul_(2.0 if parameter.ndim > 1 else 1.0)
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
    return made


def loaded(folder, **options):
    return build("models.pretrained:Pretrained", "tiny", TOKENS + OURS, {"checkpoint": str(folder), **options}, seed=0)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_the_logits_are_those_of_transformers(folders, name):
    model = loaded(folders[name]).eval()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders[name]).eval()
    tokens = torch.randint(0, TOKENS, (2, 70), generator=torch.Generator().manual_seed(1))
    logits, _ = model(tokens + OURS)
    expected = theirs(input_ids=tokens).logits[..., :TOKENS]
    torch.testing.assert_close(logits[..., OURS:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_observations_of_many_tokens_continue_a_state_to_1e4(folders, name):
    model = loaded(folders[name]).eval()
    tokens = random_tokens(model, 3, 120)
    whole, _ = model(tokens)
    parts, state, at = [], model.initial_state(3), 0
    for size in (17, 1, 40, 1, 1, 60):
        logits, state = model(tokens[:, at : at + size], state)
        parts.append(logits)
        at += size
    assert (torch.cat(parts, dim=1) - whole).abs().max() < 1e-4


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in TINY]
)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract_holds(tuned, name, check):
    check(tuned[name])


@pytest.fixture(scope="module")
def tuned(folders):
    """Trained a little, and only when asked for."""

    class Tuned(dict):
        def __missing__(self, name):
            self[name] = trained(loaded(folders[name]), steps=10)
            return self[name]

    return Tuned()


@pytest.mark.parametrize("name", ["mamba", "gpt_neox"])
def test_activations_computed_again_give_the_same_gradients(folders, name):
    tokens = torch.randint(0, TOKENS + OURS, (2, 20), generator=torch.Generator().manual_seed(1))
    gradients = []
    for again in (False, True):
        model = loaded(folders[name], checkpointing=again).train()
        features, _ = model.hidden(tokens)
        model.head(features).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 5
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_scaled_positions_stretch_the_rotation(folders):
    plain, scaled = (loaded(folders["gpt_neox"], rope_scaling=factor).eval() for factor in (1.0, 2.0))
    tokens = random_tokens(plain, 1, 40)
    first, second = plain(tokens)[0], scaled(tokens)[0]
    assert torch.allclose(first[:, 0], second[:, 0], atol=1e-5)
    assert not torch.allclose(first[:, 20:], second[:, 20:], atol=1e-3)


@pytest.mark.parametrize("name", ["/no/such/folder", "no-such-owner/no-such-model", ""])
def test_a_missing_checkpoint_gives_one_line(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="cannot be loaded") as error:
        loaded(name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_vocabulary_that_is_not_the_checkpoints_is_refused(folders):
    with pytest.raises(ValueError, match=r"the checkpoint knows 32: .*tool_options.tokens"):
        build("models.pretrained:Pretrained", "tiny", 100, {"checkpoint": str(folders["mamba"])})


def test_what_a_mamba_does_not_have_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="rotary positions"):
        loaded(folders["mamba"], rope_scaling=2.0)
    with pytest.raises(ValueError, match="rotary"):
        loaded(folders["gpt2"], rope_scaling=2.0)
    config = TINY["mamba2"]()
    config.n_groups = 2
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="n_groups = 2"):
        loaded(tmp_path)


def test_counting_parameters_needs_no_weights(folders):
    for folder in folders.values():
        counted = build(
            "models.pretrained:Pretrained", "tiny", TOKENS + OURS, {"checkpoint": str(folder)}, device="meta"
        )
        assert counted.parameter_count() == loaded(folder).parameter_count()
