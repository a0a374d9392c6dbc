"""The samples on the page: one card each, with pictures or values, its certificate and its scores, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

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


def image_cards(samples: Sequence[Sample], rows: Sequence[pictures.SampleRow]) -> str:
    """HTML of samples that are images: original where known, reconstruction, difference."""
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


def _card(sample: Sample, body: str) -> str:
    kind = "ok" if sample.certified else "near" if sample.approximate else "open"
    mark = "\N{CHECK MARK} " if sample.certified else ""
    return (
        f'<article class="card {kind}"><header><b>{escape(sample.name)}</b>'
        f'<span class="badge">{mark}{verdict(sample)}</span></header>{body}'
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


def value_cards(samples: Sequence[Sample], inputs: np.ndarray, columns: Sequence[str] | None) -> str:
    """HTML of samples that are no images: their first values, by the names of the columns where these are known."""
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
