"""The page a person reads: what was reconstructed, how sure that is, what it took and what would have stopped it.

One self-contained HTML file (pictures inline, no script, nothing fetched) and one contact sheet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from spear_jax import pictures
from spear_jax.evaluate import IDENTICAL_PSNR, Normalization
from spear_jax.report_page import DASH, render_page, share

NUM_VALUES = 12
"""Values shown of an input that is no image."""

_MAX_EMBEDDED = 256  # longest side in pixels of a picture on the page; the files hold the full data


class _Sample(NamedTuple):
    """What the page says of one sample; pictures are added where the inputs are images."""

    name: str
    found: int | None  # row of the reconstruction
    truth: int | None  # row of the truth
    certified: bool
    matching: float | None
    psnr: float | None
    pixel_exact: bool


def write_report(
    out_dir: str | Path,
    record: Mapping[str, Any],
    inputs: Float[np.ndarray, "r n"],
    exact: Bool[np.ndarray, " r"],
    matching: Float[np.ndarray, " r"],
    *,
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
        normalization: takes inputs back to pixels in [0, 1]. Without one, images are stretched to their own range
            and not compared with originals.
        image_shape: (H, W, C) of one input; None shows the first values as a table.
        columns: names of the n values of an input that is no image.
        truth_images: (b, H, W, C) originals, shown beside the reconstructions; needs ``evaluation_json``.
        evaluation_json: ``Evaluation.to_json()``: which reconstruction is which original, and the scores.

    Returns:
        Paths of the page and of the contact sheet, None for inputs that are no images.

    Raises:
        ValueError: arrays whose lengths disagree, or originals without an evaluation to say which is which.
    """
    _check(inputs, exact, matching, image_shape, columns, truth_images, evaluation_json)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    samples = _samples(inputs, exact, matching, evaluation_json)
    headline = _headline(samples, record.get("batch_size"))
    contact = None
    if image_shape is not None and samples:
        rows = _picture_rows(
            samples, _pixels(inputs, normalization, image_shape), None if normalization is None else truth_images
        )
        if any(row.original is not None or row.reconstruction is not None for row in rows):
            contact = out_dir / "contact.png"
            pictures.contact_sheet(rows, headline).save(contact)
        shown = _image_cards(samples, rows)
    else:
        shown = _value_cards(samples, inputs, columns)
    page = render_page(
        record,
        headline=headline,
        is_complete=bool(samples) and all(sample.certified for sample in samples),
        samples_html=shown,
        notes=_notes(evaluation_json, image_shape is not None and normalization is None),
    )
    index = out_dir / "index.html"
    index.write_text(page, encoding="utf-8")
    return index, contact


def _samples(
    inputs: np.ndarray, exact: np.ndarray, matching: np.ndarray, evaluation: Mapping[str, Any] | None
) -> list[_Sample]:
    """In the order of the truth where that is known, then what is left over; else as reconstructed."""
    finite = [bool(np.isfinite(row).all()) for row in inputs]
    assignment = list((evaluation or {}).get("assignment") or [])
    pairs = [(found, truth) for truth, found in enumerate(assignment)]
    pairs += [
        (found, None) for found in range(len(inputs)) if found not in assignment and (finite[found] or not assignment)
    ]
    samples = []
    for number, (found, truth) in enumerate(pairs, start=1):
        usable = found >= 0 and finite[found]
        samples.append(
            _Sample(
                name=f"Sample {number}" if truth is not None or not assignment else f"Extra reconstruction {found + 1}",
                found=found if usable else None,
                truth=truth,
                certified=usable and bool(exact[found]),
                matching=float(matching[found]) if usable else None,
                psnr=_score(evaluation, "psnr", truth),
                pixel_exact=_score(evaluation, "pixel_exact", truth) is True,
            )
        )
    return samples


def _score(evaluation: Mapping[str, Any] | None, name: str, truth: int | None) -> Any:
    scores = (evaluation or {}).get(name)
    return None if scores is None or truth is None else scores[truth]


def _headline(samples: Sequence[_Sample], rank: Any) -> str:
    total = max(len(samples), rank if isinstance(rank, int) else 0)
    certified = sum(sample.certified for sample in samples)
    noun = "sample" if total == 1 else "samples"
    if not total:
        return "No sample was reconstructed"
    if not certified:
        return f"None of {total} {noun} could be certified"
    return f"{certified} of {total} {noun} reconstructed and certified without ground truth"


def _notes(evaluation: Mapping[str, Any] | None, is_stretched: bool) -> list[str]:
    notes = []
    if evaluation:
        summary = evaluation.get("summary")
        notes.append(
            "Originals and scores are for comparison only; the attack did not see them."
            + (f" {summary}" if summary else "")
        )
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
    samples: Sequence[_Sample], pixels: np.ndarray, originals: np.ndarray | None
) -> list[pictures.SampleRow]:
    return [
        pictures.SampleRow(
            original=None if originals is None or sample.truth is None else originals[sample.truth],
            reconstruction=None if sample.found is None else pixels[sample.found],
            certified=sample.certified,
            caption=f"{sample.name.removeprefix('Sample ')}  {_verdict(sample)}  {_psnr(sample.psnr)}".rstrip(),
        )
        for sample in samples
    ]


