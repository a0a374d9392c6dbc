"""Which proposer a layer starts with, and why: zeros where these are quick, roots wherever the next layer came back."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from spear_jax import linalg, numerics
from spear_jax.activations import ACTIVATIONS, named
from spear_jax.attacks.dense.by_zeros import BY_ZEROS, ZerosPlan, plan_by_zeros, search_by_zeros
from spear_jax.attacks.dense.certificates.pattern import agree
from spear_jax.attacks.dense.dictionary.search import MANY_ROWS, find_together
from spear_jax.attacks.dense.one_by_one import with_known
from spear_jax.attacks.dense.outcome import Outcome, Run, SearchState, settled
from spear_jax.attacks.dense.peeling import peel_samples
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.regime import is_skewed
from spear_jax.attacks.dense.roots.stack import Stack, pose_stack
from spear_jax.attacks.dense.sampling.plan import WALK_NOISE, SamplingPlan
from spear_jax.attacks.dense.span.identify import also_fit, identify
from spear_jax.attacks.dense.span.search import find_roots
from spear_jax.config import ReconstructConfig
from spear_jax.errors import SpearError
from spear_jax.stages import stage

NO_EQUATIONS = (
    "The span method ({between}) needs the gradients of the next dense layer too, of a rank below its width: "
    "pass layers_above=, or a file that holds the whole update. Only ReLU with a bias gradient can do without."
)
# In place of an activation's name, where a user's own map stands between the layers.
BETWEEN = "between"


class Plan(NamedTuple):
    """What a reconstruction will do, decided once, before it starts.

    Attributes:
        method: the proposer to start with, ``"sampling"``, ``"dictionary"`` or ``"span"``.
        reason: why that one, in a sentence.
        zeros: how directions are looked for by zeros.
        stacks: the span equations with each activation that may be between the layer and the next one; empty where
            the next layer did not come back or is not asked.
    """

    method: str
    reason: str
    zeros: ZerosPlan
    stacks: tuple[Stack, ...] = ()

    @property
    def sampling(self) -> SamplingPlan:
        """Rows, sampler, round size and expected cost of sampling, whether it is what starts or not."""
        return self.zeros.sampling

    def stack_of(self, outcome: Outcome) -> Stack | None:
        """The equations that the roots of an outcome solve; None where nothing was sought by all of them."""
        name = None if outcome.state.apart else outcome.state.activation
        return next((stack for stack in self.stacks if name is not None and stack.activation == named(name)), None)


@stage("plan")
def make_plan(problem: Problem, config: ReconstructConfig) -> Plan:
    """The proposer to start with and why.

    Args:
        problem: of the layer, with the next layers where they came back.
        config: of the reconstruction.

    Raises:
        SpearError: only the span method would do, and the update holds no equations for it.
    """
    zeros = plan_by_zeros(problem, config)
    only_by_equations = _why_equations(problem, config)
    if config.method in BY_ZEROS and only_by_equations is None:
        return Plan(zeros.method, zeros.reason, zeros)
    if config.method != "span" and only_by_equations is None and problem.drift and config.activation is None:
        return Plan(zeros.method, zeros.reason, zeros)  # each activation would need many rounds to show
    behind = only_by_equations or _told_activation(config)
    stacks = _stacks(problem, config)
    if not stacks and (config.method == "span" or only_by_equations is not None):
        raise SpearError(NO_EQUATIONS.format(between=f"for {behind}"))
    if config.method != "span" and only_by_equations is None and (not stacks or _suits_zeros(problem, zeros)):
        return Plan(zeros.method, zeros.reason, zeros, stacks)
    return Plan("span", f"span: {problem.rank} samples, {_equations(stacks[0])}, {behind}", zeros, stacks)


def _why_equations(problem: Problem, config: ReconstructConfig) -> str | None:
    """What it is that zeros cannot invert, None where they can."""
    is_mapped = problem.above is not None and problem.above.between is not None
    behind = "a map of yours" if is_mapped else _told_activation(config)
    if not problem.has_bias_grad:
        return f"{behind} and no bias gradient"
    is_other = config.activation is not None and not named(config.activation).is_relu
    return behind if is_mapped or is_other else None


def _told_activation(config: ReconstructConfig) -> str:
    return "any activation" if config.activation is None else str(named(config.activation))


def _equations(stack: Stack) -> str:
    """How many equations there are for a sample, in words."""
    if stack.mixes:
        return f"{stack.equations} equations each for their own gradients, as the next layer's shows too few samples"
    upper = stack.uppers[0]
    each = f"{upper.weight.shape[1]} + {upper.constant:.0f} - {len(upper.spectrum)} equations each"
    return each if stack.views == 1 else f"{each} from the next layer, {stack.equations} from {stack.views} layers"


def _stacks(problem: Problem, config: ReconstructConfig) -> tuple[Stack, ...]:
    if problem.above is None or not problem.above.observed:
        return ()
    between, observed = problem.above.between, problem.above.observed
    if between is not None:
        # What follows the next layer is only known where it is told.
        observed = observed if config.activation is not None else observed[:1]
        stack = pose_stack(problem, observed, named(config.activation or ACTIVATIONS[0]), between)
        return () if stack is None else (stack,)
    names = ACTIVATIONS if config.activation is None else (config.activation,)
    first = pose_stack(problem, observed, named(names[0]))
    if first is None:
        return ()
    return tuple(dataclasses.replace(first, activation=named(name)).with_enough_views() for name in names)


def _suits_zeros(problem: Problem, zeros: ZerosPlan) -> bool:
    """Whether no noise is to be seen, and sampling takes seconds or the dictionary is fastest: many rows, centred."""
    has_many_rows = len(problem.live_rows) >= MANY_ROWS * problem.rank
    is_fast = zeros.method == "sampling" or (has_many_rows and not is_skewed(problem))
    return is_fast and not _drowns_zeros(problem)


def _drowns_zeros(problem: Problem) -> bool:
    """Whether noise covers zeros: then what the next layer saw says more."""
    return numerics.relative_noise(problem.factorization) > WALK_NOISE


def search(problem: Problem, plan: Plan, run: Run, state: SearchState | None = None) -> Outcome:
    """The directions of the batch, and what was certified alone on the way.

    Args:
        problem: of the layer.
        plan: how to propose.
        run: key, budgets and callback.
        state: where to go on, None for the start.
    """
    if not plan.stacks or (state is not None and state.method in BY_ZEROS):
        return search_by_zeros(problem, plan.zeros, run, state)
    if state is not None:
        return _by_roots(problem, plan, run, state)
    is_fixed = plan.stacks[0].between is not None
    if run.config.activation is not None or run.config.method == "span" or is_fixed:
        return _told(problem, plan, run)
    return _open(problem, plan, run)


def _told(problem: Problem, plan: Plan, run: Run) -> Outcome:
    """The search where activation or method are given: by zeros where these suit, else by roots, and zeros after."""
    if plan.method != "span":
        return search_by_zeros(problem, plan.zeros, run)
    outcome = _by_roots(problem, plan, run, None)
    if outcome.is_whole or run.config.method == "span" or not (outcome.is_relu and problem.has_bias_grad):
        return outcome
    if len(outcome.directions) and (outcome.state.apart or _drowns_zeros(problem)):
        return outcome
    after = search_by_zeros(problem, plan.zeros, run.after(outcome.spent)).after(outcome)
    return after if after.is_whole or len(outcome.directions) == 0 else with_known(problem, after, outcome)


def _open(problem: Problem, plan: Plan, run: Run) -> Outcome:
    """The search where nobody said what the activation is: a find by zeros says ReLU, else the equations decide."""
    started = None
    if plan.method == "dictionary":
        started = find_together(problem, run.few_rounds(1))
    elif plan.method == "span" and problem.is_mended:
        started = peel_samples(problem, run)
        if started.is_whole:
            return started
    told = lambda name: run._replace(config=dataclasses.replace(run.config, activation=name))
    if started is not None and len(started.directions):
        if plan.method == "dictionary":
            return search_by_zeros(problem, plan.zeros, run.after(started.spent), started.state).after(started)
        return _told(problem, plan, told("relu"))
    chosen = identify(problem, plan.stacks, run)
    if chosen is None and plan.stacks[0].has_scale:
        chosen = identify(problem, _apart(plan.stacks), run)
    if chosen is not None and not chosen.activation.is_relu:
        return _by_roots(problem, plan, told(str(chosen.activation)), None)
    return _told(problem, plan, told("relu"))


def _by_roots(problem: Problem, plan: Plan, run: Run, state: SearchState | None) -> Outcome:
    """The span method, with the activation that is told or found; the pattern certificate too where it is ReLU.

    Where nothing solves the equations with the bias gradients these may have been scaled apart from the others, as
    clipping tensor by tensor does: then they are asked for without.
    """
    stacks = plan.stacks if state is None or not state.apart else _apart(plan.stacks)
    outcome = _roots_of(problem, stacks, run, state)
    if state is None and len(outcome.directions) == 0 and stacks[0].has_scale and (apart := _apart(stacks)):
        again = _roots_of(problem, apart, run.after(outcome.spent), None)
        outcome = again.after(outcome) if len(again.directions) else outcome
    believes = problem.has_bias_grad and not outcome.state.apart
    if not (outcome.is_relu and believes) or linalg.matrix_rank(outcome.directions) < problem.rank:
        return outcome
    agreement = agree(problem, outcome.directions)
    settled_as = settled(agreement)  # patterns that noise blurs contradict nothing
    return outcome if settled_as is None else outcome._replace(agreement=agreement, status=settled_as)


def _apart(stacks: tuple[Stack, ...]) -> tuple[Stack, ...]:
    """The equations without any bias gradient, those of them that are enough."""
    apart = tuple(stack.without_bias_gradients() for stack in stacks)
    return tuple(stack for stack in apart if stack.surplus > 0 and (stack.takes_out or not stack.mixes))


def _roots_of(problem: Problem, stacks: tuple[Stack, ...], run: Run, state: SearchState | None) -> Outcome:
    """The roots of the equations with the activation that is told or found."""
    told, stack = run.config.activation if state is None else state.activation, stacks[0]
    if told is not None and len(stacks) > 1:
        stack = next(stack for stack in stacks if stack.activation == named(told))
    elif len(stacks) > 1:
        stack = identify(problem, stacks, run) or stack
    outcome = find_roots(problem, stack, run, state)
    assert outcome.state.roots is not None
    fitting = also_fit(stacks, stack, outcome.state.roots.points)
    return outcome._replace(activations=fitting if stack.between is None else (BETWEEN,))
