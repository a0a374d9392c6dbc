"""Convolutional networks: their gradient, torchvision's files, feature inversion, and the claim that joins them."""

import json

import numpy as np
import pytest
from scipy.signal import correlate

from experiments.features import feature_inversion, ica

BLOCKS, WIDTH, CLASSES, SIDE = ((4,), (6,)), 48, 5, 16


@pytest.fixture(scope="module")
def network():
    import jax

    from experiments.features import vgg

    model = vgg.VGG(BLOCKS, (WIDTH,), CLASSES, param_dtype="float64")
    return model, vgg.init_params(model, jax.random.key(0), (SIDE, SIDE, 3))


@pytest.fixture(scope="module")
def batch():
    import spear_jax as sj

    loaded = sj.demo_batch(batch_size=4, image_size=SIDE, seed=0)
    return loaded.inputs.reshape(-1, SIDE, SIDE, 3), loaded.labels % CLASSES


def torchvision_tensors(model, params):
    """The state dict that torchvision would save: Sequential numbers written out for two blocks of one convolution."""
    names = {"conv_0": "features.0", "conv_1": "features.3", "fc_0": "classifier.0", "fc_1": "classifier.3"}
    tensors = {}
    for layer, name in names.items():
        kernel = np.asarray(params[layer]["kernel"], np.float32)
        order = (3, 2, 0, 1) if layer.startswith("conv") else (1, 0)
        tensors[f"{name}.weight"] = np.ascontiguousarray(kernel.transpose(order))
        tensors[f"{name}.bias"] = np.asarray(params[layer]["bias"], np.float32)
    return tensors


