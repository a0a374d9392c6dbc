"""A private batch as a simulated client holds it, and the error its readers raise."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int, UInt8

from spear_jax.errors import DataError
from spear_jax.normalization import Normalization


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table and the inputs that encode it.

    Attributes:
        name: from the header, or ``column_3``.
        kind: ``"numeric"`` or ``"categorical"``.
        start: first input that belongs to it.
        categories: values in the order of their one-hot inputs; empty for a numeric column, which has one input.
        mean: of a numeric column over the whole table (0 when not standardized).
        std: likewise (1 when not standardized).
    """

    name: str
    kind: str
    start: int
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def size(self) -> int:
        """Number of inputs that encode the column."""
        return len(self.categories) or 1


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """A private batch of b samples, with their labels and how their inputs were made.

    Attributes:
        inputs: (b, n) float64 as the model takes them: normalized pixels in C order from (H, W, C), or encoded rows.
        labels: (b,) int64 classes.
        images: (b, H, W, C) uint8 pixels, None for a table.
        names: what to call each sample.
        normalization: of the pixels, None for a table.
        image_shape: (H, W, C), None for a table.
        num_classes: classes in the whole data set, not only in this batch.
        columns: how the inputs encode a table's columns, empty for images.
        class_names: names of the classes in label order, empty where they have none.
        contents: what the columns of a table were read as, in a sentence; empty for images.
    """

    inputs: Float[np.ndarray, "b n"]
    labels: Int[np.ndarray, " b"]
    images: UInt8[np.ndarray, "b h w c"] | None
    names: tuple[str, ...]
    normalization: Normalization | None
    image_shape: tuple[int, int, int] | None
    num_classes: int
    columns: tuple[Column, ...] = ()
    class_names: tuple[str, ...] = ()
    contents: str = ""

    @property
    def size(self) -> int:
        """b, the number of samples."""
        return len(self.inputs)


def image_batch(
    images: UInt8[np.ndarray, "b h w c"],
    labels: Int[np.ndarray, " b"],
    names: tuple[str, ...],
    *,
    normalization: Normalization,
    num_classes: int,
    class_names: tuple[str, ...] = (),
) -> Batch:
    """A batch of images; pixels are divided by 255, normalized and flattened in C order.

    Raises:
        DataError: the normalization has statistics for another number of channels.
    """
    try:
        normalized = normalization.apply(images.astype(np.float64) / 255.0)
    except ValueError as error:
        raise DataError(str(error)) from error
    return Batch(
        inputs=normalized.reshape(len(images), -1),
        labels=labels.astype(np.int64),
        images=images,
        names=names,
        normalization=normalization,
        image_shape=images.shape[1:],
        num_classes=num_classes,
        class_names=class_names,
    )


def draw(available: int, batch_size: int, seed: int, what: str) -> Int[np.ndarray, " b"]:
    """Indices of a batch drawn without replacement by ``numpy.random.default_rng(seed)``.

    Args:
        available: number of samples there are.
        batch_size: b, how many to draw.
        seed: of the generator.
        what: the beginning of the sentence when there are too few, such as ``photos has 12 images``.

    Raises:
        DataError: fewer than one or more than there are.
    """
    if not 1 <= batch_size <= available:
        raise DataError(f"{what} but the batch size is {batch_size}; expected 1 to {available}.")
    return np.random.default_rng(seed).permutation(available)[:batch_size]
