"""The attack on language models from one end to the other: the only module that knows the order of its stages."""

from __future__ import annotations

from collections.abc import Sequence as Several

import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.text.beyond import grow_jointly
from spear_jax.attacks.text.certificate import Vouched, certify
from spear_jax.attacks.text.last_labels import read_last_labels
from spear_jax.attacks.text.outputs import read_outputs
from spear_jax.attacks.text.prefixes import Grown, grow
from spear_jax.attacks.text.result import TextResult
from spear_jax.attacks.text.rounds import require_same_inputs
from spear_jax.attacks.text.sequences import (
    Sequence,
    classified_sequences,
    following,
    predicted_sequences,
    pruned,
)
from spear_jax.attacks.text.states import read_states
from spear_jax.attacks.text.tokens import find_tokens
from spear_jax.attacks.text.views import View, make_views, telling
from spear_jax.config import ReconstructConfig
from spear_jax.errors import SpearError
from spear_jax.language.linear import Params
from spear_jax.language.observation import TextObservation
from spear_jax.stages import OnStage, StageClock
from spear_jax.status import Status

# Blocks whose inputs a prefix must fit.
BLOCKS = 2


def reconstruct(
    observation: TextObservation,
    config: ReconstructConfig = ReconstructConfig(),
    *,
    also: Several[TextObservation] = (),
    on_stage: OnStage | None = None,
) -> TextResult:
    """Reconstruct the text behind the gradients of a language model, with a certificate that needs no truth.

    Args:
        observation: what the server sees.
        config: of it, only ``num_examples`` is used: the batch size as the client reports it.
        also: further rounds of the same frozen embedding, as under adapters: their gradients of the first block's
            queries, keys and values show tokens together with the first round's. The tokens that come out are then of
            all rounds, not said which of which; sequences and their certificate are of ``observation`` alone.
        on_stage: called with a sentence before each stage.

    Returns:
        the sequences, in arbitrary order; a batch that cannot be inverted is a status, not an error.

    Raises:
        SpearError: the first block's attention did not come back, from which the tokens are read; a round that cannot
            be stacked, see `rounds.require_same_inputs`.
    """
    require_same_inputs(observation, also)
    clock = StageClock(on_stage)
    architecture = observation.architecture
    params: Params = {name: jnp.asarray(tensor) for name, tensor in observation.params.items()}
    clock.enter("views", "Factorising the gradients")
    views = make_views(observation, range(min(BLOCKS, architecture.layers)), also)
    if not views or not views[0].shows_tokens:
        raise SpearError(
            "no gradient of the first block's queries, keys or values came back; expected one (q_proj, k_proj, v_proj "
            "or c_attn of layer 0, or an adapter of it): the tokens are read from it."
        )
    sizes = tuple(view.size for view in views)
    if views[0].is_full:
        return TextResult(status=Status.TOO_MANY_TOKENS, views=sizes, rounds=1 + len(also), seconds=clock.seconds())
    clock.enter("tokens", f"Testing {architecture.vocabulary} tokens")
    tokens = find_tokens(architecture, params, views[0], architecture.positions, is_stacked=bool(also))
    if not len(tokens.ids):
        return TextResult(status=Status.NOT_OF_THIS_MODEL, views=sizes, rounds=1 + len(also), seconds=clock.seconds())
    clock.enter("prefixes", f"Growing sequences of {len(tokens.ids)} distinct tokens")
    grown = pruned(_grown(observation, params, telling(views), tokens.ids))
    clock.enter("outputs", f"Reading the labels behind {len(grown.nodes)} prefixes")
    sequences = _sequences(observation, params, grown)
    clock.enter("certificate", f"Computing the gradient of {len(sequences)} sequences")
    vouched = certify(observation, params, sequences)
    return TextResult(
        sequences=tuple(vouched.sequences),
        exact=vouched.exact,
        prefixes=() if vouched.is_whole else tuple(grown.tokens(leaf) for leaf in grown.leaves()),
        tokens=_inputs(vouched.sequences) if vouched.is_whole and not also else tokens.ids,
        tokens_exact=(vouched.is_whole and not also) or tokens.is_exact,
        rounds=1 + len(also),
        reproduction=vouched.reproduction,
        status=_status(vouched, tokens.is_exact, config.num_examples),
        views=sizes,
        seconds=clock.seconds(),
    )


def _grown(observation: TextObservation, params: Params, views: list[View], tokens: np.ndarray) -> Grown:
    """The prefixes of the batch: each by itself where the views show them all, else those that explain it together."""
    architecture = observation.architecture
    if views and all(view.is_capped for view in views) and architecture.family != "gpt2":
        return grow_jointly(observation, params, tokens, architecture.positions)
    return grow(architecture, params, views, tokens, architecture.positions)


def _sequences(observation: TextObservation, params: Params, grown: Grown) -> list[Sequence]:
    """Sequences of the prefixes that grew; none where the labels cannot be read."""
    if not grown.nodes:
        return []
    hidden, final = read_states(observation.architecture, params, grown)
    is_classified = observation.architecture.classes > 0
    likely = [[] if is_classified else list(children) for children in following(grown)]
    weights = read_outputs(observation, params, hidden, final, likely)
    if weights is None:
        return read_last_labels(observation, params, [grown.tokens(leaf) for leaf in grown.leaves()])
    return (classified_sequences if is_classified else predicted_sequences)(grown, weights)


def _inputs(sequences: list[Sequence]) -> np.ndarray:
    """Distinct tokens that entered the model."""
    return np.unique(np.concatenate([one.inputs for one in sequences]))


def _status(vouched: Vouched, has_tokens: bool, num_examples: int | None) -> Status:
    if not vouched.is_whole:
        return Status.TOKENS_ONLY if has_tokens and not vouched.sequences else Status.PARTIAL
    known = all(sequence.copies for sequence in vouched.sequences)
    count = sum(max(sequence.copies, 1) for sequence in vouched.sequences)
    return Status.EXACT_VISIBLE if num_examples is not None and known and count < num_examples else Status.EXACT