def torch_like_features(tensors, image):
    """PyTorch's forward pass up to the classifier in NumPy float64; image (C, H, W)."""
    hidden = image.astype(np.float64)
    for name in ("features.0", "features.3"):
        kernel, bias = tensors[f"{name}.weight"].astype(np.float64), tensors[f"{name}.bias"].astype(np.float64)
        padded = np.pad(hidden, ((0, 0), (1, 1), (1, 1)))
        hidden = np.stack([correlate(padded, k, mode="valid")[0] + b for k, b in zip(kernel, bias, strict=True)])
        channels, height, width = hidden.shape
        hidden = np.maximum(hidden, 0).reshape(channels, height // 2, 2, width // 2, 2).max(axis=(2, 4))
    return hidden.reshape(-1)


def with_biases(params, rng):
    """Biases that are not zero, so that a mapping that loses them is seen."""
    return {name: layer | {"bias": rng.normal(size=layer["bias"].shape) / 4} for name, layer in params.items()}


@pytest.mark.slow
def test_observed_gradient_is_the_sum_of_the_samples_outer_products(network, batch):
    import jax

    from experiments.features import vgg

    model, params = network
    images, labels = batch
    update = vgg.client_update(model, params, images, labels)
    one = jax.jit(jax.grad(lambda p, x, y: vgg.loss(model, p, x, y)))
    features = np.asarray(vgg.features(model, params, images))
    # A single sample's bias gradient is its dL/dZ.
    grad_z = np.stack([np.asarray(one(params, images[i : i + 1], labels[i : i + 1])["fc_0"]["bias"]) for i in range(4)])
    expected = np.einsum("bm,bn->mn", grad_z, features) / 4
    np.testing.assert_allclose(update.observation.weight_grad, expected, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(update.observation.bias_grad, grad_z.mean(axis=0), atol=1e-15)
    pre_activation = features @ np.asarray(update.observation.weight).T + np.asarray(update.observation.bias)
    assert (features >= 0).all()
    assert ((grad_z != 0) == (pre_activation > 0)).all()
    shuffled = np.einsum("bm,bn->mn", grad_z, features[::-1]) / 4
    assert not np.allclose(update.observation.weight_grad, shuffled, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_training_lowers_the_loss(network, batch):
    import jax

    from experiments.features import vgg

    model, params = network
    images, labels = map(jax.numpy.asarray, batch)
    trained, losses = vgg.train(model, params, images, labels, jax.random.key(1), steps=30, batch_size=4)
    # With whole batches the first loss is that of the weights as they were.
    assert losses[0] == pytest.approx(float(vgg.loss(model, params, images, labels)))
    assert vgg.loss(model, trained, images, labels) < 0.5 * losses[0]


@pytest.mark.slow
def test_torchvision_file_gives_the_features_that_pytorch_would(network, batch, tmp_path):
    from safetensors.numpy import save_file

    from experiments.features import vgg, weights

    model, params = network
    params = with_biases(params, np.random.default_rng(0))
    tensors = torchvision_tensors(model, params)
    save_file(tensors, tmp_path / "vgg.safetensors")
    read, read_params = weights.read_torchvision(tmp_path / "vgg.safetensors")
    assert (read.blocks, read.widths, read.num_classes) == (BLOCKS, (WIDTH,), CLASSES)
    assert weights.image_side(read, read_params) == SIDE
    images = np.asarray(batch[0], np.float32)
    found = np.asarray(vgg.features(read, read_params, images))
    expected = np.stack([torch_like_features(tensors, image.transpose(2, 0, 1)) for image in images])
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    tensors["features.3.bias"] = tensors["features.3.bias"][::-1].copy()
    wrong = np.stack([torch_like_features(tensors, image.transpose(2, 0, 1)) for image in images])
    assert not np.allclose(found, wrong, atol=1e-2 * np.abs(expected).max())


def test_blocks_are_read_off_the_numbers_of_the_modules():
    from experiments.features.weights import _blocks

    # vgg13 as torchvision numbers it: ten convolutions, pooling after every second one.
    numbers = [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]
    sizes = [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
    params = {f"conv_{i}": {"bias": np.zeros(size)} for i, size in enumerate(sizes)}
    assert _blocks(numbers, params) == ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))


@pytest.mark.parametrize(("extra", "message"), [("features.1.running_mean", "batch normalisation"), (None, "no VGG")])
def test_other_networks_are_refused(network, tmp_path, extra, message):
    from safetensors.numpy import save_file

    from experiments.features import weights

    tensors = torchvision_tensors(*network) | {extra: np.zeros(4, np.float32)} if extra else {"dense": np.zeros(3)}
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=message):
        weights.read_torchvision(tmp_path / "other.safetensors")


def linear_features(rng, side=8):
    """An orthogonal map of the pixels: features whose only preimage is the image."""
    orthogonal = np.linalg.qr(rng.normal(size=(side * side, side * side)))[0].astype(np.float32)
    return lambda pixels: pixels.reshape(len(pixels), -1) @ orthogonal


def test_inversion_finds_the_image_where_it_is_the_only_one():
    import jax

    rng = np.random.default_rng(0)
    features_of = linear_features(rng)
    images = rng.uniform(size=(2, 8, 8, 1)).astype(np.float32)
    options = feature_inversion.Inversion(steps=200, tv_weight=0.0, uses_scale=True)

    def invert(targets):
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer power
            return np.asarray(feature_inversion.invert(features_of, targets, (8, 8, 1), jax.random.key(0), options))

    np.testing.assert_allclose(invert(features_of(images)), images, atol=1e-2)
    assert np.abs(invert(features_of(images[::-1])) - images).mean() > 0.1


def test_cosine_does_not_see_the_scale_and_the_distance_does():
    import jax.numpy as jnp

    rows = jnp.asarray(np.random.default_rng(0).normal(size=(3, 10)))
    assert np.allclose(feature_inversion.mismatch(2 * rows, rows, uses_scale=False), 0)
    assert np.allclose(feature_inversion.mismatch(2 * rows, rows, uses_scale=True), 1)
    assert np.allclose(feature_inversion.cosine(jnp.zeros_like(rows), rows), 0)


def test_total_variation_of_a_step():
    import jax.numpy as jnp

    image = np.zeros((1, 4, 4, 1))
    image[:, 2:] = 1
    assert feature_inversion.total_variation(jnp.asarray(image))[0] == pytest.approx(1 / 3)  # one row of three pairs
    assert feature_inversion.total_variation(jnp.ones((1, 4, 4, 1)))[0] == 0


def test_ica_unmixes_independent_sources_up_to_order_and_scale():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(5, 5))

    def worst_cosine(sources):
        found = ica.unmix(mixing @ sources, np.random.default_rng(1))
        unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return (unit(found) @ unit(sources).T).max(axis=0).min()

    assert worst_cosine(rng.exponential(size=(5, 20_000))) > 0.99
    # Gaussian sources have no third moment to go by.
    assert worst_cosine(rng.normal(size=(5, 20_000))) < 0.95


