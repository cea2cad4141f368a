"""Without a GPU our Triton kernels run in Triton's interpreter, which Triton must know when it is first imported.

So this is here and not beside the kernels' tests: any test before them may import Triton.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
