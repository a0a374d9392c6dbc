"""Which options go with which family of models: one command serves both, and says so where they do not go together."""

from __future__ import annotations

from collections.abc import Collection

from spear_jax.cli.options import Context
from spear_jax.errors import SpearError


def require_text(context: Context, names: Collection[str]) -> None:
    """Refuse options that only text has, where no language model was given.

    Args:
        context: of the command that runs.
        names: its parameters that only text has.

    Raises:
        SpearError: one of them was given.
    """
    given = _given(context, names)
    if given:
        raise SpearError(f"{given[0]} goes with a language model; give its folder with --model.")


def refuse_dense(context: Context, names: Collection[str], because: str = "--model") -> None:
    """Refuse options that text does not have.

    Args:
        context: of the command that runs.
        names: its parameters that text has.
        because: the option that makes it text.

    Raises:
        SpearError: another one was given.
    """
    others = [parameter.name for parameter in context.command.params if parameter.name not in names]
    given = _given(context, [name for name in others if name is not None])
    if given:
        raise SpearError(f"{given[0]} is of dense layers and {because} of language models; leave one of them out.")


def is_given(context: Context, name: str) -> bool:
    """Whether a parameter was given rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and not source.name.startswith("DEFAULT")


def _given(context: Context, names: Collection[str]) -> list[str]:
    """The options among some parameters that were given, as they are spelled."""
    params = [parameter for parameter in context.command.params if parameter.name in names]
    return [parameter.opts[0] for parameter in params if parameter.name and is_given(context, parameter.name)]
