"""What can be said of a reconstruction without the truth."""

from __future__ import annotations

from spear_jax.attacks.dense.certificates import network
from spear_jax.attacks.dense.certificates.next_layer import either, samples_alone
from spear_jax.attacks.dense.outcome import Outcome, Samples
from spear_jax.attacks.dense.problem import Problem


def certified_alone(problem: Problem, outcome: Outcome) -> Samples:
    """Samples that the next layer's gradient or, in a full set, the network confirms one by one."""
    known = samples_alone(problem, outcome.directions)
    if not problem.is_mended or outcome.certificate is None:
        return known
    return either(known, network.samples(problem, outcome.directions, outcome.certificate))
