"""What the report says, section by section, in plain text: from a reconstruction's record and trials of defences."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from spear_jax.config import ReconstructConfig
from spear_jax.numerics import MIN_GAP
from spear_jax.report.values import DASH, copies, count_of, devices, mapping, number, seconds, shape, share, text
from spear_jax.types import ERROR_MARGIN, MAX_ERROR

Rows = list[tuple[str, str]]
# Fields of the configuration that are options of the command line under the same name.
_OPTIONS = ("method", "rank", "max_candidates", "max_seconds", "sampler", "round_size")


def threat_model(record: Mapping[str, Any]) -> str:
    """Who attacks with what, in a paragraph."""
    layer = record.get("layer")
    which = f"{layer}, a linear layer" if isinstance(layer, str) and layer else "a linear layer"
    return (
        "The server is honest but curious: it follows the protocol and reads what comes back. It used only what every "
        f"round gives it: the model that it sent, and one client's update of {which} with bias followed by ReLU. "
        "Nothing private entered the reconstruction or its certificates: no sample, no label, no knowledge of how the "
        "data look. What it needs is this one client's update by itself; a sum over clients is one larger batch to it."
    )


def certification(record: Mapping[str, Any], num_by_network: int) -> list[str]:
    """How the samples of this reconstruction were certified, in paragraphs.

    Args:
        record: the dictionary of ``result.json``.
        num_by_network: samples that the layers above confirm, each on its own.
    """
    steps = mapping(record.get("observed")).get("local_steps")
    paragraphs = [_by_movement(steps) if isinstance(steps, int) and steps > 1 else _BY_PATTERN]
    if num_by_network:
        paragraphs.append(
            f"By the network, {num_by_network} of them: each of these samples, run through the layers above with the "
            "label found for it, gives a gradient that lies in the column space of the update. That confirms the "
            "sample on its own, whatever became of the others, and its label with it."
        )
    limit = MAX_ERROR / ERROR_MARGIN
    paragraphs.append(
        "The expected error of a sample is relative to its norm and follows from the noise of the update alone; the "
        f"true error is hardly ever more than {number(ERROR_MARGIN)} times as large. A sample is certified exact where "
        f"the expected error is below {number(limit)}, and approximate where its pattern is confirmed but the noise "
        "leaves a larger one."
    )
    return paragraphs


_BY_PATTERN = (
    "By the pattern: the reconstructed input, put through the weights that the server itself sent out, is positive "
    "exactly where the gradient that belongs to it is not zero, on every live neuron of the layer that the noise "
    "leaves decided. A wrong reconstruction agrees on many neurons by chance but not on all of them, and no original "
    "enters the test."
)


def _by_movement(steps: int) -> str:
    return (
        f"By the pattern, over the client's {number(steps)} local steps: where the weights moved less than the "
        "pre-activation is from zero, the neuron was on or off in every step, and there the reconstructed input must "
        "be positive exactly where the gradient that belongs to it is not zero. Where the weights moved too far to "
        "leave enough such neurons, a sample counts if its direction follows from its zeros alone, from more of them "
        "than it takes to make one, and its pattern agrees better than chance would."
    )


def noise(record: Mapping[str, Any]) -> list[str]:
    """The noise floor and gap of the update in words, and where the noise of sent weights comes from."""
    floor, gap = record.get("noise_floor"), record.get("gap")
    paragraphs = []
    if isinstance(floor, int | float) and isinstance(gap, int | float):
        verdict = "enough to tell them apart" if gap >= MIN_GAP else "too little: the noise may hide some samples"
        paragraphs.append(
            f"The largest singular value of the noise is estimated at {number(floor)}, in the gradient's units; the "
            f"smallest one of the batch stands {number(gap)} times above what follows it, {verdict}."
        )
    observed = mapping(record.get("observed"))
    if observed.get("kind") in ("weights", "delta") and observed.get("dtype") == "float32":
        lr = f", here {number(observed['lr'])}," if observed.get("lr") else ""
        paragraphs.append(
            "The client sent the outcome of training in float32, in which each weight is rounded to about "
            "6 \N{MULTIPLICATION SIGN} 10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT EIGHT} of its size. The gradient is "
            f"the change of the weights divided by the learning rate{lr} and the rounding is divided with it: that is "
            "where this noise comes from. Larger steps drown it; smaller steps and half precision raise it."
        )
    if observed.get("defence"):
        paragraphs.append(
            f"The update says that a defence was applied before it was sent: {text(observed['defence'])}."
        )
    return paragraphs


def facts(record: Mapping[str, Any]) -> dict[str, Rows]:
    """Tables of (name, value) by section: ``certified``, ``cost``, ``observed`` and ``repeat``."""
    stats, certificate = mapping(record.get("stats")), mapping(record.get("certificate"))
    observed, rank = mapping(record.get("observed")), record.get("batch_size")
    config = {name: value for name, value in mapping(record.get("config")).items() if value is not None}
    return {
        "certified": [
            ("Status", text(record.get("status"))),
            ("Batch size (rank of the gradient)", number(rank)),
            ("Directions found", count_of(record.get("directions_found"), rank)),
            ("Samples certified", count_of(record.get("certified"), rank)),
            ("Samples approximate", count_of(record.get("approximate"), rank)),
            ("Copies of equal samples", copies(record.get("copies"), record.get("num_examples"))),
            ("Expected error, median", number(certificate.get("error_median"))),
            ("Expected error, largest", number(certificate.get("error_max"))),
            ("Mean matching score", share(certificate.get("matching_score"))),
            ("Relative residual, weight gradient", number(certificate.get("weight_residual"))),
            ("Relative residual, bias gradient", number(certificate.get("bias_residual"))),
        ],
        "cost": [
            ("Seconds", seconds(mapping(stats.get("seconds")))),
            ("Devices", devices(stats)),
            ("Float64 solved by", text(stats.get("float64"))),
            ("Method", text(stats.get("method"))),
            ("Why this one", text(stats.get("reason"))),
            ("Activation", text(" or ".join(map(str, stats.get("activations") or ["relu"])))),
            ("Sampler", text(stats.get("sampler"))),
            ("Candidates drawn", number(stats.get("candidates"))),
            ("Candidates expected", number(stats.get("expected_candidates"))),
            ("Still expected", number(stats.get("expected_remaining"))),
            ("Rounds", number(stats.get("rounds"))),
        ],
        "observed": [
            ("Layer", text(record.get("layer"))),
            ("Kernel (out \N{MULTIPLICATION SIGN} in)", shape(record.get("shape"))),
            ("Sent as", _join(observed.get("kind"), observed.get("dtype"))),
            ("Local steps", number(observed.get("local_steps"))),
            ("Noise floor of the gradient", number(record.get("noise_floor"))),
            ("Gap above the noise", number(record.get("gap"))),
            ("Normalisation of the inputs", text(record.get("normalization"))),
        ],
        "repeat": [
            ("Command", command(record)),
            ("SHA-256 of the update", text(record.get("update_sha256"))),
            ("Seed", text(record.get("seed"))),
            ("Options", text(config)),
            ("Versions", text(mapping(record.get("versions")))),
        ],
    }


def command(record: Mapping[str, Any]) -> str:
    """The command line that repeats the reconstruction; devices and memory, which do not change it, are left out."""
    if not record.get("update"):
        return DASH
    config, defaults = mapping(record.get("config")), dataclasses.asdict(ReconstructConfig())
    words = ["spear-jax", "reconstruct", record["update"], "--layer", record.get("layer"), "--seed", record.get("seed")]
    if record.get("layout"):
        words += ["--layout", record["layout"]]
    for name in _OPTIONS:
        if config.get(name) != defaults[name] and config.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", config[name]]
    return shlex.join(str(word) for word in words)


def _join(*values: Any) -> str:
    return text([value for value in values if value])


def limits(record: Mapping[str, Any]) -> Rows:
    """What stops this attack in general, as (name, sentence)."""
    shape = record.get("shape")
    is_pair = isinstance(shape, list | tuple) and len(shape) == 2 and all(isinstance(size, int) for size in shape)
    bound = f", here {min(shape):,}" if is_pair else ""  # type: ignore[type-var]
    return [
        (
            "A larger batch",
            f"From min(outputs, inputs) of the layer on{bound}, the gradient has full rank and hides nothing in its "
            "column space. Below that size is no defence: with the next layer's gradient two to three neurons for each "
            "sample are enough.",
        ),
        (
            "Noise",
            "Enough of it, as in differentially private training (DP-SGD). A hundredth of the gradient's size covers "
            "the exact zeros of ReLU, but not what the next layer saw: pictures stay recognisable up to some 30 %.",
        ),
        (
            "Secure aggregation",
            "The server sees only a sum over clients, which is one batch as large as all of theirs together.",
        ),
        (
            "No bias gradient",
            "Behind ReLU the scale of every sample is read off it: leave the bias out, or do not send it. Behind GELU, "
            "tanh and others the next layer shows the scale too, and this stops nothing.",
        ),
    ]