@pytest.fixture(scope="module")
def outcome(network, tmp_path_factory):
    """One trial of a network from a file on a few of scikit-image's pictures, as its line would be read back."""
    import jax
    from safetensors.numpy import save_file

    import spear_jax as sj
    from experiments.claims import convolutional

    folder = tmp_path_factory.mktemp("data")
    photos = sj.demo_batch(batch_size=4, image_size=SIDE, seed=3)
    np.savez(folder / "photos.npz", images=photos.images, labels=np.arange(4))
    save_file(torchvision_tensors(*network), folder / "vgg.safetensors")
    options = convolutional.Options(
        images="photos.npz", weights=str(folder / "vgg.safetensors"), batch_size=3, method="sampling",
        inverted=1, inversion_steps=20,
    )  # fmt: skip
    setting = options.setting(convolutional.FIRST_SEED)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer power
        line = {"setting": setting} | (convolutional.trial(setting, str(folder)) or {})
    return json.loads(json.dumps(line))


@pytest.mark.slow
def test_a_trial_certifies_the_features_of_a_batch(outcome):
    assert outcome["recovered"] == outcome["certified"] == outcome["samples"] == 3
    assert outcome["false_certificates"] == 0
    assert outcome["images"]["exact"]["target_cosine"][0] == pytest.approx(1, abs=1e-9)
    assert outcome["images"]["noise 0.1"]["target_cosine"][0] == pytest.approx(1 / np.sqrt(1.01), abs=1e-3)


@pytest.mark.slow
def test_a_line_tells_and_draws_all(outcome, tmp_path):
    from experiments.claims import convolutional
    from experiments.features import images

    told = convolutional.CLAIM.findings([outcome])
    assert len(told) == 1
    assert "medians of 1 images" in told[0].measured
    convolutional.draw([outcome], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"convolutional_images.png", "convolutional_quality.png"}
    assert images.decode(outcome["pictures"][0]).shape == (SIDE, (1 + len(images.KINDS)) * SIDE, 3)


def test_a_trial_without_its_data_is_none(tmp_path):
    from experiments.claims import convolutional

    assert convolutional.trial(convolutional.settings(True)[0], str(tmp_path)) is None


def test_quick_settings_are_some_of_all():
    from experiments.claims import convolutional

    every = [json.dumps(setting, sort_keys=True) for setting in convolutional.settings(False)]
    assert all(json.dumps(setting, sort_keys=True) in every for setting in convolutional.settings(True))
    assert len(set(every)) == len(every)


@pytest.mark.slow
def test_a_feature_layer_with_the_wrong_kernel_certifies_nothing(network, batch):
    import jax

    import spear_jax as sj
    from experiments.features import vgg

    model, params = network
    observation = vgg.client_update(model, params, *batch).observation
    other = np.random.default_rng(0).permutation(np.asarray(observation.weight))
    wrong = sj.LayerObservation(
        weight=other, bias=observation.bias, weight_grad=observation.weight_grad, bias_grad=observation.bias_grad
    )
    config = sj.ReconstructConfig(method="sampling", max_candidates=2**12)
    assert not sj.reconstruct(wrong, jax.random.key(0), config).certificate.exact.any()
    assert sj.reconstruct(observation, jax.random.key(0), config).certificate.exact.any()
