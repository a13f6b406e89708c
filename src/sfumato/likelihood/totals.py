"""Sums over the values of an example: bounds and likelihoods are sums, and sums are taken in float64."""

import torch
from torch import Tensor

__all__ = ["total", "wide"]


def wide(x: Tensor) -> Tensor:
    """x in float64, on the CPU where the device has none (Apple's MPS)."""
    return x.cpu().to(torch.float64) if x.device.type == "mps" else x.to(torch.float64)


def total(x: Tensor) -> Tensor:
    """Sum over all but the first axis of x (B, *): (B,) float64 on the CPU."""
    return wide(x).flatten(1).sum(1).cpu()
