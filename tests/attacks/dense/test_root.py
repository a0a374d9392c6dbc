"""The certificate of a root: what is no sample is refused, bars hold, and the scale is seen where it can be."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from spear_jax.activations import named
from spear_jax.attacks.dense.above import Above
from spear_jax.attacks.dense.certificates.doubles import spare_equations
from spear_jax.attacks.dense.certificates.root import basins, judge_roots
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.problem import pose
from spear_jax.attacks.dense.roots import exact
from spear_jax.attacks.dense.roots.stack import pose_stack
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.status import Scale
from tests.helpers.spans import errors, simulate

B, M = 12, 80
KEY = jax.random.key(0)


def posed(name, seen):
    """The problem, the equations, and the true points."""
    above = Above(None, None, tuple(seen.layers[1:]))
    problem = pose(seen.layers[0], factorize(seen.layers[0].weight_grad), above)
    stack = pose_stack(problem, seen.layers[1:2], named(name))
    if stack is None:
        return problem, None, None
    right = np.asarray(problem.factorization.right)
    return problem, stack, seen.inputs @ np.linalg.pinv(right) * problem.spectrum


def judged(name, seen, points):
    problem, stack, _ = posed(name, seen)
    return judge_roots(problem, stack, exact.with_duals(stack, points), problem.rank)[0]


@pytest.mark.parametrize("name", ["gelu", "relu", "tanh", "leaky_relu(0.2)"])
def test_true_samples_are_confirmed_and_their_duals_are_their_gradients(name):
    seen = simulate(name, B, M, seed=1)
    problem, stack, points = posed(name, seen)
    found = exact.with_duals(stack, points)
    samples, _ = judge_roots(problem, stack, found, B)
    assert samples.confirmed.all()
    assert samples.error.max() < 1e-9
    true = (problem.left.T @ seen.grad_z).T
    likeness = np.abs(np.sum(samples.directions * true, axis=1)) / np.linalg.norm(true, axis=1)
    np.testing.assert_allclose(likeness, 1, atol=1e-12)
    np.testing.assert_allclose(found.points @ found.duals.T, np.eye(B), atol=1e-9)


@pytest.mark.parametrize("name", ["gelu", "relu", "tanh"])
@pytest.mark.parametrize("share", [0.5, 0.1, 1e-3])
def test_mixtures_of_two_samples_are_refused(name, share):
    seen = simulate(name, B, M, seed=2)
    _, _, points = posed(name, seen)
    mixed = (1 - share) * points + share * np.roll(points, 1, axis=0)
    problem, stack, _ = posed(name, seen)
    samples = judge_roots(problem, stack, exact.with_duals(stack, mixed))[0]
    # A mixture of very little may be led back to its sample; what is confirmed is one.
    moved = np.linalg.norm(samples.dual * problem.spectrum - points, axis=1) / np.linalg.norm(points, axis=1)
    assert not samples.confirmed[moved > 1e-6].any()
    assert share == 1e-3 or not samples.confirmed.any()


def test_samples_that_fire_the_same_neurons_have_a_line_of_roots_and_are_refused():
    inputs = np.random.default_rng(3).normal(size=(B, 100))
    inputs[1] = inputs[0] + 3e-3 * np.random.default_rng(4).normal(size=100)
    seen = simulate("relu", B, M, seed=3, inputs=inputs, labels=np.arange(B) % 10)
    hidden = [inputs[i] @ np.asarray(seen.layers[0].weight).T + np.asarray(seen.layers[0].bias) > 0 for i in (0, 1)]
    assert np.array_equal(*hidden)
    problem, stack, points = posed("relu", seen)
    assert problem.rank == B
    assert not (basins(stack, points).condition[:2] < 1e6).any()
    mean = np.concatenate([(points[:1] + points[1:2]) / 2, points])
    samples = judged("relu", seen, mean)
    assert not samples.confirmed[:3].any()
    assert samples.confirmed[3:].all()


def test_near_duplicates_behind_gelu_are_two_exact_samples():
    inputs = np.random.default_rng(3).normal(size=(B, 100))
    inputs[1] = inputs[0] + 3e-3 * np.random.default_rng(4).normal(size=100)
    seen = simulate("gelu", B, M, seed=3, inputs=inputs, labels=np.arange(B) % 10)
    config = ReconstructConfig(activation="gelu", num_devices=1)
    result = reconstruct(seen.layers[0], KEY, config, layers_above=seen.layers[1:2])
    assert result.certificate.exact.all()
    assert errors(result, inputs).max() < 1e-8


@pytest.mark.parametrize("name", ["gelu", "relu", "sigmoid"])
@pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-2])
def test_bars_hold_under_noise(name, noise):
    """Actual over stated errors, over twenty batches of true points that are sharpened as a search does."""
    ratios = []
    for seed in range(20):
        seen = simulate(name, 4, M, seed=seed)
        rng = np.random.default_rng(seed)
        noisy = lambda array, rng=rng: array + noise * np.sqrt(np.mean(array**2)) * rng.normal(size=array.shape)
        layers = [
            dataclasses.replace(layer, weight_grad=noisy(layer.weight_grad), bias_grad=noisy(layer.bias_grad))
            for layer in seen.layers
        ]
        seen = seen._replace(layers=layers)
        problem, stack, points = posed(name, seen)
        if stack is None or problem.rank != 4:
            continue
        points = exact.polish(stack, points)
        samples = judge_roots(problem, stack, exact.with_duals(stack, points), 4)[0]
        known = samples.confirmed & np.isfinite(samples.error)
        inputs = samples.dual[known] @ np.asarray(problem.factorization.right)
        distance = np.linalg.norm(inputs[:, None] - seen.inputs[None], axis=2) / np.linalg.norm(seen.inputs, axis=1)
        ratios += (distance.min(axis=1) / samples.error[known]).tolist()
    assert len(ratios) >= 20
    assert 0.2 < np.median(ratios) < 1.5
    assert np.quantile(ratios, 0.95) < 2
    assert max(ratios) < 4


def test_the_scale_is_seen_where_the_activation_is_not_homogeneous():
    for name, has_biases, scale in (("gelu", True, Scale.NEXT_LAYER), ("relu", False, Scale.BIAS_GRADIENT)):
        seen = simulate(name, B, M, seed=5, has_biases=has_biases)
        problem, stack, points = posed(name, seen)
        error = judge_roots(problem, stack, exact.with_duals(stack, points))[1]
        assert (error < 1e-6) == (scale is Scale.NEXT_LAYER)
    seen = simulate("gelu", B, M, seed=5)
    config = ReconstructConfig(activation="gelu", num_devices=1)
    result = reconstruct(seen.layers[0], KEY, config, layers_above=seen.layers[1:2])
    assert result.certificate.scale is Scale.NEXT_LAYER


@pytest.mark.parametrize("layer", [0, 1])
def test_kernel_and_bias_gradients_scaled_apart_are_not_certified_at_a_wrong_scale(layer):
    seen = simulate("gelu", B, M, seed=6)
    layers = list(seen.layers)
    layers[layer] = dataclasses.replace(layers[layer], bias_grad=1.3 * layers[layer].bias_grad)
    config = ReconstructConfig(activation="gelu", num_devices=1)
    result = reconstruct(layers[0], KEY, config, layers_above=layers[1:2])
    known = result.certificate.exact | result.certificate.approximate
    assert (errors(result, seen.inputs)[known] < 1e-3).all()


def test_an_exact_sample_has_a_finite_bar_and_a_picture_none():
    seen = simulate("gelu", B, M, seed=7)
    result = reconstruct(
        seen.layers[0], KEY, ReconstructConfig(activation="gelu", num_devices=1), layers_above=seen.layers[1:2]
    )
    known = result.certificate.exact | result.certificate.approximate
    assert np.isfinite(result.certificate.error[known]).all()
    assert (result.certificate.error[known] > 0).all()


@pytest.mark.parametrize("name", ["relu", "leaky_relu(0.2)"])
def test_a_neuron_that_noise_puts_on_the_wrong_side_of_a_kink_does_not_spoil_the_gradient(name):
    flipped, off, spoiled = 0, [], []
    for seed in range(4):
        seen, rng = simulate(name, 8, 200, seed=seed), np.random.default_rng(seed)
        noisy = lambda array, rng=rng: array + 0.03 * np.sqrt(np.mean(array**2)) * rng.normal(size=array.shape)
        layers = [
            dataclasses.replace(it, weight_grad=noisy(it.weight_grad), bias_grad=noisy(it.bias_grad))
            for it in seen.layers
        ]
        problem, stack, points = posed(name, seen._replace(layers=layers))
        points = exact.polish(stack, points)
        true = seen.grad_z.T @ problem.left / problem.spectrum
        true = true / np.sum(true * points, axis=1, keepdims=True)
        distance = lambda duals, true=true: np.linalg.norm(duals - true, axis=1) / np.linalg.norm(true, axis=1)
        off.append(distance(exact.with_duals(stack, points).duals))
        all_decided = exact.sides_of(stack)
        all_decided = all_decided._replace(probes=tuple(0 * probe for probe in all_decided.probes))
        spoiled.append(distance(exact.in_lanes(partial(exact._duals, all_decided), points, exact.DUAL_LANES)[0]))
        first = seen.layers[0]
        z = points / problem.spectrum @ (problem.left.T @ layers[0].weight_grad) @ first.weight.T + first.bias
        flipped += int(np.sum((z > 0) != (seen.inputs @ first.weight.T + first.bias > 0)))
    assert flipped > 0
    assert np.max(off) < 0.15
    assert np.max(spoiled) > 2 * np.max(off)


@pytest.mark.parametrize("jitter", [0.0, 1e-7])
@pytest.mark.parametrize(("width", "is_seen"), [(20, False), (40, True)])
def test_neurons_that_come_three_times_give_one_equation(width, is_seen, jitter):
    """20 neurons leave 12 samples no equation over, however often each comes, and as different as rounding allows."""
    seen = simulate("gelu", B, width, seed=5)
    (weight, bias), *above = ((np.asarray(layer.weight), np.asarray(layer.bias)) for layer in seen.layers)
    shaken = np.tile(weight, (3, 1)) * (1 + jitter * np.random.default_rng(5).normal(size=(3 * width, 1)))
    shaken = shaken + jitter * np.random.default_rng(6).normal(size=shaken.shape)
    tripled = [(shaken, np.tile(bias, 3)), (np.tile(above[0][0], (1, 3)) / 3, above[0][1]), *above[1:]]
    seen = simulate("gelu", B, width, seed=5, start=tripled, dtype="float32" if jitter else "float64")
    problem, stack, points = posed("gelu", seen)
    assert stack.surplus > 2 * B
    assert spare_equations(stack, points) == stack.surplus - 2 * width
    samples = judge_roots(problem, stack, exact.with_duals(stack, points), B)[0]
    assert samples.confirmed.any() == samples.confirmed.all() == is_seen


@pytest.mark.parametrize(("scale", "is_open"), [(0.05, True), (1.0, False)])
def test_where_only_the_form_of_the_activation_shows_the_scale_it_must_be_the_only_one_that_fits(scale, is_open):
    """For small inputs SiLU is GELU of an input of another size; without biases nothing else tells."""
    inputs = scale * np.random.default_rng(7).normal(size=(B, 100))
    seen = simulate("silu", B, M, seed=7, inputs=inputs, has_biases=False, dtype="float32")
    bare = [dataclasses.replace(layer, bias=None, bias_grad=None) for layer in seen.layers[:2]]
    for told in ("silu", None):
        config = ReconstructConfig(activation=told, method="span", num_devices=1, num_examples=B)
        result = reconstruct(bare[0], KEY, config, layers_above=bare[1:])
        assert result.certificate.exact.any() == (not is_open)
        assert not (errors(result, inputs)[result.certificate.exact] > 1e-3).any()
    biased = reconstruct(seen.layers[0], KEY, config, layers_above=seen.layers[1:2])
    assert is_open or biased.certificate.exact.all()
