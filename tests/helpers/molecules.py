"""Bundled molecules, what a server sees of them, and whether they are among what was found."""

import functools

import jax
import numpy as np

from spear_jax.client.graph_batch import demo_molecules
from spear_jax.client.graph_gradient import graph_gradient
from spear_jax.client.graph_models import random_graph_model
from spear_jax.graphs.architecture import Architecture
from spear_jax.graphs.features import Features
from spear_jax.graphs.graph import is_isomorphic
from spear_jax.graphs.observation import GraphObservation


@functools.cache
def molecules():
    """All of them."""
    return demo_molecules()


def chosen(*names):
    """Some of them, by name."""
    every = molecules()
    return every.chosen(np.array([every.names.index(name) for name in names]))


def network(kind, width=96, seed=0, dtype="float64", **options):
    """Architecture and random weights, of a GCN without bias as GRAIN has it."""
    layers = options.pop("layers", 2)
    has_conv_bias = options.pop("has_conv_bias", False)
    architecture = Architecture(kind=kind, columns=molecules().features.columns, widths=(width,) * layers, **options)
    return architecture, random_graph_model(
        architecture, jax.random.key(seed), dtype=dtype, has_conv_bias=has_conv_bias
    )


def listed(private=None):
    """Features that are a list of all rows that the molecules have."""
    graphs = (private or molecules()).graphs
    return Features(
        blocks=molecules().features.blocks,
        degree="degree",
        possible=np.unique(np.concatenate([graph.rows for graph in graphs]), axis=0),
    )


def observed(architecture, params, private, features=None, seed=0):
    """What the server sees."""
    return GraphObservation(
        architecture=architecture,
        features=features or private.features,
        params=params,
        gradients=graph_gradient(architecture, params, private, seed=seed),
    )


def is_in(graph, one):
    """Whether a graph is a member of a class."""
    return any(is_isomorphic(graph, member) for member in one.members)


def is_true(result, private):
    """Whether every graph is in a certified class of its own, and nothing else is certified."""
    certified = [one for one in result.classes if one.is_certified]
    return len(certified) == len(private.graphs) and all(
        any(is_in(graph, one) for one in certified) for graph in private.graphs
    )
