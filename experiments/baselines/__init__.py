"""Other passive attacks, to compare with on the same updates: baselines, not a part of the library.

Each module holds one, written from its published description alone, with one public function of that name: it takes
what the server holds, an `spear_jax.Update` of one step's gradient, and gives a `Reconstruction`. None sees the truth;
what a paper grants its attacker beyond the update (the batch size, the labels) is said in its docstring. Those of text
and graphs take the observation and give what they find; `neighbourhoods` and `gluing` are steps of the one of graphs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

import spear_jax as sj


class Reconstruction(NamedTuple):
    """What a baseline makes of an update.

    Attributes:
        inputs: (k, n) float64 reconstructed inputs in any order, normalised as the model was fed; k may differ from b.
        certified: (k,) which of them the method itself vouches for; None where it has no certificate.
    """

    inputs: Float[np.ndarray, "k n"]
    certified: Bool[np.ndarray, " k"] | None = None


def batch_size(update: sj.Update) -> int:
    """b as the client reports it (FedAvg's servers know it, to weight the clients).

    Raises:
        ValueError: the update does not say.
    """
    if "num_examples" not in update.metadata:
        raise ValueError("the update does not say its num_examples, and this baseline needs to know the batch size.")
    return int(update.metadata["num_examples"])
