"""The page a person reads: what was reconstructed, how sure that is, what it took and what would have stopped it.

One self-contained HTML file (pictures inline, nothing fetched, a script only to search many samples) and one contact
sheet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from spear_jax.client.evaluate import Normalization
from spear_jax.defences.trials import Trial
from spear_jax.errors import SpearError
from spear_jax.report import pictures
from spear_jax.report.cards import Sample, image_cards, psnr_text, value_cards, verdict
from spear_jax.report.page import render_page
from spear_jax.report.template import write_page
from spear_jax.report.values import comparison, number, said
from spear_jax.tensor_files import make_folder
from spear_jax.types import NO_LABEL


def write_report(
    out_dir: str | Path,
    record: Mapping[str, Any],
    inputs: Float[np.ndarray, "r n"],
    exact: Bool[np.ndarray, " r"],
    matching: Float[np.ndarray, " r"],
    *,
    approximate: Bool[np.ndarray, " r"] | None = None,
    error: Float[np.ndarray, " r"] | None = None,
    labels: Int[np.ndarray, " r"] | None = None,
    trials: Sequence[Trial] = (),
    normalization: Normalization | None = None,
    image_shape: tuple[int, int, int] | None = None,
    columns: Sequence[str] | None = None,
    truth_images: UInt8[np.ndarray, "b H W C"] | None = None,
    evaluation_json: Mapping[str, Any] | None = None,
) -> tuple[Path, Path | None]:
    """Write ``index.html`` and, for images, ``contact.png`` into a folder, which is made where needed.

    Args:
        out_dir: the folder.
        record: the dictionary of ``result.json``; what it lacks is shown as a dash.
        inputs: (r, n) reconstructed inputs as the model was fed; a row with NaN counts as not reconstructed.
        exact: (r,) the certificate, per reconstruction.
        matching: (r,) share of agreeing live entries, per reconstruction.
        approximate: (r,) reconstructions confirmed with a larger expected error than exact allows.
        error: (r,) expected error of each, relative to its norm; shown where exact or approximate, and finite.
        labels: (r,) labels that the layers above confirm, `NO_LABEL` where they do not.
        trials: of defences against this update.
        normalization: takes inputs back to pixels in [0, 1]. Without one, images are stretched to their own range
            and not compared with originals.
        image_shape: (H, W, C) of one input; None shows the first values as a table.
        columns: names of the n values of an input that is no image.
        truth_images: (b, H, W, C) originals, shown beside the reconstructions; needs ``evaluation_json``.
        evaluation_json: ``Evaluation.to_json()``: which reconstruction is which original, and the scores.

    Returns:
        Paths of the page and of the contact sheet, None for inputs that are no images.

    Raises:
        SpearError: arrays whose lengths disagree, or originals without an evaluation to say which is which.
    """
    nobody = np.zeros(len(inputs), bool)
    certificate = _Certificates(
        exact,
        nobody if approximate is None else approximate,
        matching,
        np.full(len(inputs), np.inf) if error is None else error,
        np.full(len(inputs), NO_LABEL) if labels is None else labels,
    )
    _check(inputs, certificate, image_shape, columns, truth_images, evaluation_json)
    out_dir = Path(out_dir)
    make_folder(out_dir)
    samples = _samples(inputs, certificate, evaluation_json)
    headline = _headline(samples, record.get("batch_size"))
    contact = None
    if image_shape is not None and samples:
        rows = _picture_rows(
            samples, _pixels(inputs, normalization, image_shape), None if normalization is None else truth_images
        )
        if any(row.original is not None or row.reconstruction is not None for row in rows):
            contact = out_dir / "contact.png"
            pictures.contact_sheet(rows, headline).save(contact)
        shown = image_cards(samples, rows)
    else:
        shown = value_cards(samples, inputs, columns)
    page = render_page(
        record,
        headline=headline,
        shown=shown,
        notes=[*said(record), *_notes(evaluation_json, image_shape is not None and normalization is None)],
        num_by_network=sum(sample.label is not None for sample in samples),
        trials=trials,
    )
    return write_page(out_dir, page), contact


class _Certificates(NamedTuple):
    """The certificates, arrays over the reconstructions, or of one of them."""

    exact: Any
    approximate: Any
    matching: Any
    error: Any
    labels: Any


def _samples(inputs: np.ndarray, certificate: _Certificates, evaluation: Mapping[str, Any] | None) -> list[Sample]:
    """In the order of the truth where that is known, then what is left over; else as reconstructed."""
    finite = [bool(np.isfinite(row).all()) for row in inputs]
    assignment = list((evaluation or {}).get("assignment") or [])
    pairs = [(found, truth) for truth, found in enumerate(assignment)]
    pairs += [
        (found, None) for found in range(len(inputs)) if found not in assignment and (finite[found] or not assignment)
    ]
    samples = []
    for place, (found, truth) in enumerate(pairs, start=1):
        usable = found >= 0 and finite[found]
        proof = _Certificates(*(array[found].item() if usable else None for array in certificate))
        is_bounded = (proof.exact or proof.approximate) and np.isfinite(proof.error)
        samples.append(
            Sample(
                name=f"Sample {place}" if truth is not None or not assignment else f"Extra reconstruction {found + 1}",
                found=found if usable else None,
                truth=truth,
                certified=bool(proof.exact),
                approximate=bool(proof.approximate),
                matching=proof.matching,
                error=proof.error if is_bounded else None,
                label=None if proof.labels == NO_LABEL else proof.labels,
                psnr=_score(evaluation, "psnr", truth),
                pixel_exact=_score(evaluation, "pixel_exact", truth) is True,
            )
        )
    return samples


def _score(evaluation: Mapping[str, Any] | None, name: str, truth: int | None) -> Any:
    scores = (evaluation or {}).get(name)
    return None if scores is None or truth is None else scores[truth]


def _headline(samples: Sequence[Sample], rank: Any) -> str:
    total = max(len(samples), rank if isinstance(rank, int) else 0)
    certified = sum(sample.certified for sample in samples)
    approximate = [sample for sample in samples if sample.approximate]
    noun = "sample" if total == 1 else "samples"
    if not total:
        return "No sample was reconstructed"
    errors = [sample.error for sample in approximate if sample.error is not None]
    bar = f" (expected error at most {number(max(errors))} of the input's norm)" if errors else ""
    if not certified and not approximate:
        return f"None of {total} {noun} could be certified"
    if not certified:
        return f"{len(approximate)} of {total} {noun} reconstructed approximately{bar}, without ground truth"
    rest = f", {len(approximate)} more approximately{bar}" if approximate else ""
    return f"{certified} of {total} {noun} reconstructed and certified without ground truth{rest}"


def _notes(evaluation: Mapping[str, Any] | None, is_stretched: bool) -> list[str]:
    notes = [comparison(evaluation.get("summary"))] if evaluation else []
    if is_stretched:
        notes.append(
            "No normalisation is known: every picture is stretched to its own range and compared with nothing."
        )
    return notes


def _pixels(inputs: np.ndarray, normalization: Normalization | None, image_shape: tuple[int, int, int]) -> np.ndarray:
    images = np.where(np.isfinite(inputs), inputs, 0).reshape(-1, *image_shape)
    if normalization is not None:
        return np.asarray(normalization.invert(images), dtype=np.float64)
    low, high = (extreme(images, axis=(1, 2, 3), keepdims=True) for extreme in (np.min, np.max))
    return (images - low) / np.where(high > low, high - low, 1)


def _picture_rows(
    samples: Sequence[Sample], pixels: np.ndarray, originals: np.ndarray | None
) -> list[pictures.SampleRow]:
    return [
        pictures.SampleRow(
            original=None if originals is None or sample.truth is None else originals[sample.truth],
            reconstruction=None if sample.found is None else pixels[sample.found],
            certified=sample.certified,
            caption=f"{sample.name.removeprefix('Sample ')}  {verdict(sample)}  {psnr_text(sample.psnr)}".rstrip(),
        )
        for sample in samples
    ]


def _check(
    inputs: np.ndarray,
    certificate: _Certificates,
    image_shape: tuple[int, int, int] | None,
    columns: Sequence[str] | None,
    truth_images: np.ndarray | None,
    evaluation: Mapping[str, Any] | None,
) -> None:
    lengths = {name: len(array) for name, array in zip(certificate._fields, certificate, strict=True)}
    if set(lengths.values()) != {len(inputs)}:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise SpearError(f"there are {len(inputs)} inputs but certificates of length {said}; expected one for each.")
    if image_shape is not None and math.prod(image_shape) != inputs.shape[1]:
        raise SpearError(f"image_shape {image_shape} does not hold the {inputs.shape[1]} values of an input.")
    if columns is not None and len(columns) != inputs.shape[1]:
        raise SpearError(f"columns has {len(columns)} names; expected one for each of the {inputs.shape[1]} values.")
    assignment = list((evaluation or {}).get("assignment") or [])
    if any(not -1 <= found < len(inputs) for found in assignment):
        raise SpearError("The evaluation points at reconstructions that are not there; evaluate this result again.")
    if truth_images is not None and len(truth_images) != len(assignment):
        raise SpearError(
            f"There are {len(truth_images)} originals and an evaluation of {len(assignment)}; pass the evaluation of "
            "these originals, which says which reconstruction is which."
        )
