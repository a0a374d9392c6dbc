"""The model run over the prefixes that were found: what the last linear layer of the last block reads of each."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.text.prefixes import Grown
from spear_jax.language.architecture import Architecture
from spear_jax.language.backward import states
from spear_jax.language.linear import Params
from spear_jax.language.transformer import before_last_layer, block_params
from spear_jax.row_space import filled
from spear_jax.stages import stage

# Sequences that go through the model at a time.
ROWS = 16


@stage("text: states")
def read_states(architecture: Architecture, params: Params, grown: Grown) -> tuple[np.ndarray, np.ndarray]:
    """What the last linear layer reads of each prefix (N, h), and the state of each behind the last block (N, d)."""
    leaves = grown.leaves()
    paths = [_path(grown, leaf) for leaf in leaves]
    length = filled(max(len(path) for path in paths))
    hidden, final = {}, {}
    for start in range(0, len(paths), ROWS):
        part = paths[start : start + ROWS]
        tokens = np.zeros((ROWS, length), int)
        for row, path in enumerate(part):
            tokens[row, : len(path)] = [grown.nodes[place].token for place in path]
        is_token = np.arange(length)[None] < np.array([len(path) for path in part] + [1] * (ROWS - len(part)))[:, None]
        entered = states(architecture, params, jnp.asarray(tokens), jnp.asarray(is_token))
        last = block_params(architecture, params, architecture.layers - 1)
        read = np.asarray(_hidden(architecture, last, entered[-2], jnp.asarray(is_token)))
        left = np.asarray(entered[-1])
        for row, path in enumerate(part):
            for depth, place in enumerate(path):
                hidden[place], final[place] = read[row, depth], left[row, depth]
    places = range(len(grown.nodes))
    return np.stack([hidden[place] for place in places]), np.stack([final[place] for place in places])


def _path(grown: Grown, leaf: int) -> list[int]:
    """Places of the prefixes that lead to one, the shortest first."""
    path = []
    while leaf >= 0:
        path.append(leaf)
        leaf = grown.nodes[leaf].parent
    return path[::-1]


@partial(jax.jit, static_argnums=0)
def _hidden(architecture: Architecture, block: Params, state: jax.Array, is_token: jax.Array) -> jax.Array:
    return before_last_layer(architecture, block, 0, state, is_token)[1]
