"""The first paragraph of a page: what was found, of how many, how sure that is, what would stop it."""

import pytest

from spear_jax.audit.plain_words import in_plain_words
from spear_jax.defences.trials import Trial
from tests.helpers.command_line import planted_update, run


def dense(certified, approximate=0, batch_size=5, num_examples=None):
    counts = {"certified": certified, "approximate": approximate, "batch_size": batch_size}
    return counts | {"num_examples": num_examples}


def trial(defence, leaked, strength=1.0, parameter="std"):
    return Trial(defence, parameter, strength, leaked, 0, None, 5)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (dense(5), "recovered exactly all of the 5 records that can be told apart in this update."),
        (dense(5, num_examples=5), "recovered exactly all of the 5 records that this client trained on."),
        (dense(5, num_examples=9), "recovered exactly 5 of the 9 records that this client trained on."),
        (dense(1, batch_size=1), "recovered exactly 1 of the 1 record that can be told apart in this update."),
        (dense(2, 3), "recovered exactly 2 and 3 more approximately of the 5 records"),
        (dense(0, 4), "recovered approximately 4 of the 5 records"),
        (dense(0), "could not recover any of the 5 records whole and with certainty."),
        (dense(0, batch_size=None), "could not recover any record whole and with certainty."),
        ({"family": "text", "certified": 2, "num_sequences": 3}, "recovered exactly 2 of the 3 texts"),
        ({"family": "graphs", "certified": 2, "exact": 2, "num_graphs": 2}, "recovered exactly all of the 2 graphs"),
        (
            {"family": "graphs", "certified": 3, "exact": 2, "num_graphs": 3},
            "recovered exactly 2 and 1 more up to other graphs with the same gradient of the 3 graphs",
        ),
        (
            {"family": "graphs", "certified": 2, "exact": 0, "num_graphs": 3},
            "recovered up to other graphs with the same gradient 2 of the 3 graphs",
        ),
        ({}, "could not recover any record whole and with certainty."),
    ],
)
def test_what_was_found_of_how_many(record, words):
    assert words in in_plain_words(record)


def test_how_sure_it_is():
    assert "A certified record is what this client trained on, value for value" in in_plain_words(dense(1))
    assert "confirmed too, with an error" in in_plain_words(dense(0, 1))
    nothing = in_plain_words(dense(0))
    assert "certified" not in nothing
    assert "That is no proof of safety" in nothing


@pytest.mark.parametrize("tokens", [{"ids": [4, 7, 9]}, {"count": 3}])
def test_words_are_told_where_texts_are_not(tokens):
    record = {"family": "text", "certified": 0, "num_sequences": 0, "tokens": tokens | {"certified": True}}
    assert "which 3 different tokens" in in_plain_words(record)
    assert "different tokens" not in in_plain_words(record | {"tokens": tokens | {"certified": False}})


def test_what_would_stop_it():
    assert "was not tried" in in_plain_words(dense(5))
    weak, strong = trial("noise", 5, 0.1), trial("noise", 0, 0.5)
    assert "None of the 1 defences" in in_plain_words(dense(5), [weak])
    said = in_plain_words(dense(5), [weak, strong, trial("drop", 2), trial("sign", 0, None, "")])
    assert "Of 3 defences that were tried" in said
    assert "nothing behind noise (std at least 0.5) or sign; each costs accuracy" in said
    assert "drop" not in said


def test_the_page_begins_with_it(tmp_path):
    update = planted_update(tmp_path / "update.safetensors", 3, 60, 8)
    assert run("reconstruct", update, "--out", tmp_path / "recon").code == 0
    assert run("report", tmp_path / "recon").code == 0
    html = (tmp_path / "recon/index.html").read_text()
    words = "<p>From this one update alone, the server recovered exactly all of the 3 records"
    assert html.index("<h1>") < html.index(words) < html.index("Every sample of the batch was reconstructed")
