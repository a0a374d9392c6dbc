"""The configuration that frameworks put with a model's weights: ``config.json``, beside them or in an archive.

It only ever adds to what is known, so one that is missing, too large or damaged is as good as empty.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from spear_jax.tensor_files import READ_ERRORS, ZIP_ERRORS

NAME = "config.json"
_LARGEST = 2**24


def beside(path: Path) -> bytes:
    """The configuration in a folder, or in that of a file; empty where there is none."""
    place = (path if path.is_dir() else path.parent) / NAME
    try:
        return place.read_bytes() if place.is_file() and place.stat().st_size <= _LARGEST else b""
    except OSError:
        return b""


def within(path: Path) -> bytes:
    """The configuration in a zip archive; empty where there is none, or no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(NAME) if archive.getinfo(NAME).file_size <= _LARGEST else b""
    except (*ZIP_ERRORS, *READ_ERRORS, LookupError):
        return b""
