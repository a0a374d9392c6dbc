"""A batch of real photos without any download: those in scikit-image's wheel, whole and then in crops."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator

import numpy as np
from PIL import Image

from spear_jax.client.batch import Batch, image_batch
from spear_jax.client.images import square_pixels
from spear_jax.errors import DataError
from spear_jax.normalization import Normalization

# The colour photos that a plain install brings; scikit-image would download its others, so its loaders are not asked.
_PHOTOS = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "galaxies": "hubble_deep_field.jpg",
    "motorcycle": "motorcycle_left.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "tissue": "ihc.png",
}
_CROPS_PER_SIDE = range(3, 8)
# Standard deviation (of 255) under which a crop is sky or black border: nothing to see, and no two differ.
_FLAT = 16.0


def demo_batch(
    batch_size: int, image_size: int = 64, *, seed: int = 0, normalization: Normalization | None = None
) -> Batch:
    """Make a batch of distinct colour images: whole photos first, then ever smaller crops of them.

    Args:
        batch_size: b.
        image_size: side in pixels.
        seed: of ``numpy.random.default_rng``; shuffles the photos, and the crops of each size.
        normalization: of the pixels, the ImageNet statistics by default.

    Returns:
        The batch; classes are the photos.

    Raises:
        DataError: more images than can be cut, or scikit-image's data are missing.
    """
    generator = np.random.default_rng(seed)
    photos = _load_photos()
    classes = list(photos)
    chosen: dict[bytes, tuple[str, str]] = {}
    for name, photo, pixels in _views(photos, image_size, generator):
        if len(chosen) == batch_size:
            break
        chosen.setdefault(pixels.tobytes(), (name, photo))
    if not 1 <= batch_size == len(chosen):
        raise DataError(f"the demo has {len(chosen)} distinct images but the batch size is {batch_size}; ask for less.")
    images = np.stack([np.frombuffer(key, np.uint8).reshape(image_size, image_size, 3) for key in chosen])
    return image_batch(
        images,
        np.array([classes.index(photo) for _, photo in chosen.values()]),
        tuple(name for name, _ in chosen.values()),
        normalization=normalization or Normalization.parse("imagenet"),
        num_classes=len(classes),
        class_names=tuple(classes),
    )


def _load_photos() -> dict[str, Image.Image]:
    folder = importlib.resources.files("skimage") / "data"
    photos = {}
    for name, file_name in _PHOTOS.items():
        if (folder / file_name).is_file():
            with (folder / file_name).open("rb") as file, Image.open(file) as image:
                photos[name] = image.convert("RGB")
    if not photos:
        raise DataError("scikit-image was installed without its photos; reinstall it from its wheel, or pass images.")
    return photos


def _views(
    photos: dict[str, Image.Image], image_size: int, generator: np.random.Generator
) -> Iterator[tuple[str, str, np.ndarray]]:
    """``(name, photo, pixels)`` of whole photos, then of grids of crops from coarse to fine."""
    for index in generator.permutation(len(photos)):
        name = list(photos)[index]
        yield name, name, square_pixels(photos[name], image_size)
    number = dict.fromkeys(photos, 0)
    for per_side in _CROPS_PER_SIDE:
        crops = [(name, box) for name, photo in photos.items() for box in _grid(photo, per_side)]
        for index in generator.permutation(len(crops)):
            name, box = crops[index]
            pixels = square_pixels(photos[name], image_size, box)
            if pixels.std(axis=(0, 1)).max() >= _FLAT:
                number[name] += 1
                yield f"{name} crop {number[name]}", name, pixels


def _grid(photo: Image.Image, per_side: int) -> list[tuple[int, int, int, int]]:
    """Squares side by side, ``per_side`` of them along the short side."""
    side = min(photo.size) // per_side
    return [
        (left, upper, left + side, upper + side)
        for upper in range(0, photo.height - side + 1, side)
        for left in range(0, photo.width - side + 1, side)
    ]
