"""The baselines that ours is compared with do what their papers say, and stay within what their papers claim."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from experiments.baselines import batch_size, cocktail_party, gradient_matching, lt_peeling, ratio_rule
from experiments.claims import against
from experiments.harness import claims


@pytest.fixture
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


class Planted(NamedTuple):
    """A batch, its update in float64 and dL/dZ of the hidden layer, all by NumPy."""

    batch: Any
    update: Any
    grad_z: np.ndarray


def planted(batch_size=6, width=200, *, seed=0, classes=10, raw=True, std=0.5):
    """Random 6 x 6 images of different brightness through one hidden layer; mean cross-entropy."""
    import spear_jax as sj
    from spear_jax.client.batch import image_batch
    from spear_jax.client.gradient import update_metadata
    from spear_jax.normalization import Normalization

    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (batch_size, 6, 6, 3)) * rng.uniform(0.2, 1, (batch_size, 1, 1, 3))
    labels = rng.permutation(classes)[np.arange(batch_size) % classes]
    normalization = Normalization((0.0 if raw else 0.5,), (1.0 if raw else 0.3,))
    names = tuple(map(str, range(batch_size)))
    batch = image_batch(images.astype(np.uint8), labels, names, normalization=normalization, num_classes=classes)
    first, second = std * rng.normal(size=(108, width)), rng.normal(size=(width, classes)) / width**0.5
    biases = [0.1 * rng.normal(size=size) for size in (width, classes)]
    pre_activation = batch.inputs @ first + biases[0]
    hidden = np.maximum(pre_activation, 0)
    grad = softmax(hidden @ second + biases[1], axis=1)
    grad[np.arange(batch_size), labels] -= 1
    grad /= batch_size
    grad_z = (grad @ second.T) * (pre_activation > 0)
    tensors = ("dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias")
    sent: dict[str, np.ndarray] = dict(zip(tensors, (first, biases[0], second, biases[1]), strict=True))
    came_back = (batch.inputs.T @ grad_z, grad_z.sum(axis=0), hidden.T @ grad, grad.sum(axis=0))
    metadata = update_metadata(batch)
    return Planted(batch, sj.Update(sent, dict(zip(tensors, came_back, strict=True)), metadata), grad_z.T)


def alone(problem):
    """Of each sample, how many neurons fire for it only."""
    fires = problem.grad_z != 0
    return fires[fires.sum(axis=1) == 1].sum(axis=0)


def distances(found, truth):
    """Largest error of the nearest reconstruction, per true sample."""
    return np.abs(found[None] - truth[:, None]).max(axis=2).min(axis=1)


# optax's Adam multiplies Python floats and integer arrays.
standard_promotion = pytest.mark.usefixtures("_standard_promotion")
TIGHT = lt_peeling.Options(max_mismatch=lt_peeling.ROUNDING)


@pytest.mark.parametrize("raw", [True, False])
def test_ratio_rule_gives_a_batch_of_one_exactly(raw):
    problem = planted(1, raw=raw)
    found = ratio_rule.ratio_rule(problem.update)
    assert found.inputs.shape == problem.batch.inputs.shape
    assert np.all(found.certified)
    np.testing.assert_allclose(found.inputs, problem.batch.inputs, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_ratio_rule_gives_the_samples_of_single_sample_neurons_and_no_others(seed):
    problem = planted(10, 100, seed=seed, raw=False)
    found = ratio_rule.ratio_rule(problem.update)
    assert 0 < (alone(problem) > 0).sum() < 10
    np.testing.assert_array_equal(distances(found.inputs, problem.batch.inputs) < 1e-9, alone(problem) > 0)
    assert found.certified is not None
    assert np.sum(found.certified) == (alone(problem) > 1).sum()


@pytest.mark.parametrize("seed", range(3))
def test_ratio_rule_merges_what_neurons_agree_on_in_float32_too(seed):
    problem = planted(6, seed=seed, raw=False)
    narrow = {name: value.astype(np.float32) for name, value in problem.update.client_tensors.items()}
    found = ratio_rule.ratio_rule(dataclasses.replace(problem.update, client_tensors=narrow))
    agreed = alone(problem) > 1
    assert agreed.any()
    assert found.certified is not None
    assert np.sum(found.certified) == agreed.sum()
    assert distances(found.inputs[found.certified], problem.batch.inputs)[agreed].max() < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_peeling_returns_the_planted_batch_from_fewer_single_samples(seed):
    problem = planted(12, 200, seed=seed)
    assert 0 < (alone(problem) > 0).sum() < 12
    found = lt_peeling.lt_peeling(problem.update, TIGHT)
    assert found.inputs.shape == problem.batch.inputs.shape
    assert distances(found.inputs, problem.batch.inputs).max() < 1e-6


def test_peeling_gives_nothing_without_single_sample_neurons():
    problems = (planted(40, 60, raw=False, seed=seed) for seed in range(20))
    problem = next(problem for problem in problems if not alone(problem).any())
    assert len(lt_peeling.lt_peeling(problem.update, TIGHT).inputs) == 0


def test_peeling_predicts_what_one_sample_adds_to_the_bias_gradient():
    problem = planted(1, seed=4)
    network, layer = problem.update.network(), problem.update.observation()
    pre_activation = problem.batch.inputs @ layer.weight.T + layer.bias
    grad = lt_peeling.layer_grad(network, pre_activation, problem.batch.labels)
    np.testing.assert_allclose(grad.T, problem.grad_z, atol=1e-12)
    neurons = np.arange(len(layer.bias))
    mismatch = lt_peeling.label_mismatch(network, pre_activation, 0 * neurons, neurons, layer.bias_grad)[0]
    label = problem.batch.labels[0]
    assert mismatch.argmin() == label
    assert mismatch[label] < 1e-12 < np.delete(mismatch, label).min()


def test_peeling_s_sensitivities_are_those_of_a_deep_network():
    """Column j of J^T (softmax - e_y) through two hidden layers, against the backward pass."""
    rng = np.random.default_rng(0)
    sizes = (7, 6, 5, 4)
    network = [(rng.normal(size=(o, i)), rng.normal(size=o)) for i, o in itertools.pairwise(sizes)]
    pre_activation, neurons = rng.normal(size=(1, 7)), np.arange(7)
    for label in range(4):
        grad = lt_peeling.layer_grad(network, pre_activation, np.array([label]))[0]
        mismatch = lt_peeling.label_mismatch(network, pre_activation, 0 * neurons, neurons, grad)[0]
        assert mismatch[label] < 1e-12 < np.delete(mismatch, label).min()


def mixture_mismatches(classes):
    """How badly the best label explains the one neuron that a mixture of two samples came from, for many mixtures."""
    problem = planted(8, 300, seed=3, classes=classes)
    layer, size = problem.update.observation(), batch_size(problem.update)
    neurons = np.flatnonzero((problem.grad_z != 0).sum(axis=1) == 2)
    mixtures = layer.weight_grad[neurons] / layer.bias_grad[neurons, None]
    pre_activation, groups = mixtures @ layer.weight.T + layer.bias, np.arange(len(neurons))
    sensitivity = size * layer.bias_grad[neurons]
    mismatch = lt_peeling.label_mismatch(problem.update.network(), pre_activation, groups, neurons, sensitivity)
    return mismatch.min(axis=1) / size


def test_peeling_s_certificate_refuses_mixtures_within_rounding_but_an_absolute_tolerance_meets_chance():
    mismatch = mixture_mismatches(classes=10)
    assert len(mismatch) > 10
    assert (mismatch > lt_peeling.ROUNDING).all()
    # With 100 times the labels some label comes far closer: what the published tolerance admits grows with classes.
    assert np.median(mixture_mismatches(classes=1000)) < 0.1 * np.median(mismatch)


def test_peeling_needs_the_batch_size():
    update = planted(2).update
    metadata = {name: text for name, text in update.metadata.items() if name != "num_examples"}
    with pytest.raises(ValueError, match="num_examples"):
        lt_peeling.lt_peeling(dataclasses.replace(update, metadata=metadata))


def separation(sources):
    """Least correlation of a source with its best match, after unmixing random mixtures of them."""
    mixtures = np.random.default_rng(9).normal(size=(20, len(sources))) @ sources
    centred = mixtures - mixtures.mean(axis=1, keepdims=True)
    whitened = cocktail_party.whiten(mixtures, len(sources)) @ centred
    np.testing.assert_allclose(np.cov(whitened, bias=True), np.eye(len(sources)), atol=1e-9)
    options = cocktail_party.Options(steps=1000, learning_rate=1e-2, decorrelation=1e-4)
    found = np.asarray(cocktail_party.unmix(jnp.asarray(whitened), options)) @ whitened
    return np.abs(np.corrcoef(found, sources)[: len(sources), len(sources) :]).max(axis=0).min()


@standard_promotion
@pytest.mark.parametrize("seed", range(2))
def test_cocktail_party_separates_independent_sources_unless_they_are_gaussian(seed):
    rng = np.random.default_rng(seed)
    assert separation(rng.laplace(size=(3, 4000))) > 0.98
    assert separation(rng.uniform(size=(3, 4000))) > 0.98
    assert separation(rng.normal(size=(3, 4000))) < 0.95


def test_negentropy_is_zero_for_gaussian_sources_alone():
    rng = np.random.default_rng(0)
    sources = np.stack(
        [rng.normal(size=2 * 10**5), rng.laplace(size=2 * 10**5) / 2**0.5, rng.uniform(-1, 1, 2 * 10**5) * 3**0.5]
    )
    expected = (np.log(np.cosh(sources)).mean(axis=1) - np.log(np.cosh(rng.normal(size=2 * 10**5))).mean()) ** 2
    found = np.asarray(cocktail_party.negentropy(jnp.asarray(sources)))
    assert found[0] < 1e-5
    np.testing.assert_allclose(found[1:], expected[1:], rtol=0.1)


def test_cocktail_party_s_penalty_keeps_sources_apart():
    rows = jnp.asarray([[1.0, 0.0], [1.0, 0.0]])
    assert cocktail_party.decorrelation(rows, 2.0) == pytest.approx(np.expm1(2.0))
    assert cocktail_party.decorrelation(jnp.eye(2), 2.0) == 0


@standard_promotion
def test_cocktail_party_takes_sign_and_scale_from_the_bias_gradient():
    """One sample is unmixed by whitening alone, so what is left is exact, sign and scale included."""
    problem = planted(1, raw=False)
    found = cocktail_party.cocktail_party(problem.update, cocktail_party.Options(steps=2))
    np.testing.assert_allclose(found.inputs, problem.batch.inputs, atol=1e-6)


def test_published_evaluation_undoes_order_sign_and_scale():
    truth = np.random.default_rng(0).uniform(size=(3, 50))
    truth[:, :2] = 0, 1
    found = np.array([[-2.0], [0.5], [-1.0]]) * truth[[2, 0, 1]] + 3
    np.testing.assert_allclose(cocktail_party.as_published(found, truth), truth, atol=1e-12)


def matching_problem():
    batch, update, _ = planted(3, 30, seed=5, raw=False, std=0.1)
    model, params, observed = gradient_matching.model_of(update, jnp.float64)
    loss = lambda inputs: gradient_matching.mismatch(model, params, observed, inputs, jnp.asarray(batch.labels))
    return batch, jax.jit(loss)


def test_matching_is_zero_at_the_truth_and_positive_elsewhere():
    batch, loss = matching_problem()
    truth, rng = jnp.asarray(batch.inputs), np.random.default_rng(0)
    assert abs(float(loss(truth))) < 1e-12
    assert all(float(loss(truth + size * rng.normal(size=truth.shape))) > 1e-6 for size in (0.01, 0.1, 1.0))
    swapped = truth[jnp.asarray([1, 0, 2])]
    assert batch.labels[0] != batch.labels[1]
    assert float(loss(swapped)) > 1e-3


def test_matching_s_gradient_is_that_of_finite_differences():
    batch, loss = matching_problem()
    rng = np.random.default_rng(1)
    point = jnp.asarray(rng.normal(size=batch.inputs.shape))
    gradient = np.asarray(jax.jit(jax.grad(loss))(point))
    step = 1e-6
    for _ in range(5):
        direction = rng.normal(size=point.shape)
        difference = (loss(point + step * direction) - loss(point - step * direction)) / (2 * step)
        assert float(difference) == pytest.approx(float(np.vdot(gradient, direction)), rel=1e-5)


@standard_promotion
def test_gradient_matching_comes_closer_and_keeps_to_pixels():
    batch, update, _ = planted(2, 60, seed=6, raw=False, std=0.1)
    options = gradient_matching.Options(steps=400, total_variation=0.0)
    found = gradient_matching.gradient_matching(update, batch.labels, jax.random.key(0), options).inputs
    pixels, noise = batch.normalization.invert(found), np.random.default_rng(0).normal(size=found.shape)
    assert np.abs(pixels - 0.5).max() < 0.5 + 1e-6
    assert np.abs(found - batch.inputs).mean() < 0.2 * np.abs(noise - batch.inputs).mean()


def test_quick_settings_are_some_of_all_and_every_method_gets_the_same_update():
    every = against.settings(False)
    quick = against.settings(True)
    assert 0 < len(quick) < len(every)
    assert all(setting in every for setting in quick)
    problems = [{k: v for k, v in s.items() if k not in ("method", "steps")} for s in quick]
    assert all(problem == problems[0] for problem in problems)


def test_findings_and_plots_come_from_lines_alone(tmp_path):
    picture = against.against_plots.encode(np.full((4, 8, 3), 0.5))
    scores = {
        "samples": 8,
        "recovered": 8,
        "median_psnr": 300.0,
        "certified": 8,
        "false_certificates": 0,
        "run_seconds": 1.0,
    }
    lines = [{"setting": setting} | scores for setting in against.settings(True)]
    pictured = next(setting for setting in against.settings(False) if against.is_pictured(setting))
    lines.append({"setting": pictured, "pictures": {"original": picture, "spear_jax": picture}} | scores)
    for line in lines:
        if line["setting"]["method"] == against.PARTY:
            line |= {"published_median_psnr": 20.0, "share_of_published_steps": 1.0, "certified": None}
    findings = against.findings(lines)
    assert len(findings) == 2
    assert "8 of 8 recovered, 300.0 dB, 8 certified, 0 false" in findings[0].measured
    assert claims.of(findings[0].lines, method=against.PARTY)
    against.draw(lines, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["against.png", "against_photos.png"]
