"""Scoring a reconstruction against the private truth. No module of the attack may import this one.

A reconstruction comes in arbitrary order, so it is first matched one to one to the true samples, by squared error;
everything else is measured on the matched pairs, in pixels where the inputs are images.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.optimize import linear_sum_assignment
from skimage.metrics import structural_similarity

from spear_jax.errors import SpearError
from spear_jax.types import Array

RECOVERED_PSNR = 90.0
"""PSNR in dB from which a sample counts as recovered: the SPEAR paper's threshold as remembered, not verified."""

CERTIFIED_RMS = 1e-3
"""A certificate is also true where the rms error is below this share of the rms of the true inputs."""

_GRAM_ROUNDING = 2.0**-44  # of a squared distance taken by Gram products, relative to the squared norms

IDENTICAL_PSNR = 999.0
"""Stands for an infinite PSNR in JSON, which knows no infinity."""


@runtime_checkable
class Normalization(Protocol):
    """How pixels in [0, 1] became the values the model was fed."""

    def invert(self, images: Any, /) -> Any:
        """Model inputs (b, H, W, C) back to pixels in [0, 1], the same shape."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores per true sample, in the order of the truth; a sample without a partner scores NaN and False.

    Attributes:
        assignment: (b,) index of the reconstruction matched to each true sample, -1 for none.
        psnr: (b,) dB, ``10 log10(peak^2 / mse)``; infinite where identical.
        ssim: (b,) structural similarity of the pixels clipped to [0, 1]; None for anything but images of 3 x 3 on.
        max_error: (b,) largest absolute error, in the units of ``peak``.
        pixel_exact: (b,) whether all pixels, rounded to 0..255, equal the original's; None without 8-bit originals.
        recovered: (b,) whether the PSNR is at least ``RECOVERED_PSNR``.
        peak: the PSNR's peak value: 1.0 on pixels in [0, 1], else the range max - min of the true inputs.
        false_certificates: certified reconstructions that are no sample: matched to none, or to one that is neither
            recovered nor within ``CERTIFIED_RMS``. A second copy of a sample is false too. None without certificates.
    """

    assignment: Int[np.ndarray, " b"]
    psnr: Float[np.ndarray, " b"]
    ssim: Float[np.ndarray, " b"] | None
    max_error: Float[np.ndarray, " b"]
    pixel_exact: Bool[np.ndarray, " b"] | None
    recovered: Bool[np.ndarray, " b"]
    peak: float
    false_certificates: int | None

    @property
    def num_samples(self) -> int:
        """b, the true samples."""
        return len(self.assignment)

    @property
    def num_matched(self) -> int:
        """True samples that got a partner at all."""
        return int(np.sum(self.assignment >= 0))

    @property
    def num_recovered(self) -> int:
        """True samples recovered, PSNR at least ``RECOVERED_PSNR``."""
        return int(self.recovered.sum())

    @property
    def num_pixel_exact(self) -> int | None:
        """True images that came back to the last bit of their 8-bit pixels; None where there are no originals."""
        return None if self.pixel_exact is None else int(self.pixel_exact.sum())

    @property
    def summary(self) -> str:
        """The counts in one sentence."""
        parts = [f"{self.num_recovered} of {self.num_samples} samples recovered (PSNR >= {RECOVERED_PSNR:g} dB)"]
        if self.pixel_exact is not None:
            parts.append(f"{self.num_pixel_exact} of {self.num_samples} exact in every pixel")
        if self.num_matched:
            parts.append(f"median PSNR {np.median(self.psnr[self.assignment >= 0]):.1f} dB")
        if self.false_certificates is not None:
            parts.append(f"{self.false_certificates} false certificates")
        return ", ".join(parts) + "."

    def to_json(self) -> dict[str, Any]:
        """A dictionary of valid JSON: NaN (no partner) becomes null, an infinite PSNR ``IDENTICAL_PSNR``."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        record: dict[str, Any] = {
            name: [_json_number(entry) for entry in value.tolist()] if isinstance(value, np.ndarray) else value
            for name, value in arrays.items()
        }
        names = ("num_samples", "num_matched", "num_recovered", "num_pixel_exact", "summary")
        return record | {name: getattr(self, name) for name in names}


def evaluate(
    reconstructed: Float[Array, "k n"],
    true_inputs: Float[Array, "b n"],
    *,
    normalization: Normalization | None = None,
    image_shape: tuple[int, int, int] | None = None,
    images: UInt8[np.ndarray, "b H W C"] | None = None,
    certified: Bool[Array, " k"] | None = None,
) -> Evaluation:
    """Match a reconstruction to the truth and score every true sample; k and b may differ.

    Args:
        reconstructed: (k, n) reconstructed inputs in any order, normalized as the model was fed. Rows that hold NaN,
            infinity or values whose squares overflow are never matched.
        true_inputs: (b, n) the private batch, normalized alike.
        normalization: takes model inputs back to pixels in [0, 1]; needs ``image_shape``.
        image_shape: (H, W, C) of one input; taken from ``images`` where those are given.
        images: the 8-bit originals, in the order of ``true_inputs``: asks for the test of every pixel.
        certified: (k,) which reconstructions the attack certified.

    Returns:
        The scores, computed in float64. With a normalization the units are pixels in [0, 1] (peak 1.0), without one
        those of ``true_inputs`` (peak: their range, or 1 where they are all equal).

    Raises:
        SpearError: shapes that disagree, a truth that is not finite, images without a normalization.
    """
    found = np.asarray(reconstructed, dtype=np.float64)
    truth = np.asarray(true_inputs, dtype=np.float64)
    if images is not None and image_shape is None:
        image_shape = (images.shape[1], images.shape[2], images.shape[3])
    _check(found, truth, normalization, image_shape, images, certified)

    assignment = _match(found, truth)
    matched = assignment >= 0
    pairs_found, pairs_truth = found[assignment[matched]], truth[matched]
    rms_error = np.sqrt(np.mean(np.square(pairs_found - pairs_truth), axis=1))
    is_close = _scatter(matched, rms_error <= CERTIFIED_RMS * np.sqrt(np.mean(np.square(truth))), False)

    peak, ssim, pixel_exact = float(np.ptp(truth)) or 1.0, None, None
    if normalization is not None and image_shape is not None:
        peak = 1.0
        pairs_found, pairs_truth = (_pixels(rows, normalization, image_shape) for rows in (pairs_found, pairs_truth))
        if min(image_shape[:2]) >= 3:
            ssim = _scatter(matched, _ssim(pairs_found, pairs_truth), np.nan)
        if images is not None:
            pixel_exact = _scatter(matched, _equal_bytes(pairs_found, images[matched]), False)
    error = (pairs_found - pairs_truth).reshape(len(pairs_truth), truth.shape[1])
    psnr = _scatter(matched, _psnr(np.mean(np.square(error), axis=1), peak), np.nan)
    recovered = psnr >= RECOVERED_PSNR
    return Evaluation(
        assignment=assignment,
        psnr=psnr,
        ssim=ssim,
        max_error=_scatter(matched, np.abs(error).max(axis=1), np.nan),
        pixel_exact=pixel_exact,
        recovered=recovered,
        peak=peak,
        false_certificates=_false_certificates(certified, assignment, recovered | is_close),
    )


def _match(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Index of the row of ``found`` matched to each row of ``truth``, -1 for none.

    The sum of the logarithms of the squared errors is least, so the mean PSNR is greatest. (The plain sum would let
    one large wrong reconstruction take the partner that suits it and push exact ones away from theirs.)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.einsum("kn,kn->k", found, found)
    usable = np.flatnonzero(np.isfinite(norms))
    # Gram products: a (k, b, n) array of differences would not fit for images.
    scale = norms[usable, None] + np.einsum("bn,bn->b", truth, truth)
    squared_error = scale - 2 * found[usable] @ truth.T
    floor = _GRAM_ROUNDING * scale + np.finfo(np.float64).tiny
    rows, columns = linear_sum_assignment(np.log(np.maximum(squared_error, floor)))
    assignment = np.full(len(truth), -1)
    assignment[columns] = usable[rows]
    return assignment


def _pixels(rows: np.ndarray, normalization: Normalization, image_shape: tuple[int, int, int]) -> np.ndarray:
    return np.asarray(normalization.invert(rows.reshape(-1, *image_shape)), dtype=np.float64)


def _psnr(mse: np.ndarray, peak: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 20 * np.log10(peak) - 10 * np.log10(mse)


def _ssim(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    shortest = min(truth.shape[1:3])
    window = min(7, shortest - 1 + shortest % 2)  # odd, and no larger than the image
    scores = [
        structural_similarity(x, y, win_size=window, channel_axis=-1, data_range=1.0)
        for x, y in zip(np.clip(found, 0, 1), truth, strict=True)
    ]
    return np.array(scores, dtype=np.float64)


def _equal_bytes(found: np.ndarray, images: np.ndarray) -> np.ndarray:
    return (np.rint(255 * np.clip(found, 0, 1)) == images).all(axis=(1, 2, 3))


def _scatter(matched: np.ndarray, values: np.ndarray, missing: float | bool) -> np.ndarray:
    """Values of the matched samples in the order of the truth, ``missing`` elsewhere."""
    scattered = np.full(len(matched), missing, dtype=values.dtype)
    scattered[matched] = values
    return scattered


def _false_certificates(certified: Array | None, assignment: np.ndarray, is_true: np.ndarray) -> int | None:
    if certified is None:
        return None
    justified = np.zeros(len(certified), dtype=bool)
    justified[assignment[is_true]] = True
    return int(np.sum(np.asarray(certified) & ~justified))


def _json_number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return IDENTICAL_PSNR if value == math.inf else None
    return value


def _check(
    found: np.ndarray,
    truth: np.ndarray,
    normalization: Normalization | None,
    image_shape: tuple[int, int, int] | None,
    images: np.ndarray | None,
    certified: Array | None,
) -> None:
    if found.ndim != 2 or truth.ndim != 2 or found.shape[1] != truth.shape[1]:
        raise SpearError(
            f"reconstructed has shape {found.shape} and true_inputs {truth.shape}; expected (k, n) and (b, n) with the "
            "same n: flatten every input to one row."
        )
    if not truth.size or not np.isfinite(truth).all():
        raise SpearError("true_inputs is empty or holds NaN or infinity; there is nothing to compare with.")
    if (normalization is None) != (image_shape is None):
        raise SpearError("normalization and image_shape (or images) belong together; pass both or neither.")
    if image_shape is not None and math.prod(image_shape) != truth.shape[1]:
        raise SpearError(f"image_shape {image_shape} holds {math.prod(image_shape)} values, an input {truth.shape[1]}.")
    if images is not None and images.shape != (len(truth), *(image_shape or ())):
        raise SpearError(f"images has shape {images.shape}; expected {(len(truth), *(image_shape or ()))}.")
    if certified is not None and certified.shape != (len(found),):
        raise SpearError(f"certified has shape {certified.shape}; expected one flag per reconstruction, {len(found)}.")
