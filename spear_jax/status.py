"""How a reconstruction ended, what its scale rests on, why it contradicts the model: in sentences a person reads."""

from __future__ import annotations

import enum


class Status(enum.Enum):
    """Outcome of a reconstruction; ``.value`` is a message a person can act on, ``.name`` goes into JSON."""

    EXACT = "Every sample of the batch was reconstructed and certified."
    EXACT_VISIBLE = (
        "Every sample that the gradient shows was reconstructed and certified, but the client reported more: "
        "duplicated inputs merge into one, and a sample whose gradient is zero or below the noise leaves no trace."
    )
    APPROXIMATE = (
        "Every sample was reconstructed and its pattern confirmed, but the noise of the update leaves larger errors "
        "than exact allows: the certificate gives the expected error of each."
    )
    INPUTS_MOVED = (
        "Every direction was found, but what stands before the layer was trained over the client's local steps, so the "
        "layer's inputs moved: what is shown is near their mean over the steps, and none of it is certified."
    )
    PARTIAL = (
        "Some samples were reconstructed but not certified: search longer (a larger candidate or time budget, "
        "another seed), or read the certificate to see which samples can be relied on."
    )
    MERGED = (
        "Every direction that the gradient shows was found, but the client reported more samples: an input may be the "
        "weighted mean of several that fire alike, and only the layers above could count them."
    )
    CONTRADICTED = (
        "Every direction was found, and each follows from its zeros, but what they say contradicts the model: "
        "searching longer will not change that."
    )
    CANDIDATE_BUDGET = (
        "The candidate budget ran out before every direction was found: raise max_candidates (--max-candidates) "
        "and resume; the expected number still needed is in the statistics."
    )
    TIME_BUDGET = (
        "The time budget ran out before every direction was found: raise max_seconds (--max-seconds) and resume; "
        "the expected number still needed is in the statistics."
    )
    ROUND_BUDGET = (
        "The rounds ran out before every sample was found: try another seed, raise dictionary.max_rounds or "
        "span.starts, or give the rest to another method (method auto)."
    )
    NOT_SPARSE = (
        "No direction is sparse, although there are rows enough to show it: no ReLU follows the layer (GELU, SiLU, "
        "tanh or nothing does), or noise hides every zero. Give the next dense layer's gradients too (the whole "
        "update, layers_above=): the span method needs no zeros."
    )
    RANK_FULL = (
        "The weight gradient has full rank, so its column space hides nothing: the batch is at least as large as "
        "min(out_features, in_features), or noise covers every singular value. It cannot be inverted this way."
    )
    UNREACHABLE = (
        "Sampling cannot find the directions: too few rows of the gradient are live for so large a rank, or the rank "
        "is beyond 48. Use the dictionary method (--method dictionary)."
    )

    TOKENS_ONLY = (
        "The tokens of the batch are certified, but not their order: the gradients show fewer directions than the "
        "batch has beginnings of sequences. More rounds of the same client, or gradients of more modules, show more."
    )
    TOO_MANY_TOKENS = (
        "The gradients of the first block fill their space: the batch has at least as many distinct tokens as that has "
        "directions, so nothing can be told apart."
    )
    NOT_OF_THIS_MODEL = (
        "No token of the vocabulary lies in the span of the gradients: the model is not the one that the client "
        "started from, or dropout or noise changed its inputs."
    )

    ONE_OF_SEVERAL = (
        "Every graph of the batch is certified up to graphs that have exactly the same gradient: these are listed, and "
        "the first of each is a guess that no gradient can confirm."
    )
    NEIGHBOURHOODS_ONLY = (
        "Nodes and their neighbourhoods were found, but not how they make up graphs: the gradients do not tell how "
        "often each is there."
    )
    NODES_ONLY = (
        "Rows of nodes were found, but not their neighbourhoods: the layers behind the first show too few directions, "
        "or none that are told apart."
    )
    NO_NODES = (
        "No possible row of a node lies in the span of the gradients: the features are not those of the model, or "
        "noise, dropout or a normalisation over the batch changed what the layers read."
    )

    @property
    def is_complete(self) -> bool:
        """Whether every sample that the gradient shows was certified."""
        return self in (Status.EXACT, Status.EXACT_VISIBLE)


class Scale(enum.Enum):
    """What the scale of the inputs rests on; ``.value`` is a sentence."""

    BIAS_GRADIENT = (
        "The scale of the inputs rests on the bias gradient alone: if the client scaled kernel and bias gradients "
        "apart, all inputs are off by one common factor"
    )
    NETWORK = "The layers above confirm the scale of the inputs"
    NEXT_LAYER = "The gradient of the next layer confirms the scale of the inputs"


class Reason(enum.Enum):
    """Why a reconstruction contradicts the model; ``.value`` is a sentence, ``.name`` goes into JSON."""

    MASK = (
        "A mask behind the ReLU explains it, as dropout makes: neurons pass nothing on although the weights have them "
        "active, and none the other way round."
    )
    ANOTHER_LOSS = (
        "Another loss explains it: each gradient passes through the model's own layers, but no label's softmax "
        "cross-entropy gives it (label smoothing, class weights, a regression or binary loss does)."
    )
    SCALE = (
        "Kernel and bias gradients that were scaled apart explain it (clipping or learning rates by tensor): the "
        "inputs are right up to one common factor."
    )
    LOCAL_STEPS = (
        "Several local steps explain it: the neurons that disagree are those that the change of the weights moved "
        "past zero; bundle again with --local-steps N and --lr."
    )
    BATCH_NORM = (
        "A normalisation between layer and ReLU explains it, as BatchNorm makes: every neuron has a threshold of its "
        "own, which is not zero."
    )
    BASE_WEIGHTS = (
        "Other base weights explain it: neurons near zero disagree in both directions, those far from it agree; give "
        "the weights that this client started from, not those of another round."
    )
