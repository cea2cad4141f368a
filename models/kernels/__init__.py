"""Operations worth a fast path: references in plain PyTorch, the truth for any other implementation."""
