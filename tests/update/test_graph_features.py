"""Features files: read as they were written, and one sentence for each mistake."""

import json

import numpy as np
import pytest

BLOCKS = [{"name": "type", "labels": ["C", "N"]}, {"name": "flag", "labels": ["on"], "may_be_empty": True}]


def features(entries):
    from spear_jax.update.graph_features import features_from_json

    return features_from_json(entries)


@pytest.mark.parametrize(
    "entries",
    [
        {"blocks": BLOCKS},
        {"blocks": BLOCKS, "max_degree": 4, "max_nodes": 30, "is_connected": True},
        {"blocks": BLOCKS, "rows": [["C", None], ["N", "on"]]},
        {"rows": [[0.5, 1], [2, 3]]},
        {"blocks": [*BLOCKS, {"name": "degree", "labels": ["0", "1"]}]},
        {"blocks": [*BLOCKS, {"name": "degree", "labels": ["0", "1"]}], "degree": None},
        {"blocks": [*BLOCKS, {"name": "neighbours", "labels": [0, 1]}], "degree": "neighbours"},
    ],
)
def test_features_are_read_as_they_were_written(entries):
    from spear_jax.update.graph_features import features_to_json

    found = features(entries)
    again = features(json.loads(json.dumps(features_to_json(found))))
    for name in ("blocks", "degree", "max_degree", "max_nodes", "is_connected", "columns"):
        assert getattr(found, name) == getattr(again, name), name
    np.testing.assert_array_equal(found.possible, again.possible)


def test_rows_are_read_by_labels_or_by_columns():
    found = features({"blocks": BLOCKS, "rows": [["C", "on"], [0, 1, 0]]})
    np.testing.assert_array_equal(found.possible, [[1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], '"features" is []'),
        ({"blocks": "C"}, "\"blocks\" is 'C'; expected a list"),
        ({"blocks": [{"name": "a", "labels": []}]}, "has no labels"),
        ({"blocks": [{"name": "a", "labels": ["x", "x"]}]}, "a label twice"),
        ({"blocks": [{"name": "a", "labels": [1.5]}]}, "neither text nor a whole number"),
        ({"blocks": [BLOCKS[0], BLOCKS[0]]}, "same name"),
        ({"rows": [[1, 2], [1]]}, "different lengths"),
        ({"rows": [[1, 2], [1, 2]]}, "given twice"),
        ({"rows": [[1, "x"]]}, "expected numbers"),
        ({"rows": [3]}, "row 0 is 3"),
        ({"blocks": BLOCKS, "rows": [["C"]]}, "row 0 has 1 entries"),
        ({"blocks": BLOCKS, "rows": [[None, "on"]]}, "row 0 has None in block 'type'"),
        ({"blocks": BLOCKS, "degree": "x"}, "there is none of this name"),
        ({"blocks": BLOCKS, "degree": 3}, "the name of a block"),
        ({"blocks": BLOCKS, "max_degree": 0}, '"max_degree" is 0'),
        ({"blocks": BLOCKS, "max_nodes": True}, '"max_nodes" is True'),
        ({"blocks": BLOCKS, "is_connected": 1}, "expected true or false"),
        ({"blocks": BLOCKS, "more": 1}, "has an entry 'more'"),
    ],
)
def test_a_mistake_is_one_sentence(entries, words):
    from spear_jax.errors import UpdateError

    with pytest.raises(UpdateError) as caught:
        features(entries)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_said_to_be_none(tmp_path):
    from spear_jax.errors import UpdateError
    from spear_jax.update.graph_features import read_features

    cases = {
        "text.json": ("blocks", "is no JSON"),
        "empty.json": ("{}", 'no entry "features"'),
        "deep.json": ("[" * 100_000, "is no JSON"),
        "model.json": (json.dumps({"features": {"blocks": BLOCKS}, "model": 3}), '"model" is 3'),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(UpdateError) as caught:
            read_features(tmp_path / name)
        assert words in str(caught.value)
        assert str(caught.value).startswith(name)
    with pytest.raises(UpdateError, match="it cannot be read"):
        read_features(tmp_path / "no.json")
