"""What the columns of a table hold: numbers, categories or the label, told from their cells or from the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from spear_jax.client.batch import Column
from spear_jax.client.table_files import Frame, Series, ambiguous_number, plain_numbers
from spear_jax.errors import DataError
from spear_jax.update.dense_layers import natural_key

KINDS = ("number", "category", "skip", "label")
# What stands in tables for a value that is not there, in small letters, and what does so among numbers.
MISSING = ("", "?", "na", "n/a", "<na>", "nan", "null")
MISSING_NUMBER = (*MISSING, "-", ".", "none")
# Names that the sentence on a table lists of each kind.
SHOWN = 8
# One-hot inputs of one column beyond which it is a text or an identifier.
MAX_CATEGORIES = 1000
# Different values up to which a column of numbers may be classes: of fractions, and of whole numbers.
MAX_FRACTIONS, MAX_WHOLE = 10, 100


class Table(NamedTuple):
    """A table and how its numbers are written.

    Attributes:
        name: of the file, for sentences.
        cells: one column of text for each of the table.
        has_decimal_comma: whether 2,5 is two and a half.
    """

    name: str
    cells: Frame
    has_decimal_comma: bool


def parse_kinds(text: str) -> dict[str, str]:
    """The kinds of columns by name, from ``age=number,zip=category,id=skip,income=label``.

    Raises:
        DataError: a part that does not name a kind, a column named twice, or two labels.
    """
    kinds: dict[str, str] = {}
    for part in text.split(","):
        name, _, kind = (piece.strip() for piece in part.rpartition("="))
        if kind not in KINDS or not name or name in kinds:
            raise DataError(
                f"--columns holds {part.strip()!r}; expected each column once as name=kind, kinds being "
                f"{', '.join(KINDS)}, with commas between, as age=number,zip=category,id=skip,income=label."
            )
        kinds[name] = kind
    labels = [name for name, kind in kinds.items() if kind == "label"]
    if len(labels) > 1:
        raise DataError(f"--columns calls {' and '.join(labels)} labels; expected one label.")
    return kinds


def numbers(table: Table, name: str) -> Series:
    """The numbers of a column, NaN where a cell is none, decimal commas and commas between thousands understood."""
    cells = table.cells[name]
    if table.has_decimal_comma:
        grouped = cells.str.fullmatch(r"[-+]?\d{1,3}(\.\d{3})+(,\d+)?")
        cells = cells.where(~grouped, cells.str.replace(".", "", regex=False)).str.replace(",", ".", regex=False)
    else:
        grouped = cells.str.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")
        cells = cells.where(~grouped, cells.str.replace(",", "", regex=False))
    return plain_numbers(cells)


def describe(table: Table, name: str, start: int, told: str | None, *, standardize: bool) -> Column:
    """How one column becomes inputs.

    Args:
        table: with the column.
        name: of the column.
        start: its first input.
        told: ``"number"`` or ``"category"`` where the user says so.
        standardize: whether numbers are shifted and scaled over the whole table.

    Raises:
        DataError: missing cells among numbers, numbers that are mostly but not always numbers or can be read in two
            ways, or too many categories.
    """
    cells, values = table.cells[name], numbers(table, name)
    if (told or _kind(table, name, values)) == "category":
        categories = tuple(sorted(set(cells), key=natural_key))
        if len(categories) > MAX_CATEGORIES and told is None:
            raise DataError(
                f"{table.name}: the column {name} has {len(categories)} different values, each an input of its own: "
                f"leave it out with --columns {name}=skip, or insist with {name}=category."
            )
        return Column(name, "categorical", start, categories=categories)
    _check_numbers(table, name, values)
    if not standardize:
        return Column(name, "numeric", start)
    # A constant column has nothing to scale and becomes zero.
    return Column(name, "numeric", start, mean=float(values.mean()), std=float(values.std(ddof=0)) or 1.0)


def encode(table: Table, column: Column) -> np.ndarray:
    """The inputs of a column, (rows, size)."""
    if column.categories:
        cells = table.cells[column.name].to_numpy(str)
        return (cells[:, None] == np.array(column.categories)[None, :]).astype(np.float64)
    return ((numbers(table, column.name) - column.mean) / column.std).to_numpy()[:, None]


def classes(table: Table, name: str, *, is_told: bool) -> tuple[str, ...]:
    """The classes of the label column in their order.

    Args:
        table: with the column.
        name: of the column.
        is_told: whether the user insists that its values are classes, however many.

    Raises:
        DataError: missing cells, one class only, or numbers that are no classes.
    """
    cells = table.cells[name]
    if not is_told:
        _refuse_missing(cells, MISSING, f"{table.name}: the label column {name}", "fill them or drop these rows")
    found, values = sorted(set(cells), key=natural_key), numbers(table, name)
    if len(found) < 2:
        raise DataError(
            f"{table.name}: the label column {name} holds {found[0]!r} alone; expected two classes or more."
        )
    most = MAX_WHOLE if (values % 1 == 0).all() else min(MAX_FRACTIONS, max(2, len(cells) // 2))
    if values.notna().all() and len(found) > most and not is_told:
        raise DataError(
            f"{table.name}: the label column {name} holds {len(found)} different numbers, a regression target, but the "
            f"model takes classes: choose another with --label-column, or insist with --columns {name}=label."
        )
    return tuple(found)


def sentence(columns: tuple[Column, ...], label: str, class_names: tuple[str, ...], skipped: list[str]) -> str:
    """What the columns were read as, for people."""
    numeric = [column.name for column in columns if not column.categories]
    categorical = [f"{column.name}: {_count(column.categories)}" for column in columns if column.categories]
    parts = [f"{len(numeric)} numeric column{'s' * (len(numeric) > 1)} ({_few(numeric)})"] if numeric else []
    parts += [f"{len(categorical)} categorical ({_few(categorical)})"] if categorical else []
    parts.append(f"label: {label} ({len(class_names)} classes)")
    return "; ".join(parts + [f"left out: {_few(skipped)}"] * bool(skipped))


def check_names(names: list[str], told: Mapping[str, str], file: str) -> None:
    """Refuse kinds of columns that the table has not.

    Raises:
        DataError: it has no such column.
    """
    for name in told:
        if name not in names:
            raise DataError(
                f"{file} has no column {name!r}, which --columns names; its columns are {', '.join(names)}."
            )


def _kind(table: Table, name: str, values: Series) -> str:
    """Numbers, but for codes such as 01234; categories where at least one cell in two is neither number nor missing."""
    cells = table.cells[name]
    if cells.str.fullmatch(r"0\d+").any():
        return "category"
    present = ~cells.str.lower().isin(MISSING_NUMBER)
    return "category" if present.any() and values.notna().sum() <= present.sum() / 2 else "number"


def _check_numbers(table: Table, name: str, values: Series) -> None:
    cells, remedy = table.cells[name], f"fill them, drop these rows, or pass --columns {name}=skip"
    _refuse_missing(cells, MISSING_NUMBER, f"{table.name}: the numeric column {name}", remedy)
    other = cells[values.isna()]
    if len(other):
        raise DataError(
            f"{table.name}: the column {name} holds numbers but for {len(other)} cells, {other.iloc[0]!r} in row "
            f"{other.index[0]} the first: mend them, or pass --columns {name}=category or {name}=skip."
        )
    unclear = ambiguous_number(cells)
    if unclear is not None and not table.has_decimal_comma and not _has_points(table):
        raise DataError(
            f"{table.name}: {unclear} in the column {name} is a decimal or a thousand, and no other cell tells; write "
            "decimals with points and thousands without commas."
        )


def _has_points(table: Table) -> bool:
    """Whether some number of the table has a decimal point or commas around more than one group of thousands."""
    pattern = r"[-+]?(\d+|\d{1,3}(,\d{3})+)\.\d+|[-+]?\d{1,3}(,\d{3}){2,}"
    return any(column.str.fullmatch(pattern).any() for _, column in table.cells.items())


def _refuse_missing(cells: Series, marks: tuple[str, ...], what: str, remedy: str) -> None:
    missing = cells[cells.str.lower().isin(marks)]
    if len(missing):
        shown = f"; {missing.iloc[0]!r} in row {missing.index[0]} is the first" if missing.iloc[0] else ""
        raise DataError(f"{what} has {len(missing)} empty cells of {len(cells)}{shown}: {remedy}.")


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _count(categories: tuple[str, ...]) -> str:
    missing = [repr(value) for value in categories if value.lower() in MISSING]
    return f"{len(categories)} values" + (f" with {' and '.join(missing)}" if missing else "")
