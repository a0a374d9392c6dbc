"""Planted results of the attack on graphs: what the audit writes of them, without an attack that has to work."""

import numpy as np


def planted_update(folder, names=("caffeine", "cholesterol"), *, kind="gin", tasks=3, **options):
    """Bundle, truth and features file of a client that has some of the bundled molecules; and its graphs."""
    import jax

    from spear_jax.audit import record
    from spear_jax.client.graph_batch import demo_molecules
    from spear_jax.client.graph_models import random_graph_model
    from spear_jax.client.graph_simulate import known_to_the_server, simulate_graph_update
    from spear_jax.client.graph_truth import GraphTruth
    from spear_jax.graphs.architecture import Architecture
    from spear_jax.tensor_files import write_tensors

    every = demo_molecules()
    private = every.chosen(np.array([every.names.index(name) for name in names]))
    architecture = Architecture(kind=kind, columns=every.features.columns, widths=(16, 16), tasks=tasks)
    params = random_graph_model(architecture, jax.random.key(0), dtype="float64")
    write_tensors(folder / "update.safetensors", *simulate_graph_update(architecture, params, private, **options))
    GraphTruth(private).save(folder / "truth.safetensors")
    record.write_json(folder / "features.json", known_to_the_server(architecture, private.features))
    return private


def read_planted(folder):
    """The update that `planted_update` wrote."""
    from spear_jax.update.graph_features import read_features
    from spear_jax.update.graph_update import read_graph_update

    return read_graph_update(folder / "update.safetensors", read_features(folder / "features.json"))


def rewired(graph, times, seed=0):
    """Other graphs with the same rows and degrees: edges ``times`` swap their ends, two at a time."""
    from spear_jax.graphs.graph import Graph

    generator, edges = np.random.default_rng(seed), graph.edges.copy()
    while times:
        one, other = generator.choice(len(edges), 2, replace=False)
        (a, b), (c, d) = edges[one], edges[other]
        new = np.sort([[a, d], [c, b]], axis=1)
        if len({a, b, c, d}) == 4 and not any((edges == pair).all(axis=1).any() for pair in new):
            edges[[one, other]] = new
            times -= 1
    return Graph(graph.rows, edges)


def graph_class(*members, exact=None, is_certified=True, is_cut=False, may_be_larger=False):
    """A class of these members; exact where it is certified, complete and has one."""
    from spear_jax.attacks.graphs.result import GraphClass

    is_alone = is_certified and len(members) == 1 and not is_cut and not may_be_larger
    return GraphClass(
        members=members,
        is_certified=is_certified,
        is_cut=is_cut,
        may_be_larger=may_be_larger,
        exact=is_alone if exact is None else exact,
    )


def planted_result(classes, *, rows=None, stars=(), **changes):
    """A result with these classes."""
    from spear_jax.attacks.graphs.result import GraphResult, Reproduction, ViewSize
    from spear_jax.status import Status

    if rows is None:
        rows = np.unique(np.concatenate([member.rows for one in classes for member in one.members]), axis=0)
    is_exact = bool(classes) and all(one.exact for one in classes)
    found = {
        "classes": tuple(classes),
        "rows": rows,
        "rows_exact": np.ones(len(rows), bool),
        "stars": tuple(stars),
        "stars_exact": True,
        "reproduction": Reproduction(2e-15, 1e-10) if classes else None,
        "status": Status.EXACT if is_exact else Status.ONE_OF_SEVERAL,
        "reason": "What was found, in a sentence.",
        "views": (ViewSize("convs.0.mlp.0", 0, 9, 45), ViewSize("convs.1.mlp.0", 1, 16, 16)),
        "seconds": {"rows": 0.5, "stars": 1.0},
    }
    return GraphResult(**found | changes)


def write_planted(folder, result):
    """The record of a result over the update that `planted_update` wrote, in its folder."""
    from spear_jax.audit.graph_record import GraphAudited, make_record, write_graph_record

    content = make_record(result, GraphAudited(read_planted(folder), folder / "update.safetensors", "features.json"))
    write_graph_record(folder, content)
    return content
