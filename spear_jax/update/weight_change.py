"""From weights to gradients: the sum of the gradients of a client's SGD steps, read off the weights before and after.

A step with weight decay is ``w <- (1 - lr lambda) w - lr g``. So the weights that were sent, as decay alone would have
left them, less those that came back, are lr times the sum of the gradients g.
"""

from __future__ import annotations

import math

import numpy as np

# Weights below this are as good as zero.
TINY = 1e-30


def gradient_sum(
    sent: np.ndarray, came_back: np.ndarray, *, is_change: bool, lr: float, decayed: float = 0.0
) -> np.ndarray:
    """Sum of the gradients of one tensor over the client's steps.

    Args:
        sent: weights that the server sent.
        came_back: the client's weights, or their change, of the same shape.
        is_change: whether ``came_back`` is the change.
        lr: learning rate; 1 gives a multiple of the sum where it is not known.
        decayed: share of ``sent`` that weight decay took, as `decayed_share` has it.

    Returns:
        of the shape of ``sent``, float32 or wider; infinite where ``lr`` vanishes.
    """
    sent, came_back = widen(sent), widen(came_back)
    # Infinities and NaN are reported by the observation in a sentence, not by NumPy in a warning.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        descent = -came_back if is_change else sent - came_back
        if decayed:
            descent = descent - sent.dtype.type(decayed) * sent
        return descent / lr


def decayed_share(lr: float, weight_decay: float, local_steps: int) -> float:
    """Share of themselves that weights lose to weight decay: they shrink by ``1 - lr weight_decay`` in each step."""
    shrinkage = lr * weight_decay
    return -math.expm1(local_steps * math.log1p(-shrinkage)) if shrinkage < 1 else 1.0


def rounding_error(weight: np.ndarray, lr: float) -> float:
    """Root mean square error of an entry of `gradient_sum`, from rounding weights by up to half a unit."""
    unit = np.finfo(weight.dtype).eps * np.exp2(np.floor(np.log2(np.maximum(np.abs(weight), TINY), dtype=np.float64)))
    return float(np.sqrt(np.mean(unit**2) / 12)) / lr


def widen(tensor: np.ndarray) -> np.ndarray:
    """Half precision as float32; anything else as it is."""
    return tensor.astype(np.float32) if tensor.dtype.itemsize < 4 else tensor
