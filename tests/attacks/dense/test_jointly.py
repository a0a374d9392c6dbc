"""Samples behind noise, all together: against planted batches, with wrong ones that the certificate must refuse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.activations import named
from spear_jax.attacks.dense import jointly
from spear_jax.attacks.dense.certificates.jointly import witness
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.problem import pose
from spear_jax.attacks.dense.roots import joint as joint_module
from spear_jax.attacks.dense.roots.joint import fit_of, normal, pull, sharpen
from spear_jax.attacks.dense.roots.stack import pose_stack
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.numerics import in_float64
from tests.helpers.spans import errors, simulate

B, M, NOISE = 6, 60, 0.2
KEY = jax.random.key(0)
CONFIG = ReconstructConfig(num_devices=1, method="span", num_examples=B)


def noisy(seen, noise=NOISE, seed=0):
    """The layers with white noise of a share of each gradient's root mean square."""
    rng = np.random.default_rng(seed)
    spoilt = lambda array, unit: np.asarray(array) + noise * unit * rng.normal(size=np.shape(array))
    layers = []
    for layer in seen.layers:
        unit = np.sqrt(np.mean(np.asarray(layer.weight_grad) ** 2))
        layers.append(
            dataclasses.replace(
                layer, weight_grad=spoilt(layer.weight_grad, unit), bias_grad=spoilt(layer.bias_grad, unit)
            )
        )
    return seen._replace(layers=layers)


def solve(seen, name, config=CONFIG, key=KEY, **options):
    config = dataclasses.replace(config, activation=name)
    return reconstruct(seen.layers[0], key, config, layers_above=seen.layers[1:], **options)


def posed(seen, name):
    """The two layers as the joint fit has them, and the basis of the inputs."""
    layer = seen.layers[0]
    problem = pose(layer, factorize(layer.weight_grad, rank=B))
    stack = pose_stack(problem, seen.layers[1:], named(name))
    return jointly.pose_joint(seen.layers[:2], stack)


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh"])
def test_noise_that_roots_do_not_survive_leaves_the_batch_with_bars_that_hold(name, monkeypatch):
    better, ratios = 0, []
    for seed in range(3):
        seen = noisy(simulate(name, B, M, seed=seed))
        result = solve(seen, name)
        error = errors(result, seen.inputs)
        known = np.isfinite(result.certificate.error)
        ratios += list(error[known] / result.certificate.error[known])
        with monkeypatch.context() as patch:
            patch.setattr(jointly, "_suits", lambda *_: False)
            alone = errors(solve(seen, name), seen.inputs)
        better += np.sum(error < 0.3) - np.sum(alone < 0.3)
    assert len(ratios) >= 9
    assert np.max(ratios) < 4
    assert 0.5 < np.median(ratios) < 1.5
    assert better > 0


def test_the_certificate_stands_by_the_planted_batch_and_by_no_mixture_of_it():
    for name in ("relu", "gelu"):
        seen = noisy(simulate(name, B, M, seed=4), 0.05)
        joint, basis = posed(seen, name)
        beyond = len(basis) - basis.shape[1]
        _, inputs, _ = in_float64(sharpen, joint, seen.inputs @ basis)
        assert witness(joint, inputs, beyond).stands.sum() >= B - 1
        mixed = inputs.copy()
        mixed[0] = (inputs[0] + inputs[1]) / 2
        assert not witness(joint, mixed, beyond).stands.any()
        rotated = np.linalg.qr(np.random.default_rng(0).normal(size=(B, B)))[0] @ inputs
        assert not witness(joint, rotated, beyond).stands.any()


def test_another_activation_explains_nothing():
    seen = noisy(simulate("gelu", B, M, seed=4), 0.05)
    joint, basis = posed(seen, "relu")
    _, inputs, _ = in_float64(sharpen, joint, seen.inputs @ basis)
    assert not witness(joint, inputs, len(basis) - basis.shape[1]).stands.any()


