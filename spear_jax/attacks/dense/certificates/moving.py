"""Inputs that moved while the client trained: what stands before the layer was trained too, over several steps."""

from __future__ import annotations

import numpy as np

from spear_jax.attacks.dense.certificates.verdict import Verdict
from spear_jax.attacks.dense.problem import Problem


def still(problem: Problem, verdict: Verdict) -> Verdict:
    """The verdict, of which nothing is left where the inputs moved.

    The update then is a sum over steps of products with other inputs each. To first order it is one product with their
    mean: patterns agree and no noise shows, while each input is off by as much as it moved, which nothing bounds.

    Args:
        problem: of the layer.
        verdict: so far.
    """
    if not problem.input_drift:
        return verdict
    nobody = np.zeros_like(verdict.exact)
    return verdict._replace(exact=nobody, approximate=nobody, error=np.full(len(nobody), np.inf))
