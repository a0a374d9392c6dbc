"""A folder of report pages, one of each kind, with more samples than are shown without a search box."""

import numpy as np

from tests.helpers.graph_records import graph_class, planted_result, planted_update, rewired, write_planted

# Samples of every page that is searched.
MANY = 27


def photo_page(folder):
    """Photos beside their originals: certified, approximate and not certified ones, and one that is missing."""
    from skimage import data

    from spear_jax.client.evaluate import evaluate
    from spear_jax.normalization import Normalization
    from spear_jax.report.write import write_report

    photo = data.astronaut()
    images = np.stack([photo[i * 12 : i * 12 + 32, 150 + i * 6 : 182 + i * 6] for i in range(MANY)])
    truth = (images / 255).reshape(MANY, -1)
    found = truth.copy()
    found[4] += 0.03
    found[9] = np.random.default_rng(0).uniform(0, 1, truth.shape[1])
    found[11] = np.nan
    exact = ~np.isin(np.arange(MANY), [4, 9, 11])
    normalization = Normalization(mean=(0.0,), std=(1.0,))
    scores = evaluate(found, truth, normalization=normalization, images=images, certified=exact).to_json()
    return write_report(
        folder, dense_record(), found, exact, np.where(exact, 1.0, 0.71), approximate=np.arange(MANY) == 4,
        error=np.where(exact, 2e-7, 0.03), trials=trials(), normalization=normalization, image_shape=(32, 32, 3),
        truth_images=images, evaluation_json=scores,
    )[0]  # fmt: skip


def table_page(folder):
    """Rows of a table; the first is approximate and the second not certified."""
    from spear_jax.report.write import write_report

    rows = np.random.default_rng(1).normal(size=(MANY, 14)) * 100
    columns = [f"{word} {i}" for i, word in enumerate(["capital gain", "hours a week"] * 7)]
    place = np.arange(MANY)
    return write_report(
        folder, dense_record(shape=[200, 14]), rows, place > 1, np.where(place > 1, 1.0, 0.6),
        approximate=place == 0, error=np.full(MANY, 0.004), columns=columns,
    )[0]  # fmt: skip


def text_page(folder):
    """Certified sequences, traces, tokens of several rounds and the originals."""
    from spear_jax.report.template import write_page
    from spear_jax.report.text_page import render_text_page

    said = "My card ends in {}, please send the new one to 17 Elm Road."
    plain = {"tokens": [3, 1, 2], "copies": 1, "exact": True}
    one = lambda i, **changes: plain | {"text": said.format(4400 + i)} | changes
    record = text_record(
        sequences=[one(i, label=i % 3) for i in range(MANY - 3)] + [one(90, exact=False, copies=None)],
        traces=[{"tokens": [1], "text": said.format(i)} for i in range(2)],
        tokens={"ids": list(range(40)), "texts": ["Ġword"] * 40, "certified": True, "rounds": 2},
    )
    originals = {"summary": "1 of 2 exact.", "texts": [(said.format(4400), True), (said.format(5), False)]}
    return write_page(folder, render_text_page(record, originals, trials()))


def graph_page(folder):
    """Molecules: exact, classes of several, and one that is not certified, with the originals."""
    from spear_jax.report.graph_folder import make_graph_report

    graph_record(folder)
    return make_graph_report(folder, folder / "truth.safetensors")


def graph_record(folder):
    """Write the record of these molecules, and give it."""
    folder.mkdir(parents=True, exist_ok=True)
    caffeine, cholesterol, aspirin = planted_update(folder, ("caffeine", "cholesterol", "aspirin")).graphs
    classes = [graph_class(caffeine)] * (MANY - 3) + [
        graph_class(rewired(cholesterol, 2, 0), cholesterol, rewired(cholesterol, 2, 1), is_cut=True),
        graph_class(aspirin, may_be_larger=True),
        graph_class(rewired(caffeine, 1), is_certified=False),
    ]
    return write_planted(folder, planted_result(classes))


