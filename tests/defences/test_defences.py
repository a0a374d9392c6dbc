"""Defences against NumPy: what each does to the entries, that three kinds of update agree, wrong input."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pytest
from jax.numpy import bfloat16
from scipy import stats

from spear_jax.defences import (
    DEFENCES,
    by_name,
    client_dp,
    clip,
    gaussian_noise,
    quantize,
    random_mask,
    top_k,
    zero_bias,
)
from spear_jax.defences.alter import relative_change
from spear_jax.errors import UpdateError
from spear_jax.update.bundle import Update
from spear_jax.update.bundle_file import load_update, save_update

KERNEL, BIAS = "dense_0.weight", "dense_0.bias"
SHAPES = {KERNEL: (300, 400), BIAS: (300,), "dense_1.weight": (5, 300), "dense_1.bias": (5,)}
STANDARD_ERRORS = 5


def normals(seed, dtype=np.float64, shapes=SHAPES):
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(size=shape).astype(dtype) * (index + 1)
        for index, (name, shape) in enumerate(shapes.items())
    }


def update_of(kind="gradient", dtype=np.float64, lr=1.0):
    """The same gradient as any of the three kinds."""
    sent, gradient = normals(0, dtype), normals(1, dtype)
    back = {
        "gradient": gradient,
        "delta": {name: -lr * value for name, value in gradient.items()},
        "weights": {name: sent[name] - lr * value for name, value in gradient.items()},
    }[kind]
    return Update(sent, back, {"kind": kind, "lr": repr(lr)})


def key(seed=0):
    return jax.random.key(seed)


def joined(update):
    return np.concatenate([update.client_tensors[name].ravel() for name in sorted(update.client_tensors)])


def defended(name, update, seed=0):
    """The update after the defence of this name at the middle of its grid."""
    defence = by_name(name)
    return defence(update, defence.grid[len(defence.grid) // 2], key(seed))


def assert_is_normal(sample, std):
    """Mean and standard deviation within five standard errors."""
    assert abs(sample.mean()) <= STANDARD_ERRORS * std / math.sqrt(sample.size)
    assert abs(sample.std() - std) <= STANDARD_ERRORS * std / math.sqrt(2 * sample.size)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_noise_has_the_mean_and_the_deviation_it_says(dtype):
    update = update_of(dtype=dtype)
    relative, absolute = gaussian_noise(update, 0.5, key()), gaussian_noise(update, 0.5, key(), relative=False)
    for name, value in update.client_tensors.items():
        assert relative.client_tensors[name].dtype == dtype
        assert_is_normal(absolute.client_tensors[name] - value, 0.5)
        assert_is_normal(relative.client_tensors[name] - value, 0.5 * np.sqrt(np.mean(value.astype(float) ** 2)))
    with pytest.raises(AssertionError):  # the check can fail
        assert_is_normal(absolute.client_tensors[KERNEL] - update.client_tensors[KERNEL], 0.51)


def test_noise_is_normal_and_independent_between_tensors():
    shapes = {"a.weight": (200, 500), "a.bias": (200,), "b.weight": (200, 500), "b.bias": (200,)}
    zero = {name: np.zeros(shape) for name, shape in shapes.items()}
    noise = gaussian_noise(Update(zero, zero, {"kind": "gradient"}), 1.0, key(), relative=False).client_tensors
    first, second = noise["a.weight"].ravel(), noise["b.weight"].ravel()
    assert stats.kstest(first, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(first, second)[0, 1]) < STANDARD_ERRORS / math.sqrt(first.size)


@pytest.mark.parametrize("name", DEFENCES)
def test_same_key_same_bytes_and_only_random_defences_heed_it(name):
    update = update_of()
    assert defended(name, update).sha256 == defended(name, update).sha256
    is_random = name in ("gaussian_noise", "gaussian_noise_absolute", "random_mask", "client_dp")
    assert (defended(name, update, 1).sha256 != defended(name, update).sha256) is is_random


@pytest.mark.parametrize("name", ["gaussian_noise_absolute", "random_mask"])
def test_what_is_drawn_depends_neither_on_the_dtype_nor_on_x64_nor_on_the_order_of_the_tensors(name):
    zero_and_one = [{n: np.full(shape, v, np.float32) for n, shape in SHAPES.items()} for v in (0, 1)]
    update = Update(*zero_and_one, {"kind": "gradient"})
    expected = by_name(name)(update, 0.25, key())
    turned = dataclasses.replace(update, client_tensors=dict(reversed(update.client_tensors.items())))
    assert by_name(name)(turned, 0.25, key()).sha256 == expected.sha256
    with jax.enable_x64(False):
        assert by_name(name)(update, 0.25, key()).sha256 == expected.sha256
    double = Update(*({n: t.astype(float) for n, t in side.items()} for side in zero_and_one), {"kind": "gradient"})
    np.testing.assert_allclose(joined(by_name(name)(double, 0.25, key())), joined(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.37, 0.01, 1e-9])
def test_top_k_keeps_the_largest_of_each_tensor_and_their_number(share):
    update = update_of()
    pruned = top_k(update, share)
    for name, value in update.client_tensors.items():
        kept = pruned.client_tensors[name]
        count = max(1, round(share * value.size))
        order = np.argsort(-np.abs(value), axis=None)
        expected = np.zeros_like(value)
        expected.flat[order[:count]] = value.flat[order[:count]]
        np.testing.assert_array_equal(kept, expected)


def test_random_mask_zeroes_its_share_and_touches_nothing_else():
    update = update_of()
    before, after = joined(update), joined(random_mask(update, 0.3, key()))
    share = np.mean(after == 0)
    assert abs(share - 0.3) < STANDARD_ERRORS * math.sqrt(0.3 * 0.7 / after.size)
    np.testing.assert_array_equal(after[after != 0], before[after != 0])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_narrower_floats_are_those_of_numpy(dtype):
    update = update_of(dtype=dtype)
    for name, narrow in (("float16", np.float16), ("bfloat16", bfloat16)):
        for tensor, value in quantize(update, name).client_tensors.items():
            assert value.dtype == dtype
            np.testing.assert_array_equal(value, update.client_tensors[tensor].astype(narrow).astype(dtype))
            assert np.any(value != update.client_tensors[tensor])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_int8_has_255_levels_and_errs_by_half_a_step_at_most(dtype):
    update = update_of(dtype=dtype)
    for name, value in quantize(update, "int8").client_tensors.items():
        before = update.client_tensors[name]
        step = np.abs(before).max() / 127
        levels = np.unique(np.rint(value / step))
        assert len(np.unique(value)) == len(levels) <= 255
        assert np.abs(levels).max() == 127
        assert np.abs(value - before).max() <= step / 2 * (1 + 1e-4)
        assert np.abs(value).max() == pytest.approx(np.abs(before).max(), rel=1e-6)


def test_int8_of_zeros_is_zero():
    zero = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    assert not joined(quantize(Update(normals(0), zero, {"kind": "gradient"}), "int8")).any()


def test_clip_scales_all_tensors_by_one_factor_to_the_norm():
    update = update_of()
    norm = np.linalg.norm(joined(update))
    clipped = clip(update, norm / 7)
    assert np.linalg.norm(joined(clipped)) == pytest.approx(norm / 7, rel=1e-12)
    np.testing.assert_allclose(joined(clipped), joined(update) / 7, rtol=1e-12)
    np.testing.assert_array_equal(joined(clip(update, norm * 1.01)), joined(update))
    assert relative_change(update, clipped) == pytest.approx(6 / 7)


def test_client_dp_is_clip_then_noise():
    update = update_of()
    expected = gaussian_noise(clip(update, 0.3), 0.02 * 0.3, key(), relative=False)
    got = client_dp(update, 0.02, key(), clip_norm=0.3)
    np.testing.assert_array_equal(joined(got), joined(expected))
    assert got.metadata["defence"] == "client_dp(noise_multiplier=0.02, clip_norm=0.3)"


def test_withheld_bias_gradients_are_zero_and_read_as_none():
    for kind in ("gradient", "weights", "delta"):
        update = update_of(kind)
        result = zero_bias(update)
        np.testing.assert_allclose(result.client_tensors[KERNEL], update.client_tensors[KERNEL], rtol=0, atol=1e-14)
        assert result.observation().bias_grad is None
    matrix = {"a.weight": np.ones((2, 2))}
    with pytest.raises(UpdateError, match="no tensor of the update is called bias"):
        zero_bias(Update(matrix, matrix, {"kind": "gradient"}))


@pytest.mark.parametrize("name", [name for name in DEFENCES if name != "zero_bias"])
@pytest.mark.parametrize("kind", ["weights", "delta"])
def test_a_gradient_and_the_change_of_one_step_are_defended_alike(name, kind):
    expected, got = (defended(name, update_of(k)).observation("dense_1") for k in ("gradient", kind))
    np.testing.assert_allclose(got.weight_grad, expected.weight_grad, rtol=0, atol=1e-13)
    np.testing.assert_allclose(got.bias_grad, expected.bias_grad, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "strength"), [("gaussian_noise", 0.1), ("top_k", 0.2), ("int8", None), ("random_mask", 0.2)]
)
def test_relative_defences_do_not_depend_on_the_learning_rate(name, strength):
    expected, got = (
        by_name(name)(update, strength, key()).observation() for update in (update_of(), update_of("delta", lr=0.03))
    )
    np.testing.assert_allclose(got.weight_grad, expected.weight_grad, rtol=0, atol=1e-12)


def test_weights_themselves_are_not_what_is_defended():
    update = update_of("weights")
    pruned = top_k(update, 0.1)
    unchanged = pruned.client_tensors[KERNEL] == update.global_tensors[KERNEL]
    assert unchanged.mean() == pytest.approx(0.9)


@pytest.mark.parametrize("dtype", [np.float16, bfloat16])
@pytest.mark.parametrize("name", DEFENCES)
def test_half_precision_comes_back_as_such(name, dtype):
    generator = np.random.default_rng(0)
    half = {n: generator.normal(size=shape).astype(dtype) for n, shape in SHAPES.items()}
    result = defended(name, Update(half, half, {"kind": "delta"}))
    assert {tensor.dtype for tensor in result.client_tensors.values()} == {np.dtype(dtype)}


def test_counters_and_the_input_are_left_alone():
    extra = {"norm.count": np.array(7, np.int64), "scale": np.array(2.0), "none": np.zeros((0, 3))}
    update = Update(normals(0) | extra, normals(1) | extra, {"kind": "weights"})
    before = dataclasses.replace(update, client_tensors={n: t.copy() for n, t in update.client_tensors.items()}).sha256
    for name in DEFENCES:
        result = defended(name, update)
        assert result.client_tensors["norm.count"] == 7
        assert {n: t.shape for n, t in result.client_tensors.items()} == {
            n: t.shape for n, t in update.client_tensors.items()
        }
    assert update.sha256 == before


@pytest.mark.parametrize("name", DEFENCES)
def test_metadata_say_what_was_done_and_survive_the_file(name, tmp_path):
    once = defended(name, update_of())
    twice = clip(once, 0.5)
    assert once.metadata["defence"].split("(")[0] == name
    assert twice.metadata["defence"] == f"{once.metadata['defence']}; clip(norm=0.5)"
    save_update(twice, tmp_path / "u.npz")
    loaded = load_update(tmp_path / "u.npz")
    assert loaded.metadata["defence"] == twice.metadata["defence"]
    assert loaded.kind == "gradient"


@pytest.mark.parametrize("name", DEFENCES)
def test_grids_run_from_harmless_to_deadly(name):
    update = update_of()
    changes = [relative_change(update, by_name(name)(update, strength, key())) for strength in by_name(name).grid]
    assert changes == sorted(changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda u: by_name("noise"), "no defence 'noise'; choose one of gaussian_noise, "),
        (lambda u: by_name("top_k")(u, None, key()), "top_k needs a strength, share: share in"),
        (lambda u: by_name("int8")(u, 8.0, key()), "int8 takes no strength but got 8.0"),
        (lambda u: gaussian_noise(u, -1.0, key()), r"std is -1.0; expected a number >= 0"),
        (lambda u: gaussian_noise(u, math.nan, key()), "std is nan"),
        (lambda u: gaussian_noise(u, 1e308, key()), r"gaussian_noise\(relative=1e\+308\) gives .* beyond floating"),
        (lambda u: top_k(u, 0.0), r"share is 0.0; expected a number in \(0, 1\]"),
        (lambda u: top_k(u, 1.5), "share is 1.5"),
        (lambda u: random_mask(u, 1.0, key()), r"probability is 1.0; expected a number in \[0, 1\)"),
        (lambda u: quantize(u, "int4"), "dtype is 'int4'; expected one of float16, bfloat16, int8"),
        (lambda u: clip(u, 0.0), "norm is 0.0; expected a positive number"),
        (lambda u: client_dp(u, -1.0, key()), "noise_multiplier is -1.0"),
        (lambda u: client_dp(u, 1.0, key(), clip_norm=math.inf), "clip_norm is inf"),
        (lambda u: quantize(clip(scaled(u, 1e9), 1e9), "float16"), "float16 gives dense_0.bias values beyond"),
        (lambda u: clip(scaled(u, math.nan), 1.0), "dense_0.bias holds NaN or infinite values"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_one_sentence(call, message):
    with pytest.raises(UpdateError, match=message) as caught:
        call(update_of())
    assert "\n" not in str(caught.value)


def scaled(update, factor):
    return dataclasses.replace(update, client_tensors={n: t * factor for n, t in update.client_tensors.items()})
