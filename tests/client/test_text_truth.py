"""The truth file of a simulated text update: it comes back as it was, and nothing else passes for one."""

from __future__ import annotations

import numpy as np
import pytest

from spear_jax.client.text_batch import TextBatch
from spear_jax.client.text_truth import TextTruth
from spear_jax.errors import TruthError
from spear_jax.tensor_files import read_tensors, write_tensors

SEQUENCES = (np.array([3, 1, 4]), np.array([1, 5]), np.array([9]))


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize(("labels", "texts"), [(None, ()), (np.array([1, 0, 2]), ("a", "b", "ç"))])
def test_truth_comes_back(tmp_path, suffix, labels, texts):
    path = tmp_path / f"truth.{suffix}"
    TextTruth(TextBatch(SEQUENCES, labels), texts).save(path)
    found = TextTruth.load(path)
    assert [list(sequence) for sequence in found.batch.sequences] == [[3, 1, 4], [1, 5], [9]]
    assert found.texts == texts
    assert (found.batch.labels is None) if labels is None else np.array_equal(found.batch.labels, labels)


def test_other_files_are_no_truth(tmp_path):
    write_tensors(tmp_path / "update.npz", {"grad/a": np.ones(2)}, {"kind": "gradient"})
    with pytest.raises(TruthError, match="update.npz is no truth"):
        TextTruth.load(tmp_path / "update.npz")
    with pytest.raises(TruthError, match="does not exist"):
        TextTruth.load(tmp_path / "none.npz")
    with pytest.raises(TruthError, match="cannot write"):
        TextTruth(TextBatch(SEQUENCES)).save(tmp_path / "truth.txt")


@pytest.mark.parametrize(
    "change", [{"lengths": np.array([3, 2, 2])}, {"lengths": np.array([7, -1, 0])}, {"labels": np.array([1])},
               {"tokens": np.ones(6)}, {"lengths": np.array(6)}]
)  # fmt: skip
def test_tensors_that_do_not_fit_each_other_are_damage(tmp_path, change):
    path = tmp_path / "truth.npz"
    TextTruth(TextBatch(SEQUENCES)).save(path)
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors | change, metadata)
    with pytest.raises(TruthError, match="truth.npz is a damaged truth file"):
        TextTruth.load(path)


def test_texts_that_are_no_list_are_damage(tmp_path):
    path = tmp_path / "truth.npz"
    TextTruth(TextBatch(SEQUENCES)).save(path)
    tensors, metadata = read_tensors(path)
    for texts in ("[", "3", '["one"]'):
        write_tensors(path, tensors, metadata | {"texts": texts})
        with pytest.raises(TruthError):
            TextTruth.load(path)