def test_a_step_follows_from_the_cost():
    """The gradient against finite differences, the matrix against its own symmetry and sign."""
    seen = noisy(simulate("gelu", B, M, seed=2), 0.02)
    joint, basis = posed(seen, "gelu")
    _, inputs, _ = in_float64(sharpen, joint, seen.inputs @ basis)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, *inputs.shape))

    def asked(joint, inputs):
        fit = fit_of(*jax.tree.map(jnp.asarray, (joint, inputs, np.zeros(()))))
        moves = [normal(joint, fit, jnp.asarray(move)) for move in (first, second)]
        return pull(joint, fit, fit.apart, fit.later_apart), *moves, fit.cost

    place = inputs + 1e-2 * rng.normal(size=inputs.shape)
    gradient, of_first, of_second, _ = in_float64(jax.jit(asked), joint, place)
    cost = lambda step: float(in_float64(jax.jit(asked), joint, place + step * first)[-1])
    assert np.isclose((cost(1e-6) - cost(-1e-6)) / 2e-6, -2 * np.sum(gradient * first), rtol=1e-4)
    assert np.isclose(np.sum(second * of_first), np.sum(first * of_second), rtol=1e-9)
    assert np.sum(first * of_first) > 0


def test_two_samples_that_fire_the_same_neurons_mix_freely_and_have_no_bar():
    inputs = np.random.default_rng(3).normal(size=(B, 100))
    inputs[1] = inputs[0] + 1e-3 * np.random.default_rng(4).normal(size=100)
    seen = noisy(simulate("relu", B, M, seed=3, inputs=inputs, labels=[0, 1, 2, 3, 4, 5]), 1e-3)
    joint, basis = posed(seen, "relu")
    _, found, _ = in_float64(sharpen, joint, inputs @ basis)
    error = witness(joint, found, len(basis) - basis.shape[1]).error / np.linalg.norm(found, axis=1)
    assert error[:2].min() > 20 * error[2:].max()


@pytest.mark.parametrize(("name", "factors"), [("relu", (1, 0.8)), ("leaky_relu", (1, 0.7)), ("softplus", (0.5, 0.5))])
def test_bias_gradients_of_another_scale_have_no_bars(name, factors):
    """What a factor leaves of a bias gradient lies where the samples' gradients are: noise has no reason to."""
    for seed in range(3):
        seen = noisy(simulate(name, B, M, seed=seed), 0.05)
        right, basis = posed(seen, name)
        layers = [
            dataclasses.replace(layer, bias_grad=factor * np.asarray(layer.bias_grad))
            for layer, factor in zip(seen.layers, factors, strict=False)
        ]
        scaled, _ = posed(seen._replace(layers=layers + seen.layers[2:]), name)
        found = [in_float64(sharpen, joint, seen.inputs @ basis)[:2] for joint in (right, scaled)]
        known = [witness(joint, inputs, len(basis) - basis.shape[1]).has_scale for joint, inputs in found]
        assert known == [True, False]


def test_a_next_layer_without_noise_drowns_no_equation_of_the_first():
    """Its equations alone leave inputs open that only the first layer shows, and no batch made anew would show it."""
    for seed in range(2):
        seen = simulate("relu", B, M, seed=seed)
        first = noisy(seen, 0.03, seed).layers[0]
        result = solve(seen._replace(layers=[first, *seen.layers[1:]]), "relu")
        known = np.isfinite(result.certificate.error)
        assert known.any()
        assert np.max(errors(result, seen.inputs)[known] / result.certificate.error[known]) < 4
        assert not result.certificate.exact.any()


def test_it_is_the_same_on_any_number_of_devices_in_any_order_and_goes_on_with_the_same_bytes():
    seen, states = noisy(simulate("gelu", B, M, seed=5)), []
    one = solve(seen, "gelu", on_round=lambda progress: states.append(progress.state))
    assert np.isfinite(one.inputs).all()
    for count in (2, 8):
        other = solve(seen, "gelu", dataclasses.replace(CONFIG, num_devices=count))
        np.testing.assert_array_equal(one.inputs, other.inputs)
        np.testing.assert_array_equal(one.certificate.error, other.certificate.error)
    np.testing.assert_array_equal(one.inputs, solve(seen, "gelu", state=states[-1]).inputs)
    unit = seen._replace(
        layers=[
            dataclasses.replace(layer, weight_grad=-3e-5 * layer.weight_grad, bias_grad=-3e-5 * layer.bias_grad)
            for layer in seen.layers
        ]
    )
    np.testing.assert_allclose(errors(solve(unit, "gelu"), seen.inputs), errors(one, seen.inputs), rtol=0.2)


def test_the_average_over_a_width_is_that_of_a_normal_variable_and_starts_are_shaken():
    assert joint_module.SHAKES[0] > 0
    np.testing.assert_allclose(joint_module.QUADRATURE[1].sum(), 1)
    np.testing.assert_allclose(joint_module.QUADRATURE[1] @ joint_module.QUADRATURE[0] ** 2, 1)
