"""Image data sets as they lie on disk: folders, MNIST idx files, CIFAR-10 binary batches and npz.

A reader returns an `ImageSet`: labels and names of everything there is, and a function that decodes the few samples
that are drawn. Every problem is a `DataError`.
"""

from __future__ import annotations

import dataclasses
import gzip
import math
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from spear_jax import tensor_files
from spear_jax.errors import DataError

_COMMON = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_IDX = re.compile(r"(?P<set>.*)images(?P<mark>[-.]idx)3-ubyte(\.gz)?")
_IDX_UINT8 = 8
_CIFAR_RECORD = 1 + 3 * 32 * 32
# A larger number at the start of a file name is a date or a serial number, not a class.
_LARGEST_CLASS = 9999


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A data set of N images whose pixels are decoded on demand.

    Attributes:
        labels: (N,) int64.
        names: N names.
        decode: takes (k,) indices, returns (k, H, W, C) uint8.
        class_names: in label order, empty where classes have no names.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    decode: Callable[[np.ndarray], np.ndarray]
    class_names: tuple[str, ...] = ()


def open_images(path: Path, image_size: int | None) -> ImageSet:
    """The data set at ``path``, read as what it looks like.

    Args:
        path: a folder of images (any depth), a folder or file of MNIST idx data (``.gz`` too), a CIFAR-10 ``.bin``,
            or an ``.npz``.
        image_size: side that the centre square of every image is resized to (bicubic); None keeps the size.

    Raises:
        DataError: nothing there, nothing readable, or content that contradicts itself.
    """
    if path.is_dir():
        idx_files = sorted(item for item in path.rglob("*") if item.is_file() and _IDX.fullmatch(item.name))
        # The test set sorts before the training set, and is the smaller of the two.
        return _read_idx(idx_files[0], image_size) if idx_files else _read_folder(path, image_size)
    if not path.is_file():
        raise DataError(f"{path} does not exist.")
    if _IDX.fullmatch(path.name):
        return _read_idx(path, image_size)
    if path.suffix not in _FILE_READERS:
        raise DataError(
            f"{path.name} is no data set that can be read; expected a folder of images, an idx file "
            "(t10k-images-idx3-ubyte), a CIFAR-10 .bin, an .npz or a .csv."
        )
    return _FILE_READERS[path.suffix](path, image_size)


def square_pixels(image: Image.Image, size: int | None, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """The centre square (or ``box``: left, upper, right, lower) of an image, resized by bicubic interpolation.

    Args:
        image: any mode that Pillow resizes.
        size: side of the result; None keeps the square's own side.
        box: square to take instead of the centre.

    Returns:
        (size, size, C) uint8.
    """
    width, height = image.size
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    box = box or (left, upper, left + side, upper + side)
    size = size or box[2] - box[0]
    # Cropped first: resize(box=...) would let pixels outside the box bleed in.
    return np.asarray(image.crop(box).resize((size, size), Image.Resampling.BICUBIC)).reshape(size, size, -1)


def _read_folder(folder: Path, image_size: int | None) -> ImageSet:
    extensions = {extension for extension, name in Image.registered_extensions().items() if name in Image.OPEN}
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in extensions and not path.name.startswith(".") and path.is_file()
    )
    if not paths:
        raise DataError(
            f"{folder} holds no images; looked at any depth for {' '.join(_COMMON)} and what else Pillow opens."
        )
    labels, class_names = _folder_labels(folder, paths)
    names = tuple(path.relative_to(folder).as_posix() for path in paths)

    def decode(index: np.ndarray) -> np.ndarray:
        images = [_decode(paths[i], image_size) for i in index]
        if len({image.shape for image in images}) > 1:
            sizes = sorted({image.shape[0] for image in images})
            raise DataError(f"the images of {folder} have sides of {sizes[0]} to {sizes[-1]} pixels; pass image_size.")
        return np.stack(images)

    return ImageSet(labels, names, decode, class_names)


