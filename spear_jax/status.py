"""How a reconstruction ended: one enumeration whose values are the sentences a person reads."""

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
    PARTIAL = (
        "Some samples were reconstructed but not certified: search longer (a larger candidate or time budget, "
        "another seed), or read the certificate to see which samples can be relied on."
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
        "The rounds of the dictionary method ran out before every direction was found: give the rest to sampling "
        "(method auto), raise dictionary.max_rounds, or try another seed."
    )
    NOT_SPARSE = (
        "No direction is sparse, although there are rows enough to show it: no ReLU follows the layer (GELU, SiLU, "
        "tanh or nothing does), or noise hides every zero. This update cannot be inverted this way."
    )
    RANK_FULL = (
        "The weight gradient has full rank, so its column space hides nothing: the batch is at least as large as "
        "min(out_features, in_features), or noise covers every singular value. It cannot be inverted this way."
    )
    UNREACHABLE = (
        "Sampling cannot find the directions: too few rows of the gradient are live for so large a rank, or the rank "
        "is beyond 48. Use the dictionary method (--method dictionary)."
    )

    @property
    def is_complete(self) -> bool:
        """Whether every sample that the gradient shows was certified."""
        return self in (Status.EXACT, Status.EXACT_VISIBLE)
