"""Report of the folder of a text reconstruction, beside the originals where a truth is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spear_jax.audit.text_record import read_text_record
from spear_jax.client.text_truth import TextTruth
from spear_jax.report.template import write_page
from spear_jax.report.text_page import render_text_page
from spear_jax.report.text_scores import score_record
from spear_jax.report.trials import trials_of


def make_text_report(folder: Path, truth: Path | None = None, out: Path | None = None) -> Path:
    """Write ``index.html`` of a reconstruction.

    Args:
        folder: that ``spear-jax reconstruct`` wrote.
        truth: of the simulation, None where there is none.
        out: folder for the page; the same by default.

    Returns:
        Path of the page.
    """
    content = read_text_record(folder)
    originals = None if truth is None else _originals(content, truth)
    return write_page(folder if out is None else out, render_text_page(content, originals, trials_of(folder, content)))


def _originals(content: dict[str, Any], truth: Path) -> dict[str, Any]:
    """The true sequences and whether each came back exactly, and the scores in a sentence."""
    evaluation, private = score_record(content, truth), TextTruth.load(truth)
    words = private.texts or [" ".join(map(str, np.asarray(one).tolist())) for one in private.batch.sequences]
    exact = evaluation.scores.exact.tolist()
    return {"summary": evaluation.summary, "texts": list(zip(words, exact, strict=True))}
