"""What the page of a text reconstruction says, in plain text: threat model, certificate, views, defences, facts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from spear_jax.report.text_values import certificate_sentence
from spear_jax.report.trials import how_to_try
from spear_jax.report.values import DASH, mapping, number, repeat_rows, returned_rows, text

Rows = list[tuple[str, str]]
# Inputs of a block's layers, by their names in the record.
ROLES = {
    "qkv": "read by queries, keys and values",
    "o": "attention's outputs",
    "up": "read by the feed-forward layers",
    "down": "inside the feed-forward layers",
}
VIEW_HEADER = ("Block", "Input", "Directions", "Width", "Rows that show them", "So")
MEASURE_HEADER = ("Measure", "What it does to this attack", "Known from")
MEASURED, ARGUED = "measurement", "argument"


def headline(record: Mapping[str, Any]) -> str:
    """What leaked, in a sentence without a full stop."""
    certified, tokens = record.get("certified") or 0, mapping(record.get("tokens"))
    count = len(tokens.get("ids") or [])
    if certified:
        return f"{number(certified)} {_of('sequence', certified)} reconstructed and certified without ground truth"
    if count and tokens.get("certified"):
        return f"{number(count)} distinct {_of('token', count)} certified without ground truth, but no sequence"
    return "Nothing could be certified"


def threat_model(record: Mapping[str, Any]) -> str:
    """Who attacks with what, in a paragraph."""
    sent = mapping(record.get("model"))
    beside = " with its adapters" if sent.get("adapter") else ""
    return (
        "The server is honest but curious: it follows the protocol and reads what comes back. It used only what every "
        f"round gives it: the language model that it sent ({text(sent.get('name'))}{beside}), whose vocabulary it "
        "knows, and one client's update. No text, no label, no length of a sequence and no batch size entered the "
        "reconstruction or its certificate, and no other language model guessed at what people write."
    )


def certification(record: Mapping[str, Any]) -> list[str]:
    """How the batch was certified, in paragraphs."""
    paragraphs = [
        "A batch is certified as a whole: the server computes the gradient of the sequences that it found, with "
        "the model that it sent, and holds every tensor against what came back. Order does not matter, everything else "
        "does: on a real model one wrong token left 0.18 of the norm, one wrong last label 0.075, and the right batch "
        "2 \N{MULTIPLICATION SIGN} 10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT SEVEN}.",
        certificate_sentence(record),
    ]
    if mapping(record.get("tokens")).get("certified"):
        paragraphs.append(
            "The set of distinct tokens is certified by itself: together they explain every direction that the first "
            "block's gradients show, and none of them can be left out."
        )
    return paragraphs


def several_rounds(rounds: int) -> str:
    """Whose tokens these are where several rounds were stacked."""
    return (
        f"They are of {number(rounds)} rounds of one client together: adapters leave the embedding as it was, so the "
        "first block reads the same of a token in each. Each token was in at least one of the rounds; in which is not "
        "told. Sequences, and their certificate, are of the first round alone."
    )


def view_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows below `VIEW_HEADER`."""
    views = record.get("views")
    rows = []
    for view in map(mapping, views if isinstance(views, Sequence) else ()):
        numbers = (number(view.get(name)) for name in ("rank", "width", "rows"))
        role = str(view.get("role"))
        rows.append((number(view.get("layer")), ROLES.get(role, role), *numbers, _reading(view)))
    return rows


def _reading(view: Mapping[str, Any]) -> str:
    """What follows from the sizes of one view."""
    rank, width, rows = (view.get(name) for name in ("rank", "width", "rows"))
    if not (isinstance(rank, int) and isinstance(width, int) and isinstance(rows, int)):
        return DASH
    if rank >= width:
        return "full: it tells nothing apart"
    if rank >= rows:
        return "as many as there are rows: the batch may have more"
    what = "distinct tokens" if view.get("layer") == 0 and view.get("role") == "qkv" else "beginnings of sequences"
    return f"all of them are seen: as many {what}"


