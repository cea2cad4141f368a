"""What is made up for in vendors' kernels, and the comparison every implementation has to pass.

On a CPU the package is played by functions of its signatures, made of our references; on a GPU it is the real one.
"""

import sys
from types import ModuleType

import pytest
import torch

from models.kernels import choose, selective_scan, ssd
from models.kernels.samples import SAMPLES, differences
from models.state import mapped

CPU = torch.device("cpu")


def played_scan(u, delta, A, B, C, return_last_state=False):
    assert return_last_state
    u, delta, B, C = (x.transpose(1, 2) for x in (u, delta, B, C))
    y, last = selective_scan.selective_scan(u, delta, A, B, C)
    return y.transpose(1, 2), last


def played_update(state, u, delta, A, B, C, D, z, dt_bias):
    assert z is None
    y, after = selective_scan.selective_step(u, delta + dt_bias, A, B, C, state)
    state.copy_(after)
    return y + D * u


def played_ssd(x, delta, A, B, C, chunk_size, initial_states=None, return_final_states=False):
    assert return_final_states
    return ssd.ssd(x.float(), delta, A, B[:, :, 0].float(), C[:, :, 0].float(), initial_states, chunk_size)


@pytest.fixture
def vendor(monkeypatch):
    modules = {
        "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": played_scan},
        "mamba_ssm.ops.triton.selective_state_update": {"selective_state_update": played_update},
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


@pytest.mark.parametrize("operation", ["selective_scan", "selective_step", "ssd"])
def test_mamba_ssm_behind_our_operations_agrees(vendor, operation):
    name = "gated_scan" if operation == "selective_scan" else operation
    reference = choose.load(choose.REFERENCES[operation])
    found = dict(differences(getattr(vendor, name), reference, operation, CPU, torch.float32))
    assert max(found.values()) < 1e-3, found


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
            assert max(found.values()) < {torch.float32: 1e-3, torch.bfloat16: 3e-2}[dtype], (candidate.name, found)
