"""What tests of several folders need.

Without a GPU our Triton kernels run in Triton's interpreter, which Triton must know when it is first imported. So that
is here and not beside the kernels' tests: any test before them may import Triton.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def trusted():
    """Makes a bubblewrap sandbox with some limits that has passed its self-test; skips the test where none does."""
    from tools import sandbox

    def make(limits):
        made = sandbox.Bubblewrap(limits)
        try:
            sandbox.trusted(made)
        except sandbox.SandboxUnavailable as error:
            pytest.skip(str(error))
        return made

    return make
