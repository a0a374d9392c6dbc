"""Scores against hand-worked numbers and scikit-image, invariance to order, and reconstructions that must fail."""

import itertools
import json

import jaxtyping
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from spear_jax.client.evaluate import IDENTICAL_PSNR, evaluate


class Standardized:
    """(pixel - 0.45) / 0.25."""

    def apply(self, pixels):
        return (pixels - 0.45) / 0.25

    def invert(self, images):
        return images * 0.25 + 0.45


@pytest.fixture
def unchecked_shapes():
    """What a user sees: the suite's own check of shapes in annotations would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def photo_batch(num_images=4, size=24):
    photo = data.astronaut()
    images = np.stack([photo[i * 40 : i * 40 + size, i * 60 : i * 60 + size] for i in range(num_images)])
    return images, Standardized().apply(images / 255.0).reshape(num_images, -1)


def test_a_permuted_truth_is_identical_and_the_assignment_is_the_inverse_permutation():
    truth = np.random.default_rng(0).normal(size=(6, 30))
    order = np.array([3, 0, 5, 1, 4, 2])
    evaluation = evaluate(truth[order], truth)
    np.testing.assert_array_equal(order[evaluation.assignment], np.arange(6))
    assert np.isposinf(evaluation.psnr).all()
    assert evaluation.num_recovered == evaluation.num_matched == evaluation.num_samples == 6


def test_scores_do_not_depend_on_the_order_of_the_reconstruction():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(7, 40))
    found = truth + rng.normal(size=truth.shape) * 10.0 ** -np.arange(7)[:, None]
    straight, shuffled = evaluate(found, truth), evaluate(found[rng.permutation(7)], truth)
    np.testing.assert_allclose(shuffled.psnr, straight.psnr, rtol=1e-12)
    np.testing.assert_allclose(shuffled.max_error, straight.max_error, rtol=1e-12)


@pytest.mark.parametrize(("num_found", "num_true"), [(4, 4), (3, 5), (5, 3)])
def test_matching_has_the_greatest_total_psnr_of_all_matchings(num_found, num_true):
    rng = np.random.default_rng(num_found)
    found, truth = rng.normal(size=(num_found, 3)), rng.normal(size=(num_true, 3))
    distance = np.log(((found[:, None] - truth[None]) ** 2).sum(axis=2))
    size = min(num_found, num_true)
    best = min(
        sum(distance[i, j] for i, j in zip(chosen, columns, strict=True))
        for chosen in itertools.permutations(range(num_found), size)
        for columns in itertools.combinations(range(num_true), size)
    )
    assignment = evaluate(found, truth).assignment
    partners = [(i, j) for j, i in enumerate(assignment) if i >= 0]
    assert len(partners) == len({i for i, _ in partners}) == size
    assert sum(distance[pair] for pair in partners) == pytest.approx(best, rel=1e-12)


def test_a_large_wrong_reconstruction_displaces_no_exact_one():
    truth = np.random.default_rng(10).normal(size=(6, 40)) + 3
    found = np.vstack([truth[1:], 100 * truth[3:4] + truth[0]])
    squared = ((found[:, None] - truth[None]) ** 2).sum(axis=2)
    assert linear_sum_assignment(squared)[1].tolist() != [1, 2, 3, 4, 5, 0]  # what plain squared error would do
    assert evaluate(found, truth).assignment.tolist() == [5, 0, 1, 2, 3, 4]


def test_psnr_of_a_hand_worked_case_uses_the_range_of_the_truth():
    truth = np.array([[0.0, 4.0], [8.0, 10.0]])
    found = np.array([[8.0, 9.0], [0.1, 4.1]])
    evaluation = evaluate(found, truth)
    assert evaluation.peak == 10.0
    assert evaluation.assignment.tolist() == [1, 0]
    # mse 0.01 and 0.5: 10 log10(100 / 0.01) = 40 and 10 log10(200) = 23.0103.
    np.testing.assert_allclose(evaluation.psnr, [40.0, 23.010299957], rtol=1e-9)
    np.testing.assert_allclose(evaluation.max_error, [0.1, 1.0], rtol=1e-12)
    assert not evaluation.recovered.any()


def test_the_recovery_threshold_is_ninety_decibels():
    truth = np.array([[0.0, 1.0], [0.0, 1.0]]) + np.array([[0.0], [0.5]])
    rmse = 1.5 * 10 ** (-90 / 20)
    evaluation = evaluate(truth + np.array([[0.999], [1.001]]) * rmse, truth)
    assert evaluation.recovered.tolist() == [True, False]


def test_image_scores_equal_scikit_image_on_pixels():
    images, truth = photo_batch()
    found = truth + np.random.default_rng(2).normal(size=truth.shape) * 0.05
    evaluation = evaluate(found[::-1], truth, normalization=Standardized(), images=images)
    assert evaluation.peak == 1.0
    for i, image in enumerate(images):
        pixels = Standardized().invert(found[i]).reshape(image.shape)
        assert evaluation.psnr[i] == pytest.approx(peak_signal_noise_ratio(image / 255, pixels, data_range=1))
        clipped = np.clip(pixels, 0, 1)
        expected = structural_similarity(image / 255, clipped, channel_axis=-1, data_range=1)
        assert evaluation.ssim[i] == pytest.approx(expected)
        assert evaluation.max_error[i] == pytest.approx(np.abs(pixels - image / 255).max())


def test_pixel_exact_allows_less_than_half_a_gray_level_and_no_more():
    images, truth = photo_batch(3)
    levels = np.array([0.4, -0.4, 0.6])[:, None]
    levels = levels * (np.arange(truth.shape[1]) == 700)  # one value of one pixel
    evaluation = evaluate(truth + levels / 255 / 0.25, truth, normalization=Standardized(), images=images)
    assert 0 < images.reshape(3, -1)[2, 700] < 255
    assert evaluation.pixel_exact.tolist() == [True, True, False]
    assert evaluation.num_pixel_exact == 2


def test_without_originals_or_without_images_the_image_scores_are_none():
    images, truth = photo_batch(2)
    with_shape = evaluate(truth, truth, normalization=Standardized(), image_shape=(24, 24, 3))
    assert with_shape.pixel_exact is None
    np.testing.assert_allclose(with_shape.ssim, 1.0)
    plain = evaluate(truth, truth)
    assert plain.ssim is None
    assert plain.num_pixel_exact is None


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_small_images_are_scored_with_a_window_that_fits(size):
    truth = np.random.default_rng(3).normal(size=(2, size * size))
    evaluation = evaluate(truth, truth, normalization=Standardized(), image_shape=(size, size, 1))
    assert (evaluation.ssim is None) == (size < 3)


def test_rows_that_are_not_finite_are_never_matched():
    truth = np.random.default_rng(4).normal(size=(3, 5))
    found = np.vstack([truth, np.zeros((1, 5))])
    found[0, 2], found[1, 0], found[3, 4] = np.nan, 1e200, -np.inf
    evaluation = evaluate(found, truth)
    assert evaluation.assignment.tolist() == [-1, -1, 2]
    assert np.isnan(evaluation.psnr).tolist() == [True, True, False]
    assert evaluation.recovered.tolist() == [False, False, True]


@pytest.mark.parametrize("num_found", [0, 2])
def test_a_reconstruction_of_which_nothing_is_usable_scores_nothing(num_found):
    images, truth = photo_batch(2)
    found = np.full((num_found, truth.shape[1]), np.nan)
    evaluation = evaluate(
        found, truth, normalization=Standardized(), images=images, certified=np.ones(num_found, dtype=bool)
    )
    assert evaluation.num_matched == evaluation.num_recovered == evaluation.num_pixel_exact == 0
    assert evaluation.false_certificates == num_found
    json.dumps(evaluation.to_json(), allow_nan=False)


def test_a_wrong_reconstruction_is_not_recovered():
    images, truth = photo_batch()
    mixed = truth @ np.eye(truth.shape[1]) * 0.5 + 0.5 * truth[[1, 2, 3, 0]]
    evaluation = evaluate(mixed, truth, normalization=Standardized(), images=images)
    assert evaluation.num_recovered == evaluation.num_pixel_exact == 0
    assert evaluation.psnr.max() < 60


def test_false_certificates_are_counted_against_the_truth():
    rng = np.random.default_rng(5)
    truth = rng.normal(size=(5, 50))
    found = np.vstack([truth[:3], rng.normal(size=(2, 50))])
    certified = np.array([True, True, False, True, False])
    assert evaluate(found, truth, certified=certified).false_certificates == 1
    assert evaluate(found, truth, certified=np.ones(5, dtype=bool)).false_certificates == 2
    assert evaluate(truth, truth, certified=np.ones(5, dtype=bool)).false_certificates == 0
    assert evaluate(found, truth).false_certificates is None


def test_a_second_copy_of_a_sample_is_a_false_certificate():
    truth = np.random.default_rng(6).normal(size=(4, 50))
    found = truth[[0, 1, 2, 2]]
    assert evaluate(found, truth, certified=np.ones(4, dtype=bool)).false_certificates == 1


def test_a_certificate_is_true_within_a_thousandth_of_the_rms():
    truth = np.random.default_rng(7).normal(size=(2, 400))
    scale = np.sqrt(np.mean(truth**2))
    found = truth + scale * np.array([[0.9e-3], [1.1e-3]])
    evaluation = evaluate(found, truth, certified=np.ones(2, dtype=bool))
    assert not evaluation.recovered.any()
    assert evaluation.false_certificates == 1


def test_json_holds_neither_nan_nor_infinity_and_keeps_the_counts():
    truth = np.random.default_rng(8).normal(size=(3, 5))
    found = np.array([truth[0], truth[1] + 1e-9])
    record = json.loads(json.dumps(evaluate(found, truth).to_json(), allow_nan=False))
    assert record["psnr"][0] == IDENTICAL_PSNR
    assert 90 < record["psnr"][1] < IDENTICAL_PSNR
    assert record["psnr"][2] is None
    assert (record["num_recovered"], record["num_samples"]) == (2, 3)
    assert record["summary"].startswith("2 of 3 samples recovered")


def test_float32_and_jax_arrays_are_accepted():
    jnp = pytest.importorskip("jax.numpy")
    truth = np.random.default_rng(9).normal(size=(3, 20)).astype(np.float32)
    assert evaluate(jnp.asarray(truth)[::-1], truth).assignment.tolist() == [2, 1, 0]


def test_a_constant_truth_has_a_psnr():
    assert np.isfinite(evaluate(np.full((1, 4), 2.1), np.full((1, 4), 2.0)).psnr).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reconstructed": np.zeros((2, 5))}, "same n"),
        ({"true_inputs": np.full((2, 12), np.nan)}, "nothing to compare"),
        ({"image_shape": (2, 2, 3)}, "pass both or neither"),
        ({"normalization": Standardized()}, "pass both or neither"),
        ({"normalization": Standardized(), "image_shape": (2, 2, 1)}, "holds 4 values"),
        ({"normalization": Standardized(), "images": np.zeros((3, 2, 2, 3), np.uint8)}, "images has shape"),
        ({"certified": np.ones(3, dtype=bool)}, "one flag per reconstruction"),
    ],
)
def test_bad_input_is_said_in_one_sentence(changes, said, unchecked_shapes):
    arguments = {"reconstructed": np.zeros((2, 12)), "true_inputs": np.ones((2, 12))} | changes
    with pytest.raises(ValueError, match=said):
        evaluate(**arguments)