def _folder_labels(folder: Path, paths: Sequence[Path]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes from folder names, else from numbers that start the file names, else every image its own."""
    if any(path.parent != folder for path in paths):
        class_names = sorted({path.parent.name for path in paths})
        return np.array([class_names.index(path.parent.name) for path in paths], np.int64), tuple(class_names)
    numbers = [re.match(r"[0-9]+", path.name) for path in paths]
    classes = [int(number[0]) for number in numbers if number]
    if len(classes) == len(paths) and max(classes) <= _LARGEST_CLASS:
        return np.array(classes, np.int64), ()
    return np.arange(len(paths)), ()


def _decode(path: Path, image_size: int | None) -> np.ndarray:
    try:
        with Image.open(path) as image:
            # The orientation camera software wrote is part of what the photo shows.
            return square_pixels(_rgb(ImageOps.exif_transpose(image)), image_size)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image ({error}); remove or replace it.") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit samples at 255 instead of scaling them.
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")


def _read_idx(path: Path, image_size: int | None) -> ImageSet:
    match = _IDX.fullmatch(path.name)
    assert match is not None
    stem = f"{match['set']}labels{match['mark']}1-ubyte"
    label_paths = [path.with_name(name) for name in (stem, f"{stem}.gz")]
    label_path = next((candidate for candidate in label_paths if candidate.is_file()), None)
    if label_path is None:
        raise DataError(f"{path.name} needs its labels; expected {stem} or {stem}.gz beside it.")
    return _array_set(path.name, _idx_array(path, 3), _idx_array(label_path, 1), image_size)


def _idx_array(path: Path, ndim: int) -> np.ndarray:
    """A uint8 array of the idx format: 0, 0, dtype code, ndim, big-endian sizes, data in C order."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read: {error}.") from error
    start = 4 + 4 * ndim
    if len(data) < start or tuple(data[:4]) != (0, 0, _IDX_UINT8, ndim):
        raise DataError(f"{path.name} is no idx file of {ndim}-D unsigned bytes; expected it as distributed for MNIST.")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", ndim, 4))
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{path.name} declares {list(shape)} bytes but holds {len(data) - start}: truncated or damaged."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_cifar(path: Path, image_size: int | None) -> ImageSet:
    data = np.fromfile(path, np.uint8)
    if not data.size or data.size % _CIFAR_RECORD:
        raise DataError(
            f"{path.name} has {data.size} bytes; a CIFAR-10 batch is a multiple of {_CIFAR_RECORD} (label and 3 x 1024 "
            "pixels)."
        )
    records = data.reshape(-1, _CIFAR_RECORD)
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    if records[:, 0].max() > 9:
        raise DataError(f"{path.name} has labels up to {records[:, 0].max()}; expected 0 to 9 as in CIFAR-10.")
    return _array_set(path.name, pixels, records[:, 0], image_size)


def _read_npz(path: Path, image_size: int | None) -> ImageSet:
    try:
        arrays = tensor_files.read_npz(path)
    except tensor_files.TensorFileError as error:
        raise DataError(str(error)) from error
    images = next((arrays[key] for key in _IMAGE_KEYS if key in arrays), None)
    if images is None:
        raise DataError(
            f"{path.name} holds {', '.join(arrays) or 'nothing'}; expected one of {', '.join(_IMAGE_KEYS)}."
        )
    labels = next((arrays[key] for key in _LABEL_KEYS if key in arrays), np.arange(len(images)))
    return _array_set(path.name, images, labels, image_size, arrays.get("names"))


def _array_set(
    file_name: str, images: np.ndarray, labels: np.ndarray, image_size: int | None, names: np.ndarray | None = None
) -> ImageSet:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
        raise DataError(
            f"{file_name} holds images of {images.dtype}{list(images.shape)}; expected uint8 (N, H, W), (N, H, W, 1) "
            "or (N, H, W, 3)."
        )
    if not images.size or labels.size != len(images) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(
            f"{file_name} has {len(images)} images and labels of {labels.dtype}{list(labels.shape)}; expected one "
            "integer from 0 upwards for each of at least one image."
        )
    # Names may be one for each image or one for each class.
    given = () if names is None else tuple(map(str, names))
    digits = len(str(len(images) - 1))
    numbers = tuple(f"{i:0{digits}d}" for i in range(len(images)))

    def decode(index: np.ndarray) -> np.ndarray:
        return np.stack([_resize(images[i], image_size) for i in index])

    return ImageSet(
        labels=labels.reshape(-1).astype(np.int64),
        names=given if len(given) == len(images) else numbers,
        decode=decode,
        class_names=given if len(given) != len(images) else (),
    )


def _resize(pixels: np.ndarray, image_size: int | None) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if image_size in (None, pixels.shape[0]) and pixels.shape[0] == pixels.shape[1]:
        return pixels
    return square_pixels(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), image_size)


_IMAGE_KEYS = ("images", "x_train", "x", "arr_0")
_LABEL_KEYS = ("labels", "y_train", "y")
_FILE_READERS = {".bin": _read_cifar, ".npz": _read_npz}
