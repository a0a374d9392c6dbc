"""Which options go with which family of models: one command serves all, and says so where they do not go together."""

from __future__ import annotations

from collections.abc import Collection

from spear_jax.cli.options import Context
from spear_jax.errors import SpearError

LANGUAGE, GRAPHS, DENSE = "language models", "graph networks", "dense layers"
# Parameters that one family alone has, whatever the command.
_OF = {
    LANGUAGE: ("model", "texts", "adapter", "also", "lora_rank", "lora_modules", "is_text"),
    GRAPHS: ("graphs", "features", "network", "pool", "readout", "loss", "is_graphs"),
}
# What makes a command one of a family, to say of options that lack it.
_GIVE = {
    ("adapter", "also", "texts", "lora_rank", "lora_modules"): (
        "goes with a language model; give its folder with --model."
    ),
    ("kind", "lr"): "goes with a language model or a graph network; give --model or --features.",
    ("features", "network", "pool", "readout", "loss"): "goes with a graph network; give its graphs with --graphs.",
}


def require_family(context: Context, names: Collection[str]) -> None:
    """Refuse options that dense layers do not have, where nothing says that the model is of another family.

    Args:
        context: of the command that runs.
        names: its parameters that only other families have.

    Raises:
        SpearError: one of them was given.
    """
    for name, option in _given(context, names):
        raise SpearError(f"{option} {next(said for names, said in _GIVE.items() if name in names)}")


def refuse_others(context: Context, names: Collection[str], because: str, of: str = LANGUAGE) -> None:
    """Refuse options that a family does not have.

    Args:
        context: of the command that runs.
        names: its parameters that the family has.
        because: the option that makes it this family.
        of: the family.

    Raises:
        SpearError: another one was given.
    """
    others = [parameter.name for parameter in context.command.params if parameter.name not in names]
    for name, option in _given(context, [name for name in others if name is not None]):
        family = next((family for family, own in _OF.items() if name in own), DENSE)
        raise SpearError(f"{option} is of {family} and {because} of {of}; leave one of them out.")


def is_given(context: Context, name: str) -> bool:
    """Whether a parameter was given rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and not source.name.startswith("DEFAULT")


def _given(context: Context, names: Collection[str]) -> list[tuple[str, str]]:
    """The parameters among some that were given, and how they are spelled."""
    params = [parameter for parameter in context.command.params if parameter.name in names]
    return [
        (parameter.name, parameter.opts[0])
        for parameter in params
        if parameter.name is not None and is_given(context, parameter.name)
    ]
