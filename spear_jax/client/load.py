"""The door to private inputs of a simulation: any path to one normalized batch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from spear_jax.client.batch import Batch as Batch
from spear_jax.client.batch import Column as Column
from spear_jax.client.batch import draw, image_batch
from spear_jax.client.demo import demo_batch as demo_batch
from spear_jax.client.images import open_images
from spear_jax.client.tables import decode_rows as decode_rows
from spear_jax.client.tables import load_table as load_table
from spear_jax.errors import DataError as DataError
from spear_jax.normalization import Normalization as Normalization

_TABLES = (".csv", ".tsv")
_DEFAULT_NORMALIZATION = {1: "mnist", 3: "imagenet"}


def load_batch(
    path: str | os.PathLike[str],
    *,
    batch_size: int,
    image_size: int | None = None,
    seed: int = 0,
    normalization: Normalization | None = None,
    num_classes: int | None = None,
    label_column: str | int | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Batch:
    """Read a batch from ``path``: a ``.csv`` or ``.tsv`` file by `load_table`, all else by `load_images`.

    Args:
        path: file or folder.
        batch_size: b.
        image_size: as for `load_images`; tables take none.
        seed: of ``numpy.random.default_rng``.
        normalization: as for `load_images`; tables take none.
        num_classes: as for `load_images`.
        label_column: as for `load_table`; images take none.
        kinds: likewise.

    Raises:
        DataError: as for these two, and an option that does not go with the data.
    """
    if Path(path).suffix.lower() not in _TABLES:
        for name, value in (("label_column", label_column), ("columns", kinds)):
            if value is not None:
                raise DataError(f"{name} goes with a table, but {path} is not a .csv or .tsv; leave it out.")
        return load_images(
            path,
            batch_size=batch_size,
            image_size=image_size,
            seed=seed,
            normalization=normalization,
            num_classes=num_classes,
        )
    for name, value in (("image_size", image_size), ("normalization", normalization), ("num_classes", num_classes)):
        if value is not None:
            raise DataError(f"{name} goes with images, but {path} is a table; leave it out.")
    return load_table(path, batch_size=batch_size, seed=seed, label_column=label_column, kinds=kinds)


def load_images(
    path: str | os.PathLike[str],
    *,
    batch_size: int,
    image_size: int | None = None,
    seed: int = 0,
    normalization: Normalization | None = None,
    num_classes: int | None = None,
) -> Batch:
    """Draws images without replacement.

    Args:
        path: a folder of images in any format Pillow opens, MNIST idx data (folder or images file, ``.gz`` too), a
            CIFAR-10 ``.bin``, or an ``.npz`` with ``images`` and ``labels``. Classes of a folder are its subfolders,
            else numbers that start the file names, else every image is its own.
        batch_size: b.
        image_size: side that the centre square of every image is resized to, bicubic; None keeps the size.
        seed: of ``numpy.random.default_rng``.
        normalization: of the pixels; by default the ImageNet statistics for three channels, MNIST's for one.
        num_classes: by default the largest label of the data set plus one, or the number of class names.

    Raises:
        DataError: nothing readable there, too few images, statistics for another number of channels.
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size is {image_size}; expected a positive number of pixels.")
    images = open_images(Path(path), image_size)
    index = draw(len(images.labels), batch_size, seed, f"{path} has {len(images.labels)} images")
    pixels = images.decode(index)
    found_classes = max(int(images.labels.max()) + 1, len(images.class_names))
    if num_classes is not None and num_classes < found_classes:
        raise DataError(
            f"num_classes is {num_classes} but {path} has {found_classes} classes; pass at least that, or nothing."
        )
    return image_batch(
        pixels,
        images.labels[index],
        tuple(images.names[i] for i in index),
        normalization=normalization or Normalization.parse(_DEFAULT_NORMALIZATION[pixels.shape[-1]]),
        num_classes=num_classes or found_classes,
        class_names=images.class_names,
    )
