"""How near restored pictures are to the originals: PSNR = 10 log10(255²/mean squared error), in decibels.

A picture's is the mean over its variants. An error below that of rounding to 8 bits, 1/12, counts as that: 58.9 dB.
Samples of the posterior are √2 as far from the original as its mean would be: 3 dB less is no fault.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["psnr"]


def psnr(
    results: NDArray[np.uint8], originals: NDArray[np.uint8], hidden: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Decibels of each picture, (P,), of results (P, n, H, W, C) against originals (P, H, W, C).

    hidden: (P, H, W), the pixels that count; None for all.
    """
    errors = (results.astype(np.float64) - originals[:, None]) ** 2
    counted = np.ones(originals.shape[:3], bool) if hidden is None else hidden
    weights = counted[:, None, :, :, None] / (counted.sum(axis=(1, 2))[:, None, None, None, None] * errors.shape[-1])
    mean = np.maximum((errors * weights).sum(axis=(2, 3, 4)), 1 / 12)
    found: NDArray[np.float64] = (10 * np.log10(255**2 / mean)).mean(axis=1)
    return found
