"""What every framework calls kernel and bias, and how a square kernel is stored."""

from __future__ import annotations

import numpy as np
import pytest

from spear_jax.errors import UpdateError
from spear_jax.update.bundle import Update
from spear_jax.update.dense_layers import find_layers
from spear_jax.update.make import make_update
from spear_jax.update.model_file import ModelFile
from spear_jax.update.tensor_names import parse_kernel

# How a framework names layer i, and the layout of its kernels.
NAMES = {
    "pytorch": ("fc{}.weight", "fc{}.bias", "out_in"),
    "flax": ("Dense_{}/kernel", "Dense_{}/bias", "in_out"),
    "flax nnx": ("fc{}/kernel/value", "fc{}/bias/value", "in_out"),
    "tensorflow": ("dense_{}/kernel:0", "dense_{}/bias:0", "in_out"),
    "tensorflow slim": ("fc{}/weights:0", "fc{}/biases:0", "in_out"),
    "tensorflow checkpoint": (
        "layer-{}/kernel/.ATTRIBUTES/VARIABLE_VALUE",
        "layer-{}/bias/.ATTRIBUTES/VARIABLE_VALUE",
        "in_out",
    ),
    "keras 3": ("layers/dense_{}/vars/0", "layers/dense_{}/vars/1", "in_out"),
    "haiku": ("mlp/~/linear_{}/w", "mlp/~/linear_{}/b", "in_out"),
    "mxnet": ("dense{}_weight", "dense{}_bias", "out_in"),
    "scikit-learn": ("coefs_{}", "intercepts_{}", "in_out"),
    "by hand": ("w{}", "b{}", "in_out"),
    "by hand, as papers write": ("W{}", "b{}", "out_in"),
    "by hand, in dicts": ("layer_{}/W", "layer_{}/b", "in_out"),
    "by hand, long": ("weights_{}", "biases_{}", "in_out"),
    "lists of kernels and of biases": ("weights/{}", "biases/{}", "out_in"),
    "lists of scikit-learn": ("coefs_/{}", "intercepts_/{}", "in_out"),
    "a list of pairs": ("{}/0", "{}/1", "in_out"),
}
SIZES = (6, 6, 6, 3)


@pytest.mark.parametrize("framework", NAMES)
def test_layers_are_found_and_square_kernels_read_as_the_others(framework):
    kernel, bias, layout = NAMES[framework]
    shapes = {}
    for index, (n, m) in enumerate(zip(SIZES, SIZES[1:], strict=False)):
        shapes[bias.format(index)] = (m,)
        shapes[kernel.format(index)] = (m, n) if layout == "out_in" else (n, m)
    layers, skipped = find_layers(shapes)
    assert skipped == ()
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(6, 6), (6, 6), (6, 3)]
    assert [layer.kernel_name for layer in layers] == [kernel.format(index) for index in range(3)]
    assert {layer.layout for layer in layers} == {layout}


@pytest.mark.parametrize(
    "name",
    ["weight_g", "weight_orig", "embedding/embedding", "attn.in_proj_weight", "preview", "0.0", "b1", "weight_ih_l0"],
)
def test_other_matrices_are_no_kernels(name):
    parsed = parse_kernel(name)
    assert parsed is None or parsed.biases == ("0.1",)


def test_layers_named_by_a_word_are_found_and_recurrent_ones_are_not():
    shapes = {"W_in": (5, 4), "b_in": (5,), "W_out": (3, 5), "b_out": (3,), "W_ih": (5, 5), "b_ih": (5,)}
    assert [layer.name for layer in find_layers(shapes)[0]] == ["W_in", "W_out"]


def test_a_square_kernel_of_no_known_naming_waits_for_its_layout():
    tensors = {"w": np.ones((4, 4)), "b": np.ones(4)}
    back = {name: tensor + np.arange(4.0) for name, tensor in tensors.items()}
    update = make_update(ModelFile(tensors, None), ModelFile(back, None))
    with pytest.raises(UpdateError, match="nothing tells whether it is .out, in. or .in, out.: give --layout"):
        update.layer()
    for layout in ("out_in", "in_out"):
        told = Update(update.global_tensors, update.client_tensors, update.metadata, layout)
        assert told.layer().layout == layout


def test_layouts_that_disagree_leave_a_square_kernel_to_its_name():
    shapes = {
        "a.weight": (3, 4),
        "a.bias": (3,),
        "b.weight": (4, 5),
        "b.bias": (5,),
        "c.weight": (4, 4),
        "c.bias": (4,),
    }
    layouts = {layer.name: layer.layout for layer in find_layers(shapes)[0]}
    assert layouts == {"a": "out_in", "b": "in_out", "c": "out_in"}
