"""Labels that a batch may have: gradients by its logits that the loss can give, and no others.

Behind a batch the gradients say which mixtures of graphs are there, not which graphs: where one has all colours of
another, a batch of the rest and the other has the same gradient for some gradients by the logits. But these are
``sigmoid(z) - y`` and the like, of logits that follow from the graphs, so that whole labels tell the batches apart.
"""

from __future__ import annotations

import numpy as np
import scipy.special

# Entries that are a smaller part of the largest are those of labels that are missing.
MISSING = 1e-6


def by_labels(loss: str, logits: np.ndarray, fitted: np.ndarray) -> np.ndarray | None:
    """(B, tasks) the gradients by the logits nearest to those fitted that labels of 0 and 1, or none, give.

    Args:
        loss: of the network; labels of ``"mse"`` are any numbers, so that none can be told from others.
        logits: (B, tasks) of the graphs.
        fitted: (B, tasks) gradients by them that explain the last layer's best, up to one factor.

    Returns:
        None where the loss has no whole labels, or all that was fitted is zero.
    """
    if loss == "mse" or not np.any(fitted):
        return None
    found = [sign * _nearest(loss, logits, sign * fitted) for sign in (1, -1)]
    return min(found, key=lambda one: float(np.linalg.norm(one - fitted)))


def _nearest(loss: str, logits: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """The same for gradients by the logits that come with a positive factor."""
    shares = scipy.special.expit(logits) if loss == "bce" else scipy.special.softmax(logits, axis=1)
    if loss == "bce":
        labels = fitted < 0
    else:
        labels = np.arange(shares.shape[1]) == fitted.argmin(axis=1)[:, None]
    each = np.where(np.abs(fitted) > MISSING * np.abs(fitted).max(), shares - labels, 0.0)
    square = float(np.sum(each**2))
    return each * (float(np.sum(each * fitted)) / square) if square else each
