"""Convolutional networks: exact features from the first fully connected layer, then images by feature inversion.

Claim: SPEAR gives the exact inputs of the first FC layer of a VGG, the features of every image of the batch; inverting
these gives better images than inverting the approximate features of the Cocktail Party Attack (SPEAR's VGG16 table:
facts "S" for its rows and their order; remembered, "M-lo", feature similarity 0.984 against 0.939 and LPIPS 0.362
against 0.388, so no figure is a target here). Expected: all features of b = 4 to 32 exact and certified, none false;
none for the images of these small networks, whose weights are random (torchvision's initialisation) or trained on
CIFAR-10. The server holds the whole update. Each line has the features recovered (90 dB) and certified and, where
images were inverted, for each kind of feature the PSNR and SSIM of the image and the cosine of its feature to the true
one (`features.images`); the first seed's lines hold the images.

Hardware: two CPU cores. Time: an hour and a half beside other work, about 20 CPU seconds a trial; quick 50 CPU seconds.

    python -m experiments.claims.convolutional --data DIR
    python -m experiments.features.pretrained --weights vgg16.safetensors --data DIR     # torchvision's VGG16: a GPU
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import spear_jax as sj
from experiments.features import images, vgg, weights
from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting

FIRST_SEED, SEEDS = 700, 3
# Images of one seed: the private ones are the first, the training ones come after the largest batch.
LARGEST_BATCH, TRAIN_IMAGES = 64, 700
NETWORKS = ("16 M 32 M", "32 M 64 M", "64 M 128 M", "32 32 M 64 64 M")
TRAIN_STEPS = (0, 200)


class Options(NamedTuple):
    """What one trial is; a setting names what differs from these, and its seed.

    Attributes:
        images: file or folder of the data pack.
        channels: of the convolutions, ``M`` ends a block with max pooling (VGG's own notation).
        batch_size, width: b and m.
        train_steps: SGD steps on other images before the gradient.
        dtype: of the client.
        inverted: images of the batch whose features are inverted.
        inversion_steps: of Adam.
        method, max_seconds: of the search.
        weights: safetensors file of a pretrained network, in place of channels, width and training.
    """

    images: str = "cifar10.npz"
    channels: str = "32 M 64 M"
    batch_size: int = 8
    width: int = 512
    train_steps: int = 0
    dtype: str = "float32"
    inverted: int = 0
    inversion_steps: int = 500
    method: str = "auto"
    max_seconds: float = 400.0
    weights: str | None = None

    def setting(self, seed: int) -> Setting:
        """The trial of one seed."""
        defaults = Options()._asdict()
        return {name: value for name, value in self._asdict().items() if value != defaults[name]} | {"seed": seed}


def settings(is_quick: bool) -> list[Setting]:
    """Batches of features, and images of four networks; a quick run has the images of one network."""
    if is_quick:
        return [Options(train_steps=steps, inverted=3).setting(FIRST_SEED) for steps in TRAIN_STEPS]
    batches = [
        Options(batch_size=b, width=width, train_steps=steps, dtype=dtype)
        for steps in TRAIN_STEPS
        for width, dtype in ((512, "float32"), (1024, "float64"))
        for b in (4, 8, 16, 32)
    ]
    sampled = [Options(batch_size=b, train_steps=steps, method="sampling") for steps in TRAIN_STEPS for b in (4, 8, 16)]
    shown = [
        Options(channels=channels, train_steps=steps, inverted=3) for channels in NETWORKS for steps in TRAIN_STEPS
    ]
    long = [Options(train_steps=steps, inverted=3, inversion_steps=2000) for steps in TRAIN_STEPS]
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
    return [options.setting(seed) for seed in seeds for options in (*batches, *sampled, *shown, *long)]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch: gradient, features, and images of some of them."""
    seed = setting["seed"]
    options = Options(**{name: value for name, value in setting.items() if name != "seed"})
    path = common.find_data(options.images, data)
    if path is None:
        return None
    model, params, batch = _client(options, path, seed)
    inputs = jnp.asarray(batch.inputs.reshape(_pixels(batch).shape), options.dtype)
    update = vgg.client_update(model, params, inputs, batch.labels)
    truth = np.asarray(vgg.features(model, params, inputs), np.float64)
    config = sj.ReconstructConfig(
        method=options.method, num_examples=batch.size, max_seconds=options.max_seconds, max_candidates=2**24
    )
    started = time.perf_counter()
    result = sj.reconstruct(
        update.observation, jax.random.key(seed), config,
        model=update.layers_above, next_weight_grad=update.next_weight_grad,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    scores = sj.evaluate(result.inputs, truth, certified=result.certificate.exact)
    outcome = _features(update.observation, truth, result, scores) | {
        "compile_seconds": result.stats.seconds["compile"],
        "run_seconds": seconds - result.stats.seconds["compile"],
        "pixels": batch.inputs.shape[1],
    }
    # The first samples whose features are certified; without any there is nothing to invert.
    samples = np.flatnonzero((scores.assignment >= 0) & result.certificate.exact[scores.assignment])[: options.inverted]
    if not len(samples):
        return outcome
    started = time.perf_counter()
    found, columns = images.compare(
        _features_of_pixels(model, params, batch.normalization),
        _pixels(batch)[samples] / 255, truth[samples], np.asarray(result.inputs)[scores.assignment[samples]],
        np.asarray(sj.factorize(update.observation.weight_grad).right), seed, options.inversion_steps,
    )  # fmt: skip
    pictures = {"pictures": [images.encode(columns)]} if seed == FIRST_SEED else {}
    return outcome | {"inversion_seconds": time.perf_counter() - started, "images": found} | pictures


def _pixels(batch: sj.Batch) -> np.ndarray:
    if batch.images is None:
        raise ValueError("a convolutional network takes images, not a table.")
    return batch.images


def _client(options: Options, path: Path, seed: int) -> tuple[vgg.VGG, Any, sj.Batch]:
    """The network in the client's dtype, its parameters and the private batch."""
    if options.weights:
        model, params = weights.read_torchvision(Path(options.weights))
        side = weights.image_side(model, params)
        batch = sj.load_batch(path, batch_size=options.batch_size, image_size=side, seed=seed)
    else:
        model, params = _network(options.channels, options.width, options.train_steps, path, seed)
        batch = sj.load_batch(path, batch_size=options.batch_size, seed=seed)
    model = model.clone(param_dtype=options.dtype)
    return model, jax.tree.map(lambda leaf: jnp.asarray(leaf, options.dtype), params), batch


@functools.lru_cache(maxsize=2)
def _network(channels: str, width: int, train_steps: int, path: Path, seed: int) -> tuple[vgg.VGG, Any]:
    """A float32 network, trained where that is asked for on images that no batch of this seed holds."""
    blocks = tuple(tuple(int(word) for word in block.split()) for block in channels.split("M")[:-1])
    loaded = sj.load_batch(path, batch_size=LARGEST_BATCH + TRAIN_IMAGES if train_steps else 1, seed=seed)
    model = vgg.VGG(blocks, (width,), loaded.num_classes)
    init_key, train_key = jax.random.split(jax.random.key(seed))
    params = vgg.init_params(model, init_key, _pixels(loaded).shape[1:])
    if train_steps:
        inputs = jnp.asarray(loaded.inputs.reshape(_pixels(loaded).shape)[LARGEST_BATCH:], jnp.float32)
        labels = jnp.asarray(loaded.labels[LARGEST_BATCH:])
        params, _ = vgg.train(model, params, inputs, labels, train_key, steps=train_steps)
    return model, params


def _features(
    observation: sj.LayerObservation, truth: np.ndarray, result: sj.Result, scores: sj.Evaluation
) -> dict[str, Any]:
    """What became of the features, and how the layer fires, which decides how hard they are to find."""
    partners = scores.assignment[scores.assignment >= 0]
    matched = truth[scores.assignment >= 0]
    errors = np.linalg.norm(result.inputs[partners] - matched, axis=1) / np.linalg.norm(matched, axis=1)
    positive = np.asarray(observation.weight) @ truth.T + np.asarray(observation.bias)[:, None] > 0
    return {
        "samples": len(truth), "rank": result.batch_size, "status": result.status.name, "method": result.stats.method,
        "recovered": scores.num_recovered, "certified": int(result.certificate.exact.sum()),
        "false_certificates": scores.false_certificates,
        "largest_error": float(errors.max()) if len(errors) else None,
        "features": truth.shape[1], "active_features": float(np.count_nonzero(truth, axis=1).mean()),
        "neurons_of_none": float(np.mean(~positive.any(axis=1))),
        "neurons_of_all": float(np.mean(positive.all(axis=1))),
    }  # fmt: skip


def _features_of_pixels(model: vgg.VGG, params: Any, normalization: Any) -> Callable[[jax.Array], jax.Array]:
    """Pixels in [0, 1] to features, in float32."""
    model = model.clone(param_dtype="float32")
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    mean, std = (jnp.asarray(value, jnp.float32)[None, None, None] for value in (normalization.mean, normalization.std))
    return lambda pixels: vgg.features(model, params, (pixels - mean) / std)


def findings(lines: list[Line]) -> list[Finding]:
    """Features of random and trained networks, then the images of each network."""
    rows = []
    groups: dict[Options, list[Line]] = {}
    for line in claims.of(lines):
        options = _options(line)
        group = options._replace(batch_size=0, dtype="") if not options.inverted else options
        groups.setdefault(group, []).append(line)
    for group, mine in groups.items():
        network = f"{group.weights or group.channels}, {_training(group)}"
        if not group.inverted:
            claim = f"features of a CNN ({network}, m = {group.width}, method {group.method})"
            rows.append(Finding(claim, "all exact and certified, none false", _told_features(mine), mine))
        else:
            claim = f"images from features ({network}, {group.inversion_steps} steps)"
            rows.append(Finding(claim, "exact better than ICA (SPEAR, VGG16 table)", _told_images(mine), mine))
    return rows


def _options(line: Line) -> Options:
    return Options(**{name: value for name, value in line["setting"].items() if name != "seed"})


def _training(options: Options) -> str:
    if options.weights:
        return "pretrained"
    return f"after {options.train_steps} steps" if options.train_steps else "random weights"


def _told_features(lines: list[Line]) -> str:
    parts = []
    for b in sorted({_options(line).batch_size for line in lines}):
        same = [line for line in lines if _options(line).batch_size == b]
        exact, certified, samples = (sum(line[name] for line in same) for name in ("recovered", "certified", "samples"))
        seconds = np.median([line["run_seconds"] for line in same])
        parts.append(f"b = {b}: {exact} of {samples} exact, {certified} certified, {seconds:.1f} s")
    return "; ".join(parts) + f"; {sum(line['false_certificates'] for line in lines)} false"


def _told_images(lines: list[Line]) -> str:
    lines = [line for line in lines if "images" in line]
    if not lines:
        return "no certified feature to invert"
    parts = [
        f"{name}: {_median(lines, name, 'psnr'):.1f} dB, SSIM {_median(lines, name, 'ssim'):.2f}, correlation "
        f"{_median(lines, name, 'correlation'):.2f}, feature cosine {_median(lines, name, 'feature_cosine'):.4f}"
        for name in images.NAMES
    ]
    counted = sum(len(line["images"]["exact"]["psnr"]) for line in lines)
    return f"medians of {counted} images: " + "; ".join(parts)


def _median(lines: list[Line], name: str, score: str) -> float:
    return float(np.median([value for line in lines for value in line["images"][name][score]]))


def draw(lines: list[Line], folder: Path) -> None:
    """The images of the first seed, and their quality over how many features each network's images activate."""
    shown = [line for line in claims.of(lines) if "images" in line]
    if shown:
        _draw_quality(shown, folder / "convolutional_quality.png")
    if pictured := [line for line in shown if "pictures" in line]:
        order = lambda line: (_options(line).inversion_steps, _options(line).channels, _options(line).train_steps)
        _draw_pictures(sorted(pictured, key=order), folder / "convolutional_images.png")


def _draw_pictures(lines: list[Line], path: Path) -> None:
    rows = -(-len(lines) // 2)
    figure = Figure(figsize=(12, 3.1 * rows), layout="constrained")
    titles = ("original", *images.NAMES)
    for axes, line in zip(figure.subplots(rows, 2, squeeze=False).flat, lines, strict=False):
        grid, options = images.decode(line["pictures"][0]), _options(line)
        step = grid.shape[1] / len(titles)
        axes.imshow(grid, interpolation="nearest")
        axes.set_xticks([step * (i + 0.5) for i in range(len(titles))], titles, fontsize=7)
        axes.set_yticks([])
        axes.set_title(f"{options.channels}, {_training(options)}, {options.inversion_steps} steps", fontsize=9)
    figure.savefig(path, dpi=110)


def _draw_quality(lines: list[Line], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (score, label) in zip(figure.subplots(1, 2), (("psnr", "PSNR, dB"), ("ssim", "SSIM")), strict=True):
        for number, name in enumerate(images.NAMES):
            points = [
                (line["active_features"] / line["pixels"], np.median(line["images"][name][score])) for line in lines
            ]
            axes.plot(*zip(*points, strict=True), "o^sxD"[number], label=name)
        axes.axvline(1, color="0.8", zorder=0)
        axes.set_xlabel("active features per pixel value")
        axes.set_ylabel(f"{label}, median of a batch's images")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


CLAIM = Claim("convolutional", settings, trial, findings, draw)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
