"""What keeps graphs from being read is said in one sentence with its numbers, before the search where it can be."""

import dataclasses

import numpy as np
import pytest

from tests.helpers import molecules as m


def ended(observation):
    from spear_jax.attacks.graphs.pipeline import reconstruct

    return reconstruct(observation)


def observation(name="metformin", kind="gcn", width=32, **options):
    private = m.chosen(name)
    architecture, params = m.network(kind, width=width, **options)
    return m.observed(architecture, params, private)


def without(seen, *names):
    kept = {name: gradient for name, gradient in seen.gradients.items() if name not in names}
    return dataclasses.replace(seen, gradients=kept)


def test_one_layer_has_rows_only():
    from spear_jax.status import Status

    result = ended(observation(layers=1))
    assert result.status is Status.NODES_ONLY
    assert "neighbourhoods need a second" in result.reason
    assert len(result.rows)


def test_without_the_first_layer_there_is_nothing_to_read():
    from spear_jax.errors import SpearError

    with pytest.raises(SpearError, match=r"convs\.0\.weight has no gradient"):
        ended(without(observation(), "convs.0.weight"))


def test_without_the_bias_behind_the_pool_graphs_are_not_counted():
    from spear_jax.status import Status

    result = ended(without(observation(width=96), "readout.0.bias"))
    assert result.status is Status.NEIGHBOURHOODS_ONLY
    assert "readout.0's bias" in result.reason
    assert len(result.stars)
    assert result.classes == ()


def test_a_degree_that_is_not_tried_is_said():
    seen = observation("caffeine")
    few = dataclasses.replace(seen, features=dataclasses.replace(seen.features, max_degree=2))
    assert "a node has 3 neighbours, more than the 2 that are tried" in ended(few).reason


def test_units_that_agree_on_all_nodes_show_fewer_directions_than_there_are_neighbourhoods():
    """Behind a mean each node's gradient is one vector times its active units: if all agree there is one direction."""
    from spear_jax.status import Status

    private = m.chosen("glucose")
    architecture, params = m.network("gcn", width=32, has_conv_bias=True)
    always = params | {"convs.1.bias": np.full(32, 50.0)}
    result = ended(m.observed(architecture, always, private))
    assert result.status is Status.NODES_ONLY
    assert f"convs.1 shows 1 directions for at least {result.views[0].rank} neighbourhoods" in result.reason


def test_features_of_another_model_fit_nothing():
    from spear_jax.status import Status

    seen = observation()
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(size=gradient.shape) * (gradient != 0) for name, gradient in seen.gradients.items()}
    low = rng.normal(size=(32, 3)) @ rng.normal(size=(3, seen.features.columns))
    result = ended(dataclasses.replace(seen, gradients=noise | {"convs.0.weight": low}))
    assert result.status is Status.NO_NODES
    assert len(result.rows) == 0