def _verdict(sample: _Sample) -> str:
    if sample.found is None:
        return "not reconstructed"
    return "certified" if sample.certified else "not certified"


def _psnr(psnr: float | None) -> str:
    if psnr is None:
        return ""
    return "\N{INFINITY} dB" if psnr >= IDENTICAL_PSNR else f"{psnr:.1f} dB"


def _scores_line(sample: _Sample) -> str:
    parts = [] if sample.matching is None else [f"matching {share(sample.matching)}"]
    if sample.psnr is not None:
        parts.append(f"PSNR {_psnr(sample.psnr)}")
    # An uncertified sample is never called exact, whatever a comparison with the truth says.
    if sample.pixel_exact and sample.certified:
        parts.append("every pixel exact")
    return " \N{MIDDLE DOT} ".join(parts)


def _image_cards(samples: Sequence[_Sample], rows: Sequence[pictures.SampleRow]) -> str:
    width = 160 if len(rows) <= 8 else 128 if len(rows) <= 32 else 96
    has_originals = any(row.original is not None for row in rows)
    captions = ["original", "reconstruction", f"difference \N{MULTIPLICATION SIGN}{pictures.AMPLIFICATION}"]
    shown = slice(None) if has_originals else slice(1, 2)
    cards = []
    for sample, row in zip(samples, rows, strict=True):
        pairs = list(zip(row.images, captions, strict=True))[shown]
        figures = [_figure(image, caption, width) for image, caption in pairs]
        cards.append(_card(sample, f'<div class="strip">{"".join(figures)}</div>'))
    return _grid(cards, len(captions[shown]) * (width + 8) + 18)


def _card(sample: _Sample, body: str) -> str:
    mark = "\N{CHECK MARK} " if sample.certified else ""
    return (
        f'<article class="card {"ok" if sample.certified else "open"}"><header><b>{escape(sample.name)}</b>'
        f'<span class="badge">{mark}{_verdict(sample)}</span></header>{body}'
        f"<footer>{escape(_scores_line(sample)) or DASH}</footer></article>"
    )


def _grid(cards: Sequence[str], width: int) -> str:
    return f'<div class="cards" style="--card:{width}px">{"".join(cards)}</div>'


def _figure(image: np.ndarray | None, caption: str, width: int) -> str:
    if image is None:
        return f'<figure><div class="none">none</div><figcaption>{escape(caption)}</figcaption></figure>'
    drawn = pictures.picture(image, min(max(image.shape[:2]), _MAX_EMBEDDED))
    crisp = ' class="crisp"' if max(drawn.size) < width else ""
    return (
        f'<figure><img{crisp} src="{pictures.data_uri(drawn)}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _value_cards(samples: Sequence[_Sample], inputs: np.ndarray, columns: Sequence[str] | None) -> str:
    if not samples:
        return '<p class="note">There is nothing to show.</p>'
    num_values = inputs.shape[1]
    names = list(columns or map(str, range(num_values)))[:NUM_VALUES]
    cards = []
    for sample in samples:
        values = [DASH] * len(names) if sample.found is None else [f"{value:.6g}" for value in inputs[sample.found]]
        pairs = zip(names, values, strict=False)  # as many values as there are names to show
        listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
        cards.append(_card(sample, f"<dl>{listed}</dl>"))
    is_cut = num_values > NUM_VALUES
    note = f'<p class="note">The first {NUM_VALUES} of the {num_values} values of every input.</p>' if is_cut else ""
    return note + _grid(cards, 500)


def _check(
    inputs: np.ndarray,
    exact: np.ndarray,
    matching: np.ndarray,
    image_shape: tuple[int, int, int] | None,
    columns: Sequence[str] | None,
    truth_images: np.ndarray | None,
    evaluation: Mapping[str, Any] | None,
) -> None:
    if not len(inputs) == len(exact) == len(matching):
        raise ValueError(
            f"inputs, exact and matching have {len(inputs)}, {len(exact)} and {len(matching)} entries; expected one "
            "certificate per reconstruction."
        )
    if image_shape is not None and math.prod(image_shape) != inputs.shape[1]:
        raise ValueError(f"image_shape {image_shape} does not hold the {inputs.shape[1]} values of an input.")
    if columns is not None and len(columns) != inputs.shape[1]:
        raise ValueError(f"columns has {len(columns)} names; expected one for each of the {inputs.shape[1]} values.")
    assignment = list((evaluation or {}).get("assignment") or [])
    if any(not -1 <= found < len(inputs) for found in assignment):
        raise ValueError("The evaluation points at reconstructions that are not there; evaluate this result again.")
    if truth_images is not None and len(truth_images) != len(assignment):
        raise ValueError(
            f"There are {len(truth_images)} originals and an evaluation of {len(assignment)}; pass the evaluation of "
            "these originals, which says which reconstruction is which."
        )
