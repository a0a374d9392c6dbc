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


# How XLA begins when memory runs out.
_NO_MEMORY = "RESOURCE_EXHAUSTED"


def explain(error: Exception) -> str:
    """The sentence that tells a user of an error: what is wrong with input or machine, or that the fault is ours."""
    said = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used: {_reason(error)}; give another path."
    if isinstance(error, OSError) and error.strerror:
        return f"the output cannot be written: {_reason(error)}; write it elsewhere."
    if _is_out_of_memory(error):
        return (
            f"there is too little memory for this ({said or 'none left'}); use a machine with more, or a smaller layer."
        )
    if _is_missing_package(error):
        return f"{said}: the installation lacks a package; install spear-jax again with what this command needs."
    if is_of_user(error):
        return said
    return (
        f"a fault of spear-jax itself ({type(error).__name__}: {said}); "
        "set SPEAR_JAX_DEBUG=1 and run it again for a traceback to report."
    )


def is_of_user(error: Exception) -> bool:
    """Whether input or machine is at fault, not this library."""
    return isinstance(error, OSError | SpearError) or _is_out_of_memory(error) or _is_missing_package(error)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and str(error).startswith(_NO_MEMORY))


def _is_missing_package(error: Exception) -> bool:
    return isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("spear_jax")
