"""Pictures of a reconstruction: original, reconstruction and amplified difference, alone or on one contact sheet."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from spear_jax.errors import SpearError

AMPLIFICATION = 20
"""Factor on the absolute difference, so that an error of one gray level in 255 is seen."""

_PAPER, _INK, _QUIET, _EMPTY = "#ffffff", "#1c2430", "#667080", "#eceef1"
_GREEN, _AMBER = "#1a7f4b", "#b45309"
_GAP, _MARGIN, _LINE = 6, 28, 24
_GROUP_GAP = 34
_MARK = 16  # room for the mark before a caption
_TITLE, _CAPTION = 22, 14
_ASPECT = 1.5  # width over height that a sheet of many samples aims at


class SampleRow(NamedTuple):
    """One sample of a contact sheet.

    Attributes:
        original: (H, W, C) uint8, None where it is not known.
        reconstruction: (H, W, C) floating pixels, nominally in [0, 1]; None where there is none.
        certified: whether the attack certified it.
        caption: a short line below the pictures.
    """

    original: UInt8[np.ndarray, "H W C"] | None
    reconstruction: Float[np.ndarray, "H W C"] | None
    certified: bool
    caption: str

    @property
    def images(self) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """Original, reconstruction and amplified difference in 0..255, None where there is none."""
        original, pixels = self.original, self.reconstruction
        if pixels is None:
            return original, None, None
        return original, to_bytes(pixels), None if original is None else amplified_difference(original, pixels)


def to_bytes(pixels: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Pixels in [0, 1] to 0..255, rounded; what lies outside is clipped."""
    return np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def amplified_difference(
    original: UInt8[np.ndarray, "H W C"], reconstruction: Float[np.ndarray, "H W C"]
) -> UInt8[np.ndarray, "H W C"]:
    """``AMPLIFICATION`` times the absolute difference; black where the two agree to within 1e-4 of the range."""
    return to_bytes(AMPLIFICATION * np.abs(reconstruction - original / 255))


def picture(image: UInt8[np.ndarray, "H W C"], side: int) -> Image.Image:
    """An image at display size: enlarged by a whole factor (no smoothing) to at least ``side``, or reduced to it."""
    height, width, channels = image.shape
    if channels == 3:
        drawn = Image.fromarray(image)
    elif channels == 1:
        drawn = Image.fromarray(image[:, :, 0])
    else:
        drawn = Image.fromarray(to_bytes(image.mean(axis=2) / 255))
    longest = max(height, width)
    if longest > side:
        size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
        return drawn.resize(size, Image.Resampling.LANCZOS)
    factor = math.ceil(side / longest)
    return drawn.resize((width * factor, height * factor), Image.Resampling.NEAREST)


def data_uri(image: Image.Image) -> str:
    """The picture as an inline PNG for an HTML page."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def contact_sheet(rows: Sequence[SampleRow], title: str = "", side: int | None = None) -> Image.Image:
    """All samples on one picture: original, reconstruction and amplified difference side by side.

    Where no row knows its original, only the reconstructions are shown. A frame and a mark tell certified (green)
    from not certified (amber) samples; many samples are laid out in several column groups.

    Args:
        rows: the samples, all of one image shape.
        title: a line above everything.
        side: least display size in pixels of the longer image side; by default 96 to 192, by the number of samples.

    Raises:
        SpearError: there is no row, or none with a picture.
    """
    shapes = {image.shape for row in rows for image in (row.original, row.reconstruction) if image is not None}
    if len(shapes) != 1:
        raise SpearError(f"A contact sheet needs pictures of one shape; got {sorted(shapes) or 'none'}.")
    (shape,) = shapes
    side = side or (192 if len(rows) <= 8 else 128 if len(rows) <= 32 else 96)
    tile = picture(np.zeros(shape, np.uint8), side).size
    has_originals = any(row.original is not None for row in rows)
    heads = ["original", "reconstruction", f"difference x {AMPLIFICATION}"] if has_originals else [""]
    longest = max(_text_width(row.caption, _CAPTION) for row in rows) + _MARK
    cell_width = max(len(heads) * (tile[0] + _GAP) - _GAP, longest)
    cell_height = tile[1] + _LINE + 12
    groups = _num_groups(len(rows), cell_width + _GROUP_GAP, cell_height)
    depth = math.ceil(len(rows) / groups)
    top = _MARGIN + (44 if title else 0)
    width = max(2 * _MARGIN + groups * cell_width + (groups - 1) * _GROUP_GAP, 2 * _MARGIN + _text_width(title, _TITLE))
    sheet = Image.new("RGB", (width, top + _LINE + depth * cell_height + _MARGIN - 12), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 8), title, fill=_INK, font=_font(_TITLE))
    for index, row in enumerate(rows):
        left = _MARGIN + (index // depth) * (cell_width + _GROUP_GAP)
        if index % depth == 0:
            _draw_heads(draw, (left, top), heads, tile[0] + _GAP)
        _draw_row(sheet, draw, (left, top + _LINE + (index % depth) * cell_height), row, side, tile, len(heads))
    return sheet


def _draw_row(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    row: SampleRow,
    side: int,
    tile: tuple[int, int],
    columns: int,
) -> None:
    left, top = corner
    color = _GREEN if row.certified else _AMBER
    for column, image in enumerate(row.images if columns > 1 else row.images[1:2]):
        at = (left + column * (tile[0] + _GAP), top)
        box = (*at, at[0] + tile[0] - 1, at[1] + tile[1] - 1)
        if image is None:
            draw.rectangle(box, fill=_EMPTY)
            middle = (at[0] + tile[0] / 2, at[1] + tile[1] / 2)
            draw.text(middle, "none", fill=_QUIET, font=_font(14), anchor="mm")
        else:
            sheet.paste(picture(image, side).convert("RGB"), at)
        if column == min(1, columns - 1):
            draw.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), outline=color, width=2)
    baseline = top + tile[1] + 6
    draw.rectangle((left, baseline + 3, left + 9, baseline + 12), fill=color if row.certified else None, outline=color)
    draw.text((left + _MARK, baseline), row.caption, fill=_INK if row.certified else _AMBER, font=_font(_CAPTION))


def _draw_heads(draw: ImageDraw.ImageDraw, corner: tuple[int, int], heads: list[str], step: int) -> None:
    for column, head in enumerate(heads):
        draw.text((corner[0] + column * step, corner[1]), head, fill=_QUIET, font=_font(13))


def _num_groups(count: int, cell_width: int, cell_height: int) -> int:
    """Column groups whose sheet comes closest to the aspect aimed at."""
    misfit = lambda groups: abs(
        math.log(groups * cell_width / (math.ceil(count / groups) * cell_height)) - math.log(_ASPECT)
    )
    return min(range(1, count + 1), key=misfit)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> int:
    return math.ceil(_font(size).getlength(text))
