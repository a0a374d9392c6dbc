"""The samples on the page: one card each, with pictures or values, its certificate and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from spear_jax.client.evaluate import IDENTICAL_PSNR
from spear_jax.report import pictures
from spear_jax.report.values import DASH, number, share

NUM_VALUES = 12
"""Values shown of an input that is no image."""

_MAX_EMBEDDED = 256  # longest side in pixels of a picture on the page; the files hold the full data


class Sample(NamedTuple):
    """What the page says of one sample; pictures are added where the inputs are images."""

    name: str
    found: int | None  # row of the reconstruction
    truth: int | None  # row of the truth
    certified: bool
    approximate: bool
    matching: float | None
    error: float | None  # expected, where the certificate bounds it
    label: int | None  # confirmed by the layers above
    psnr: float | None
    pixel_exact: bool


class Card(NamedTuple):
    """One sample as the page shows it: with pictures, or with values.

    Attributes:
        name: of the sample.
        tone: ``ok`` certified, ``near`` approximate, ``open`` neither.
        verdict: the same in words.
        scores: what is known of it, in a line.
        figures: (caption, data URI or None, whether pixels are shown as squares) of each picture.
        values: (column, value).
    """

    name: str
    tone: str
    verdict: str
    scores: str
    figures: Sequence[tuple[str, str | None, bool]] = ()
    values: Sequence[tuple[str, str]] = ()


class Cards(NamedTuple):
    """All samples as the page shows them, each card at least ``width`` pixels wide, below a note."""

    cards: Sequence[Card]
    width: int
    note: str = ""


def image_cards(samples: Sequence[Sample], rows: Sequence[pictures.SampleRow]) -> Cards:
    """Samples that are images: original where known, reconstruction, difference."""
    width = 160 if len(rows) <= 8 else 128 if len(rows) <= 32 else 96
    has_originals = any(row.original is not None for row in rows)
    captions = ["original", "reconstruction", f"difference \N{MULTIPLICATION SIGN}{pictures.AMPLIFICATION}"]
    shown = slice(None) if has_originals else slice(1, 2)
    cards = []
    for sample, row in zip(samples, rows, strict=True):
        pairs = list(zip(row.images, captions, strict=True))[shown]
        cards.append(_card(sample, figures=[(caption, *_picture(image, width)) for image, caption in pairs]))
    return Cards(cards, len(captions[shown]) * (width + 8) + 18)


def _picture(image: np.ndarray | None, width: int) -> tuple[str | None, bool]:
    """Data URI, and whether the picture has fewer pixels than it is wide."""
    if image is None:
        return None, False
    drawn = pictures.picture(image, min(max(image.shape[:2]), _MAX_EMBEDDED))
    return pictures.data_uri(drawn), max(drawn.size) < width


def value_cards(samples: Sequence[Sample], inputs: np.ndarray, columns: Sequence[str] | None) -> Cards:
    """Samples that are no images: their first values, by the names of the columns where these are known."""
    num_values = inputs.shape[1]
    names = list(columns or map(str, range(num_values)))[:NUM_VALUES]
    cards = []
    for sample in samples:
        values = [DASH] * len(names) if sample.found is None else [f"{value:.6g}" for value in inputs[sample.found]]
        # As many values as there are names to show.
        cards.append(_card(sample, values=list(zip(names, values, strict=False))))
    note = f"The first {NUM_VALUES} of the {num_values} values of every input." if num_values > NUM_VALUES else ""
    return Cards(cards, 500, note)


def _card(sample: Sample, **shown: Any) -> Card:
    tone = "ok" if sample.certified else "near" if sample.approximate else "open"
    return Card(sample.name, tone, verdict(sample), _scores_line(sample) or DASH, **shown)


def verdict(sample: Sample) -> str:
    """What the certificate says of it."""
    if sample.found is None:
        return "not reconstructed"
    return "certified" if sample.certified else "approximate" if sample.approximate else "not certified"


def psnr_text(psnr: float | None) -> str:
    """``37.2 dB``; infinite where the pictures are one."""
    if psnr is None:
        return ""
    return "\N{INFINITY} dB" if psnr >= IDENTICAL_PSNR else f"{psnr:.1f} dB"


def _scores_line(sample: Sample) -> str:
    parts = [] if sample.matching is None else [f"matching {share(sample.matching)}"]
    if sample.error is not None:
        parts.append(f"expected error {number(sample.error)}")
    if sample.label is not None:
        parts.append(f"label {sample.label}")
    if sample.psnr is not None:
        parts.append(f"PSNR {psnr_text(sample.psnr)}")
    # An uncertified sample is never called exact, whatever a comparison with the truth says.
    if sample.pixel_exact and sample.certified:
        parts.append("every pixel exact")
    return " \N{MIDDLE DOT} ".join(parts)
