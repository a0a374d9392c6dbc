"""What an audit starts from: an update file or a folder of them, or one made of the two models that a server has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spear_jax.audit.exposure import exposure
from spear_jax.audit.purge import BUNDLE
from spear_jax.errors import SpearError, UpdateError
from spear_jax.tensor_files import make_folder
from spear_jax.update.bundle_file import load_update, save_update
from spear_jax.update.make import make_update
from spear_jax.update.readers.model_files import read_model


class Models(NamedTuple):
    """The files of a server: the model that it sent, and what came back.

    Attributes:
        before: the model that was sent.
        came_back: the model after the client's round, its change, or its gradient.
        kind: which of these: ``"weights"``, ``"delta"`` or ``"gradient"``.
        options: of `update.make.make_update`, such as ``lr`` and ``metadata``.
    """

    before: Path
    came_back: Path
    kind: str
    options: Mapping[str, Any]


def bundle_into(models: Models, out: Path) -> Path:
    """The update of two model files in a folder; one that is there already and is this very update is kept.

    Raises:
        UpdateError: the folder holds the update of other files.
        SpearError: the files make no update.
    """
    sent, back = read_model(models.before), read_model(models.came_back)
    update = make_update(sent, back, kind=models.kind, **models.options)
    make_folder(out)
    file, new = out / BUNDLE, out / f"new_{BUNDLE}"
    save_update(update, new)
    try:
        # As it is read back: what a file holds may differ in form from what was made.
        if file.exists() and load_update(file).sha256 != load_update(new).sha256:
            raise UpdateError(f"{out} holds the audit of other files or options; give another --out, or the same ones.")
        if not file.exists():
            new.replace(file)
    finally:
        new.unlink(missing_ok=True)
    return file


def exposures(file: Path, layout: str | None = None) -> list[dict[str, Any]]:
    """What the layers of an update show before any search; of one that cannot be read nothing, as the audit says why.

    Returns:
        A dictionary a layer, as `audit.exposure.exposure` gives it.
    """
    try:
        update = load_update(file, layout=layout)
        return [exposure(update, layer) for layer in update.layers]
    except SpearError:
        return []