def index_page(folder):
    """Clients of two rounds: whole, in part, nothing and not inverted."""
    from spear_jax.report.index import write_index

    folder.mkdir(parents=True, exist_ok=True)
    found = {"EXACT": 4, "PARTIAL": 2, "RANK_FULL": 0}
    updates = [
        {
            "update": f"round-{place // 16}/client-{place}.npz",
            "folder": f"round-{place // 16}/client-{place}",
            "status": status,
            "batch_size": status and 4,
            "certified": status and found[status],
            "approximate": status and 0,
            "seconds": status and 1.25,
            "sentence": "What was found is told here in a sentence.",
        }
        for place, status in enumerate([*["EXACT"] * 24, "PARTIAL", "RANK_FULL", None])
    ]
    summary = {
        "updates": updates, "whole": 24, "total": MANY, "certified": 98, "folder": "updates",
        "sentence": "24 of 27 updates were reconstructed whole.",
    }  # fmt: skip
    pages = {entry["update"]: f"{entry['folder']}/index.html" for entry in updates if entry["status"]}
    return write_index(folder, summary, pages)


def redacted_page(folder):
    """The page that may be passed on."""
    from spear_jax.report.redacted import render_redacted_page
    from spear_jax.report.template import write_page

    return write_page(folder, render_redacted_page(dense_record(image_shape=[32, 32, 3]), trials()))


PAGES = {
    "photos": photo_page,
    "table": table_page,
    "text": text_page,
    "graphs": graph_page,
    "folder": index_page,
    "redacted": redacted_page,
}


def dense_record(**changes):
    """A record of a fully connected layer."""
    return {
        "status": "PARTIAL", "message": "25 of 27 were reconstructed.", "batch_size": MANY, "num_examples": MANY,
        "directions_found": MANY, "certified": MANY - 3, "approximate": 1, "layer": "Dense_0", "shape": [400, 3072],
        "config": {"method": "auto", "shard": [0, 1]}, "seed": 7, "versions": {"jax": "0.10.0", "python": "3.12.3"},
        "stats": {
            "method": "sampling", "reason": "few directions", "candidates": 27_000_000, "devices": 8,
            "device_kind": "cpu", "expected_candidates": float("inf"), "seconds": {"search": 0.25, "solve": 0.5},
        },
        "certificate": {"matching_score": 0.99999, "weight_residual": 3.1e-15, "error_median": 2e-7},
        "observed": {"kind": "weights", "dtype": "float32", "lr": 0.05, "local_steps": 1}, "noise_floor": 2.5e-6,
        "gap": 400.0, "update": "round-1/client 3.npz", "update_sha256": "ab" * 32,
    } | changes  # fmt: skip


def text_record(**changes):
    """A record of a language model."""
    view = {"layer": 0, "role": "qkv", "rank": 12, "width": 96, "rows": 192}
    return {
        "family": "text", "status": "EXACT", "message": "Most sequences came back.", "num_sequences": MANY,
        "num_examples": MANY, "certified": MANY - 3, "sequences": [], "traces": [], "tokens": {},
        "certificate": {"residual": 2e-7, "limit": 1e-5, "factor": 1.0},
        "views": [view, view | {"role": "o", "rank": 96}, view | {"layer": 1, "rank": 8, "rows": 8}],
        "seconds": {"views": 1.0},
        "model": {"name": "tiny", "adapter": None, "family": "llama", "layers": 2, "width": 96, "vocabulary": 400},
        "observed": {"kind": "weights", "dtype": "float32", "half": None, "tensors": 9, "untrained": 0, "lr": 0.1},
        "update": "u.safetensors", "update_sha256": "ab" * 32, "versions": {"python": "3"},
    } | changes  # fmt: skip


def trials():
    """Trials of three defences: one that stops it, one that only weakens it, one that could not be applied."""
    from spear_jax.defences.trials import Trial

    grids = {
        "top_k": ("share", (1.0, 0.9, 0.5), (25, 3, 0)),
        "int8": ("", (None,), (0,)),
        "clip": ("norm", (1.0,), (25,)),
    }
    return [
        Trial(name, parameter, strength, certified, 0, None, MANY)
        for name, (parameter, strengths, leaks) in grids.items()
        for strength, certified in zip(strengths, leaks, strict=True)
    ]
