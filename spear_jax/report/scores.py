"""A reconstruction's folder scored against the truth that a simulation kept apart."""

from __future__ import annotations

from spear_jax.audit import record
from spear_jax.client.evaluate import Evaluation, evaluate
from spear_jax.client.truth import Truth
from spear_jax.errors import TruthError

EVALUATION = "evaluation.json"


def score(found: record.Reconstruction, truth: Truth) -> Evaluation:
    """Score a reconstruction against the inputs of the layer that was inverted.

    Raises:
        TruthError: the truth is of another model, without this layer or with samples of another size.
    """
    layer = found.record["layer"]
    if layer not in truth.layer_inputs:
        raise TruthError(f"the truth holds the inputs of {', '.join(truth.layer_inputs)}, not of {layer}.")
    num_found, num_true = found.inputs.shape[1], truth.layer_inputs[layer].shape[1]
    if num_found != num_true:
        raise TruthError(
            f"the truth's samples have {num_true} values at {layer} and the reconstruction's {num_found}; pass the "
            "truth that belongs to this update."
        )
    is_image = found.image_shape is not None and found.normalization is not None
    return evaluate(
        found.inputs,
        truth.layer_inputs[layer],
        normalization=found.normalization if is_image else None,
        image_shape=found.image_shape if is_image else None,
        images=truth.images if is_image else None,
        certified=found.exact,
    )
