"""The private side of a simulated update of a language model, kept in a file of its own and read only to score."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np

from spear_jax.client.text_batch import TextBatch
from spear_jax.client.truth import read_truth, write_truth
from spear_jax.errors import TruthError

_CONTENT = "text truth"


@dataclasses.dataclass(frozen=True, eq=False)
class TextTruth:
    """What the client kept to itself.

    Attributes:
        batch: the token sequences, and the labels where the model has classes.
        texts: the sequences as text, empty where they came as tokens.
    """

    batch: TextBatch
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.texts and len(self.texts) != self.batch.size:
            raise TruthError(f"there are {len(self.texts)} texts for {self.batch.size} sequences; give one for each.")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the truth to ``.safetensors`` or ``.npz``, atomically: tokens end to end, and the lengths.

        Raises:
            TruthError: another extension, or the folder cannot be written.
        """
        sequences = [np.asarray(sequence, np.int64) for sequence in self.batch.sequences]
        tensors = {
            "tokens": np.concatenate([np.zeros(0, np.int64), *sequences]),
            "lengths": np.array([len(sequence) for sequence in sequences], np.int64),
        }
        if self.batch.labels is not None:
            tensors["labels"] = np.asarray(self.batch.labels, np.int64)
        write_truth(path, tensors, {"content": _CONTENT, "texts": json.dumps(self.texts)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TextTruth:
        """Reads what `save` wrote.

        Raises:
            TruthError: the file cannot be read, or holds something else (an update, for instance).
        """
        name = os.path.basename(path)
        tensors, metadata = read_truth(path)
        if metadata.get("content") != _CONTENT or not {"tokens", "lengths"} <= set(tensors):
            raise TruthError(f"{name} is no truth about a language model's update; pass the one that simulate wrote.")
        tokens, lengths, labels = tensors["tokens"], tensors["lengths"], tensors.get("labels")
        is_whole = (
            all(part.ndim == 1 and part.dtype == np.int64 for part in tensors.values())
            and bool((lengths >= 0).all())
            and lengths.sum() == len(tokens)
            and (labels is None or len(labels) == len(lengths))
        )
        if not is_whole:
            raise TruthError(f"{name} is a damaged truth file: its lengths do not fit its tokens; simulate it again.")
        ends = np.cumsum(lengths)
        sequences = tuple(tokens[end - length : end] for end, length in zip(ends, lengths, strict=True))
        try:
            return cls(TextBatch(sequences, labels), tuple(json.loads(metadata["texts"])))
        except (KeyError, TypeError, ValueError) as error:
            raise TruthError(f"{name} is a damaged truth file: {error}.") from error
