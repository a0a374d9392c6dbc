"""What can be said of a reconstruction without the truth: `certify` is the one place that calls a sample exact.

Neighbours may use `certify`, `certified_alone` and `samples_by_themselves`; what search needs of the patterns,
`pattern.is_determined`, `select.select` and `network.mend`, and of the network, `own_gradient` and the misfit of
`by_itself`; the type `verdict.Verdict`; and the numbers of `limits`.
"""

from __future__ import annotations

import dataclasses

from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.alone import by_next_layer, by_samples_alone
from spear_jax.attacks.dense.certificates.alone import certified_alone as certified_alone
from spear_jax.attacks.dense.certificates.by_itself import labelled
from spear_jax.attacks.dense.certificates.by_itself import samples_by_themselves as samples_by_themselves
from spear_jax.attacks.dense.certificates.contradiction import explained
from spear_jax.attacks.dense.certificates.means import by_number
from spear_jax.attacks.dense.certificates.moving import still
from spear_jax.attacks.dense.certificates.network import by_network
from spear_jax.attacks.dense.certificates.pattern import by_pattern
from spear_jax.attacks.dense.certificates.verdict import Verdict, no_verdict
from spear_jax.attacks.dense.outcome import Outcome
from spear_jax.attacks.dense.problem import Problem
from spear_jax.stages import stage
from spear_jax.status import Scale


@stage("certify")
def certify(problem: Problem, outcome: Outcome, num_examples: int | None = None) -> Verdict:
    """Every certificate in turn; each takes the verdict so far and may add to it or strike from it.

    Args:
        problem: of the layer.
        outcome: of the search.
        num_examples: batch size as the client reports it, None where it does not.
    """
    if outcome.state.apart:
        problem = problem.without_bias_grad()
    # Then zeros say nothing, and neither does what takes the layers above for ReLU's, or the scale for that of g.
    if not (outcome.is_relu and problem.has_bias_grad):
        verdict = by_samples_alone(no_verdict(outcome.directions), outcome.alone)
        if limits.DEVIATES * outcome.scale_error <= limits.MAX_ERROR:
            verdict = verdict._replace(scale=Scale.NEXT_LAYER)
        return by_number(dataclasses.replace(problem, above=None), verdict, num_examples)
    verdict = by_pattern(outcome.directions, outcome.agreement)  # all samples, or none
    verdict = by_network(problem, verdict, num_examples)  # one by one, with labels; mends directions and scales
    verdict = by_next_layer(problem, verdict)  # the scale, where no network saw it
    verdict = by_samples_alone(verdict, outcome.alone)  # one by one, also while directions are missing
    verdict = labelled(problem, verdict, num_examples)  # labels and numbers of these
    verdict = by_number(problem, verdict, num_examples)  # strikes what may be a mean of several
    verdict = still(problem, verdict)  # strikes all where the inputs moved over the client's steps
    return explained(problem, verdict)  # why found directions contradict the model, where they do
