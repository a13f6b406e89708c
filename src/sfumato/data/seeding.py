"""Randomness of the data: every draw is a pure function of (seed, purpose, indices).

The key's SHA-256 seeds a fresh CPU generator, so that the order of epoch 7 or the flips of step 3000 can be had without
playing anything before them. Resuming a run therefore needs one integer.
"""

import hashlib

import torch

__all__ = ["generator"]


def generator(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A CPU generator determined by (seed, purpose, indices) and by nothing else."""
    key = "/".join(["sfumato.data", str(seed), purpose, *map(str, indices)])
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
