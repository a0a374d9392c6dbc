"""What can be wrong with what a user gave: one base, so that one ``except`` catches every sentence for the user."""

from __future__ import annotations


class SpearError(ValueError):
    """Input or options that cannot be used; the message is one sentence: what was expected, what came, what to do."""


class UpdateError(SpearError):
    """An update that cannot be used; the message is one sentence that says what is wrong and what to do."""


class RecordError(SpearError):
    """A reconstruction folder that cannot be read; the message is one sentence for the user."""


class CheckpointError(SpearError):
    """A state that cannot be gone on with; the message is one sentence for the user."""


class SweepError(SpearError):
    """A file of trials that cannot be gone on with; the message is one sentence."""


class TensorFileError(SpearError):
    """A tensor file that cannot be read or written; the message is one sentence for the user."""


class DataError(SpearError):
    """Private data that cannot be read; the message is one sentence that says what is wrong and what to do."""


class TruthError(SpearError):
    """A truth file that cannot be used; the message is one sentence."""


def explain(error: Exception) -> str:
    """The sentence that tells a user of an error: what is wrong with the input, or that the fault is ours."""
    if isinstance(error, OSError) and error.filename is not None:
        reason = (error.strerror or type(error).__name__).lower()
        return f"{error.filename} cannot be used: {reason}; give another path."
    said = " ".join(str(error).split())
    if isinstance(error, OSError | SpearError):
        return said
    return (
        f"a fault of spear-jax itself ({type(error).__name__}: {said}); "
        "set SPEAR_JAX_DEBUG=1 and run it again for a traceback to report."
    )
