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
