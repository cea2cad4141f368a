"""What is made up for in vendors' kernels, and the comparison every implementation has to pass.

On a CPU the package is played by functions of its signatures, made of our references; on a GPU it is the real one.
"""

import sys
from types import ModuleType

import pytest
import torch

from models.kernels import choose, gated_delta, selective_scan, ssd, wkv7
from models.kernels.samples import SAMPLES, differences
from models.state import mapped

CPU = torch.device("cpu")


def played_scan(u, delta, A, B, C, return_last_state=False):
    assert return_last_state
    u, delta, B, C = (x.transpose(1, 2) for x in (u, delta, B, C))
    y, last = selective_scan.selective_scan(u, delta, A, B, C)
    return y.transpose(1, 2), last


def played_ssd(x, delta, A, B, C, chunk_size, initial_states=None, return_final_states=False):
    assert return_final_states
    return ssd.ssd(x.float(), delta, A, B[:, :, 0].float(), C[:, :, 0].float(), initial_states, chunk_size)


@pytest.fixture
def vendor(monkeypatch):
    modules = {
        "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": played_scan},
        "mamba_ssm.ops.triton.ssd_combined": {"mamba_chunk_scan_combined": played_ssd},
    }
    for name, symbols in modules.items():
        parts = name.split(".")
        for at in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:at]), ModuleType(".".join(parts[:at])))
        vars(sys.modules[name]).update(symbols)
    monkeypatch.delitem(sys.modules, "models.kernels.vendor_mamba", raising=False)
    from models.kernels import vendor_mamba

    yield vendor_mamba
    sys.modules.pop("models.kernels.vendor_mamba", None)


@pytest.mark.parametrize("operation", ["selective_scan", "ssd"])
def test_mamba_ssm_behind_our_operations_agrees(vendor, operation):
    name = "gated_scan" if operation == "selective_scan" else operation
    reference = choose.load(choose.REFERENCES[operation])
    found = dict(differences(getattr(vendor, name), reference, operation, CPU, torch.float32))
    assert max(found.values()) < 1e-3, found


@pytest.fixture
def fla(monkeypatch):
    """fla-core, played by our references; like it, it knows states and scales by name only."""

    def delta(*, q, k, v, g, beta, scale, initial_state, output_final_state):
        assert scale == 1.0
        assert output_final_state
        return gated_delta.gated_delta(q.float(), k.float(), v.float(), g, beta, initial_state)

    def rwkv7(*, r, w, k, v, a, b, scale, initial_state, output_final_state, safe_gate, lower_bound, chunk_size):
        assert scale == 1.0
        assert output_final_state
        r, w, k, v, removed, b = (x.float() for x in (r, w, k, v, -a, b))
        rate = torch.where(removed == 0, 0, b / removed)
        return wkv7.wkv7(r, w, k, v, removed, rate, initial_state)

    modules = {"gated_delta_rule": {"chunk_gated_delta_rule": delta}, "rwkv7": {"chunk_rwkv7": rwkv7}}
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, symbols in modules.items():
        monkeypatch.setitem(sys.modules, f"fla.ops.{name}", ModuleType(name))
        vars(sys.modules[f"fla.ops.{name}"]).update(symbols)
    monkeypatch.delitem(sys.modules, "models.kernels.vendor_fla", raising=False)
    from models.kernels import vendor_fla

    yield vendor_fla
    sys.modules.pop("models.kernels.vendor_fla", None)


@pytest.mark.parametrize("operation", ["gated_delta", "wkv7"])
def test_fla_behind_our_operations_agrees_to_the_digits_of_bf16(fla, operation):
    reference = choose.load(choose.REFERENCES[operation])
    found = dict(differences(getattr(fla, operation), reference, operation, CPU, torch.float32))
    assert max(found.values()) < 3e-2, found
    assert min(found.values()) > 1e-4, found


@pytest.mark.parametrize("operation", SAMPLES)
def test_a_reference_agrees_with_itself_and_a_mistake_is_seen(operation):
    reference = choose.load(choose.REFERENCES[operation])
    found = dict(differences(reference, reference, operation, CPU, torch.float32))
    assert set(found.values()) == {0.0}

    def scaled(*arguments, **named):
        y, last = reference(*arguments, **named)
        return y * 1.01, mapped(lambda tensor: tensor * 1.01, last)

    assert min(dict(differences(scaled, reference, operation, CPU, torch.float32)).values()) > 5e-3


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operation", list(choose.CANDIDATES))
def test_every_implementation_that_works_here_agrees(operation, dtype):
    cuda = torch.device("cuda")
    reference = choose.load(choose.REFERENCES[operation])
    for candidate in choose.CANDIDATES[operation]:
        if operation in SAMPLES and candidate.device == "cuda" and choose.works(candidate) is None:
            found = dict(differences(choose.load(candidate.path), reference, operation, cuda, dtype))
            exact = 3e-3 if candidate.name == "mamba_ssm" else 1e-3  # its SSD multiplies float32 in TF32, of 10 bits
            assert max(found.values()) < {torch.float32: exact, torch.bfloat16: 3e-2}[dtype], (candidate.name, found)