def facts(record: Mapping[str, Any]) -> dict[str, Rows]:
    """Tables of (name, value) by section: ``observed`` and ``repeat``."""
    sent = mapping(record.get("model"))
    sizes = [sent.get(name) for name in ("layers", "width", "vocabulary")]
    return {
        "observed": [
            ("Model", text([sent.get("name"), f"({text(sent.get('family'))})"])),
            (
                "Blocks, width, vocabulary",
                ", ".join(map(number, sizes)),
            ),
            *returned_rows(record),
        ],
        "repeat": repeat_rows(record, command(record)),
    }


def command(record: Mapping[str, Any]) -> str:
    """The command line that repeats the reconstruction, the model by the name of its folder."""
    if not record.get("update") or not mapping(record.get("model")).get("name"):
        return DASH
    also = [str(word) for one in record.get("also") or () for word in ("--also", mapping(one).get("update"))]
    return shlex.join(["spear-jax", "reconstruct", str(record["update"]), *_model_options(record), *also])


def _model_options(record: Mapping[str, Any]) -> list[str]:
    sent, observed = mapping(record.get("model")), mapping(record.get("observed"))
    words = ["--model", sent.get("name") or "MODEL"]
    words += ["--adapter", sent["adapter"]] if sent.get("adapter") else []
    words += ["--kind", observed["kind"]] if observed.get("kind") else []
    words += ["--lr", observed["lr"]] if observed.get("lr") else []
    return [str(word) for word in words]


def not_tried(record: Mapping[str, Any]) -> str:
    """How to find out which defence would have stopped it, the model by the name of its folder."""
    return how_to_try(record, _model_options(record))


def measures(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows below `MEASURE_HEADER`: what stops this attack, what only weakens it, and what does not."""
    width = mapping(record.get("model")).get("width")
    here = f", here {number(width)}" if isinstance(width, int) else ""
    return [
        (
            "More distinct tokens than the width",
            f"Stops it. From as many distinct tokens as the model is wide{here}, the first block's gradients fill "
            "their space and tell nothing apart. A smaller batch is no defence, whatever its number of sequences.",
            ARGUED,
        ),
        (
            "Secure aggregation",
            "Stops what this page shows of one client: the server sees a sum over clients, which is one batch as large "
            "as all of theirs together. That batch is inverted like any other where its distinct tokens are fewer "
            "than the width.",
            ARGUED,
        ),
        (
            "Dropout in the adapters (lora_dropout)",
            "Stops exact inversion through adapters: it masks what they read at random, so no token fits exactly. "
            "Attacks that guess the masks exist; it was not tried here how much they get. Full training of models of "
            "the Llama type has no dropout to turn on.",
            ARGUED,
        ),
        (
            "AdamW instead of SGD",
            "Weakens it. A step keeps only signs, and exact inversion is refused here. Tokens still show: a plain test "
            "of one block named 20 of 27 and 40 of 67 (at most: its cut was set with the truth).",
            MEASURED,
        ),
        (
            "Noise, as in differentially private training",
            "Weakens it, and stops it where the noise is as large as the gradient. Of 67 tokens that test named 22 "
            "under noise of 35 to 65 % of the gradient's root mean square, 57 under 4 to 6 %, 66 below 1 %.",
            MEASURED,
        ),
        (
            "Half precision",
            "Does not stop it. Gradients rounded to bfloat16 named 292 of 292 distinct tokens, and 16 of 16 sequences.",
            MEASURED,
        ),
        (
            "Adapters of low rank",
            "Do not hide the tokens. Rank 4 beside queries and values, 8 directions in all, gave 69 of 69 distinct "
            "tokens. Low rank does hide the order in batches with more beginnings of sequences than directions.",
            MEASURED,
        ),
    ]  # fmt: skip


def _of(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
