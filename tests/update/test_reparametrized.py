"""weight_norm and spectral_norm: the gradient of the whole kernel from those of its parts, or why there is none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.errors import UpdateError
from spear_jax.update.make import make_update
from spear_jax.update.model_file import ModelFile

RATE, DECAY = 0.1, 0.01
STYLES = {
    "old": ("weight_g", "weight_v"),
    "new": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
}
SPECTRAL = {
    "old": ("weight_orig", "weight_u", "weight_v"),
    "new": ("parametrizations.weight.original", "parametrizations.weight.0._u", "parametrizations.weight.0._v"),
}
TOLERANCE = 1e-9


def whole(g, v, axes):
    return g * v / jnp.sqrt(jnp.sum(v**2, axis=axes, keepdims=True))


def forward(weights, biases, inputs):
    hidden = inputs
    for weight, bias in zip(weights, biases, strict=True):
        hidden = jax.nn.relu(hidden @ weight.T + bias[None])
    return jnp.sum(hidden**2)


@pytest.fixture
def layers():
    """Biases, kernels and the gradients of both, of two layers."""
    rng = np.random.default_rng(0)
    biases = [rng.normal(size=m) for m in (5, 3)]
    return rng, biases, [rng.normal(size=(5, 4)), rng.normal(size=(3, 5))], rng.normal(size=(2, 4))


def normed(layers, axes):
    """Parts of the first kernel, their gradients, and the gradient of the whole kernel and its bias."""
    rng, biases, (v, upper), inputs = layers
    length = np.sqrt(np.sum(v**2, axis=axes, keepdims=len(axes) == 1))
    g = np.asarray(length * rng.uniform(0.6, 1.5, size=length.shape))
    loss = lambda g, v: forward([whole(g, v, axes), upper], biases, inputs)
    of_kernel = jax.grad(lambda w, b: forward([w, upper], [b, biases[1]], inputs), argnums=(0, 1))
    kernel_grad, bias_grad = of_kernel(whole(g, v, axes), biases[0])
    return (g, v), jax.grad(loss, argnums=(0, 1))(g, v), kernel_grad, bias_grad, (upper, biases)


def files(parts, grads, names, rest, bias_grad):
    """The model and its gradient as files."""
    upper, biases = rest
    sent = {
        f"0.{names[0]}": parts[0],
        "0.bias": biases[0],
        f"0.{names[1]}": parts[1],
        "2.weight": upper,
        "2.bias": biases[1],
    }
    back = {f"0.{names[0]}": grads[0], "0.bias": bias_grad, f"0.{names[1]}": grads[1]}
    as_file = lambda tensors: {name: np.asarray(tensor) for name, tensor in tensors.items()}
    return as_file(sent), as_file(back)


@pytest.mark.parametrize("axes", [(1,), (0,), (0, 1)])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["gradient", "weights", "delta", "decayed"])
def test_the_gradient_under_weight_norm_follows_from_its_parts(layers, axes, style, kind):
    parts, grads, kernel_grad, bias_grad, rest = normed(layers, axes)
    sent, back = files(parts, grads, STYLES[style], rest, bias_grad)
    options: dict = {}
    if kind != "gradient":
        decay = DECAY if kind == "decayed" else 0.0
        options = {"lr": RATE} | ({"weight_decay": DECAY} if decay else {})
        back = {name: -RATE * (tensor + decay * sent[name]) for name, tensor in back.items()}
        if kind != "delta":
            back = {name: sent[name] + tensor for name, tensor in back.items()}
    back = {name: np.asarray(tensor) for name, tensor in back.items()}
    told = {"decayed": "weights"}.get(kind, kind)
    update = make_update(ModelFile(sent, "pytorch"), ModelFile(back, "pytorch"), kind=told, **options)
    assert list(update.global_tensors) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    observation = update.observation()
    np.testing.assert_allclose(observation.weight, whole(*parts, axes), atol=TOLERANCE)
    np.testing.assert_allclose(observation.weight_grad, kernel_grad, atol=TOLERANCE)
    np.testing.assert_allclose(observation.bias_grad, bias_grad, atol=TOLERANCE)


def test_what_does_not_follow_from_weight_norm_is_refused(layers):
    parts, grads, _, bias_grad, rest = normed(layers, (1,))
    sent, back = files(parts, grads, STYLES["old"], rest, bias_grad)
    before = ModelFile(sent, "pytorch")
    after = ModelFile({name: sent[name] - RATE * tensor for name, tensor in back.items()}, "pytorch")
    with pytest.raises(UpdateError, match=r"layer 0 is under weight_norm, and the sum over several local steps"):
        make_update(before, after, lr=RATE, local_steps=3)
    stretched = ModelFile(sent | {"0.weight_v": sent["0.weight_v"] * 100}, "pytorch")
    moved = ModelFile(after.tensors | {"0.weight_v": after.tensors["0.weight_v"] * 100}, "pytorch")
    with pytest.raises(UpdateError, match="magnifies the rounding of weights: give a gradient"):
        make_update(stretched, moved, lr=RATE)
    half = ModelFile({name: tensor for name, tensor in back.items() if name != "0.weight_g"}, "pytorch")
    with pytest.raises(UpdateError, match="of which only one part came back"):
        make_update(before, half, kind="gradient")
    upper = ModelFile({"2.weight": np.ones((3, 5)), "2.bias": np.ones(3)}, "pytorch")  # frozen, and that is no fault
    assert make_update(before, upper, kind="gradient").layer().name == "2"


@pytest.mark.parametrize("style", SPECTRAL)
def test_spectral_norm_is_known_above_and_refused_in_the_first_layer(layers, style):
    _, biases, (first, upper), _ = layers
    names = SPECTRAL[style]
    left, sizes, right = np.linalg.svd(upper)
    sent = {"0.weight": first, "0.bias": biases[0], f"2.{names[0]}": upper, "2.bias": biases[1]}
    sent |= {f"2.{names[1]}": left[:, 0], f"2.{names[2]}": right[0]}
    update = make_update(
        ModelFile(sent, "pytorch"), ModelFile(sent | {"0.weight": first + 1, "0.bias": biases[0] + 1}, None)
    )
    network = update.network()
    assert network is not None
    np.testing.assert_allclose(network[0][0], upper / sizes[0], atol=TOLERANCE)
    assert "2.weight is under spectral_norm" in update.metadata["left_out"]
    with pytest.raises(UpdateError, match="layer 2 did not come back"):
        update.observation("2")
    only = {name.replace("2.", "0.", 1): tensor for name, tensor in sent.items() if name[0] == "2"}
    moved = {name: tensor + 0.1 for name, tensor in only.items()}
    with pytest.raises(UpdateError, match="layer 0 is under spectral_norm, which leaves one direction"):
        make_update(ModelFile(only, "pytorch"), ModelFile(moved, "pytorch"))
