"""Lists of arrays: aligned by order and shape where there is one way, refused where there are several or none."""

from __future__ import annotations

import re

import numpy as np
import pytest

from spear_jax.errors import UpdateError
from spear_jax.update.make import make_update, pair_files
from spear_jax.update.model_file import ModelFile
from tests.update.test_pairing import net


def listed(arrays, positions=None):
    """A file that is a list; None entries leave gaps."""
    kept = [(place, array) for place, array in enumerate(arrays) if array is not None]
    tensors = {f"arr_{place}": array for place, array in kept}
    return ModelFile(tensors, None, positions=positions or tuple(place for place, _ in kept))


def names(before, arrays):
    return list(pair_files(before, listed(arrays), kind="gradient").values())


def test_a_list_in_the_order_of_the_file():
    sent, arrays = net(0), list(net(1).values())
    assert names(ModelFile(sent, "pytorch"), arrays) == list(sent)
    update = make_update(ModelFile(sent, "pytorch"), listed(arrays), kind="gradient")
    for name, array in zip(sent, arrays, strict=True):
        assert update.client_tensors[name] is array
    assert names(listed(arrays), arrays) == list(listed(arrays).tensors)


def test_a_list_without_the_buffers_or_with_all_of_them():
    sent = {}
    for name, tensor in net(0).items():
        sent[name] = tensor
        sent[name + ".running_mean"] = np.ones(3)
        sent[name + ".num_batches_tracked"] = np.array(3)
    before = ModelFile(sent, "pytorch")
    assert names(before, list(net(1).values())) == list(net(0))
    assert names(before, list(sent.values())) == list(sent)


def test_frozen_parameters_may_be_none_or_missing_where_shapes_tell():
    before = ModelFile(net(0), "pytorch")
    arrays = list(net(1).values())
    assert names(before, [None, None, *arrays[2:]]) == list(net(0))[2:]
    assert names(before, arrays[4:]) == ["2.weight", "2.bias"]
    assert names(before, [arrays[0], *arrays[4:]]) == ["0.weight", "2.weight", "2.bias"]
    with pytest.raises(UpdateError, match=r"shape \(5,\) may be 0\.bias or 1\.bias: give them by name"):
        names(before, [arrays[1], *arrays[4:]])


def test_the_leaves_of_a_jax_tree_come_bias_first():
    sent = {
        f"Dense_{i}/{leaf}": t
        for i in range(3)
        for leaf, t in (("kernel", np.ones((4, i + 2))), ("bias", np.ones(i + 2)))
    }
    leaves = sorted(sent)
    assert names(ModelFile(sent, "flax"), [sent[name] for name in leaves]) == leaves
    assert names(ModelFile(sent, "flax"), list(sent.values())) == list(sent)
    with pytest.raises(UpdateError, match="shapes"):  # PyTorch lists no leaves
        names(ModelFile(sent, "pytorch"), [sent[name] for name in leaves])


def test_a_file_that_sorts_is_aligned_by_the_numbers_in_its_names():
    sent = dict(sorted(net(0).items()))
    assert names(ModelFile(sent, "pytorch", is_ordered=False), list(net(1).values())) == list(net(0))
    keras = {
        f"layers/dense{end}/vars/{k}": np.ones((5, 5) if k == 0 else 5)
        for end in ("", "_1", "_10", "_2")
        for k in (0, 1)
    }
    in_order = [f"layers/dense{end}/vars/{k}" for end in ("", "_1", "_2", "_10") for k in (0, 1)]
    assert names(ModelFile(keras, "keras", is_ordered=False), [keras[name] for name in in_order]) == in_order
    named = {
        f"{layer}.{leaf}": np.ones((5, 5) if leaf == "weight" else 5)
        for layer in ("down", "up")
        for leaf in ("weight", "bias")
    }
    with pytest.raises(UpdateError, match=r"may be down\.weight or up\.weight"):
        names(ModelFile(named, "pytorch", is_ordered=False), list(named.values()))
    assert names(ModelFile(named, "pytorch"), list(named.values())) == list(named)


WRONG = {
    "another order": lambda arrays: arrays[::-1],
    "too many": lambda arrays: arrays + arrays,
    "another shape": lambda arrays: [arrays[0].T, *arrays[1:]],
    "a gap beyond the end": lambda arrays: [None] * 6 + arrays[:1],
    "a gap that does not fit": lambda arrays: [None, *arrays[:3]],
}


@pytest.mark.parametrize("case", WRONG)
def test_a_list_that_fits_nowhere_is_refused_with_the_shapes(case):
    with pytest.raises(UpdateError, match=re.escape("not those of the model that was sent in its order ((5, 6), (5,)")):
        names(ModelFile(net(0), "pytorch"), WRONG[case](list(net(1).values())))
