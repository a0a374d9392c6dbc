"""Updates of a language model into folders: the text behind one, or behind each below a folder of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.audit import record
from spear_jax.audit.folder import OnStart, OnUpdate, audit_each, refused
from spear_jax.audit.text_record import (
    Decode,
    TextAudited,
    is_text,
    make_record,
    read_text_record,
    write_text_record,
)
from spear_jax.config import ReconstructConfig
from spear_jax.errors import RecordError, SpearError, UpdateError
from spear_jax.tensor_files import make_folder
from spear_jax.update import adapters, language_model
from spear_jax.update.adapters import Adapter, read_adapter
from spear_jax.update.language_model import LanguageModel, read_language_model
from spear_jax.update.text_file import read_text_update
from spear_jax.update.text_update import TextUpdate

OnStage = Callable[[str], None]


class SentModel(NamedTuple):
    """What the server sent, read once for all updates.

    Attributes:
        model: without adapters.
        name: of its folder or file.
        adapter: that it sent with it, None without.
        adapter_name: of its folder.
        decode: turns tokens into text; None for the model's own tokenizer, where it has one.
    """

    model: LanguageModel
    name: str
    adapter: Adapter | None = None
    adapter_name: str | None = None
    decode: Decode | None = None


class Returned(NamedTuple):
    """What is said of an update beside its file.

    Attributes:
        kind: ``"gradient"``, ``"weights"`` or ``"delta"``; None where the file says.
        lr: learning rate of the client's SGD, None where the file says or nobody knows.
        resume: whether what is finished is kept.
        also: files of further rounds of the same client, whose tokens are found together with the first one's.
    """

    kind: str | None = None
    lr: float | None = None
    resume: bool = False
    also: tuple[Path, ...] = ()


def audit_text_update(
    path: str | os.PathLike[str],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str] = "recon",
    *,
    adapter: str | os.PathLike[str] | None = None,
    returned: Returned = Returned(),
    on_stage: OnStage | None = None,
    on_start: OnStart | None = None,
    on_update: OnUpdate | None = None,
) -> dict[str, Any]:
    """Reconstruct the text behind an update of a language model, or behind each of a folder, into a folder.

    What ``spear-jax reconstruct PATH --model MODEL --out OUT`` does. Of one update the folder holds ``result.json``
    (the record) and, where anything is certified, ``texts.txt``; of a folder one such folder an update, and
    ``summary.json``.

    Args:
        path: a bundle, a file of tensors alone, PEFT's folder, or a folder of bundles at any depth.
        model: folder or GGUF file of the model that the server sent.
        out: folder to write, which is made where it does not exist.
        adapter: PEFT's folder of the adapters that it sent with it.
        returned: what is said of the updates beside their files, and further rounds of the same client (``also``).
        on_stage: called with a sentence before each stage of a reconstruction.
        on_start: of a folder: called with the names of all updates, in their order, before the first.
        on_update: of a folder: called with each update's entry of the summary as it is done.

    Returns:
        the record of one update, or the summary of a folder; `is_whole` says of either whether all is certified.

    Raises:
        SpearError: input that cannot be used, or from which no batch follows, in one sentence.

    Examples:
        >>> import spear_jax as sj
        >>> record = sj.audit_text_update("update.safetensors", "SmolLM2-135M", out="recon")
        >>> [one["text"] for one in record["sequences"] if one["exact"]]
        ['My new address is 17 Lindenweg, second floor.']
    """
    path, out = Path(path), Path(out)
    sent = read_sent(model, adapter)
    if not path.is_dir() or any((path / name).is_file() for name in (*adapters.WEIGHTS, *language_model.WEIGHTS)):
        return audit_text(path, out, sent, returned, on_stage=on_stage)
    if returned.also:
        raise SpearError(f"{path} is a folder of updates, and --also goes with one update; give its file.")

    def audited(file: Path, into: Path) -> dict[str, Any]:
        try:
            return entry_of(audit_text(file, into, sent, returned, on_stage=on_stage))
        except Exception as error:
            return refused(error)

    return audit_each(path, out, audited, on_start=on_start, on_update=on_update)


def read_sent(model: str | os.PathLike[str], adapter: str | os.PathLike[str] | None = None) -> SentModel:
    """What the server sent, from its files.

    Raises:
        UpdateError: they cannot be used, in one sentence.
    """
    found = read_language_model(model)
    if adapter is None:
        return SentModel(found, _name(model))
    return SentModel(found, _name(model), read_adapter(adapter, found), _name(adapter))


def read_returned(path: str | os.PathLike[str], sent: SentModel, returned: Returned = Returned()) -> TextUpdate:
    """What a client returned of the model that was sent."""
    return read_text_update(path, sent.model, adapter=sent.adapter, kind=returned.kind, lr=returned.lr)


def audit_text(
    path: Path, out: Path, sent: SentModel, returned: Returned = Returned(), *, on_stage: OnStage | None = None
) -> dict[str, Any]:
    """Reconstruct the text behind one update into a folder.

    Returns:
        The record, as written; where ``returned.resume`` is set and the folder holds one of this very update, that.

    Raises:
        SpearError: an update from which no batch follows, or a folder that holds a reconstruction of another kind.
    """
    update = read_returned(path, sent, returned)
    if (out / record.INPUTS).exists():
        raise SpearError(f"{out} holds the reconstruction of a dense layer; give another --out for text.")
    beside = [_read_also(file, sent, returned) for file in returned.also]
    also = tuple((str(file), one.sha256) for file, one in zip(returned.also, beside, strict=True))
    if returned.resume and (kept := _finished(out, update, sent, also)) is not None:
        return kept
    observation, others = update.observation(), [one.observation() for one in beside]
    make_folder(out)
    number = update.metadata.get("num_examples")
    config = ReconstructConfig(num_examples=None if number is None else int(number))
    result = reconstruct(observation, config, also=others, on_stage=on_stage)
    decode = sent.decode or (update.model.tokenizer.decode if update.model.tokenizer else None)
    content = make_record(result, TextAudited(update, path, sent.name, sent.adapter_name, decode, also))
    write_text_record(out, content)
    return content


def entry_of(content: dict[str, Any]) -> dict[str, Any]:
    """What the summary of a folder says of one record."""
    return {
        "update_sha256": content["update_sha256"],
        "layer": None,
        "batch_size": content["num_sequences"],
        "certified": content["certified"],
        "approximate": 0,
        "status": content["status"],
        "seconds": sum(content["seconds"].values()),
        "sentence": content["message"],
    }


def _read_also(path: Path, sent: SentModel, returned: Returned) -> TextUpdate:
    """What the client returned in a further round, whose adapters were others than in the first one.

    Raises:
        UpdateError: it cannot be read, or its gradient follows only with tensors of its own round that it lacks.
    """
    update = read_returned(path, sent, returned)
    needs_sent = update.kind == "weights" or "weight_decay" in update.metadata
    if needs_sent and not set(update.came_back) <= set(update.beside):
        raise UpdateError(
            f"{path.name} is of kind {update.kind}, and what was sent in its round is not in it; give its gradient, or "
            "a bundle with that round's global/ tensors."
        )
    return update


def _finished(
    out: Path, update: TextUpdate, sent: SentModel, also: tuple[tuple[str, str], ...]
) -> dict[str, Any] | None:
    """The record in the folder, where it is of this update and model, and of these further rounds."""
    if not is_text(out):
        return None
    try:
        content = read_text_record(out)
    except RecordError:
        return None
    names = {name: content["model"].get(name) for name in ("name", "adapter")}
    is_same = content["update_sha256"] == update.sha256 and names == {"name": sent.name, "adapter": sent.adapter_name}
    rounds = [one["update_sha256"] for one in content.get("also", ())]
    return content if is_same and rounds == [sha256 for _, sha256 in also] else None


def _name(path: str | os.PathLike[str]) -> str:
    return Path(path).resolve().name
