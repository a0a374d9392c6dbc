"""CSV tables as model inputs: numeric columns standardized over the whole table, categorical ones one-hot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from spear_jax.client.batch import Batch, Column, draw
from spear_jax.client.columns import Table, check_names, classes, describe, encode, sentence
from spear_jax.client.table_files import decimal_comma, read_cells
from spear_jax.errors import DataError


def load_table(
    path: str | os.PathLike[str],
    *,
    batch_size: int,
    seed: int = 0,
    label_column: str | int | None = None,
    standardize: bool = True,
    kinds: Mapping[str, str] | None = None,
) -> Batch:
    """Draws rows of a CSV table without replacement.

    A first line without a number in it is the header. Tabs, semicolons, bars and commas separate. A column of numbers
    is numeric, unless they are codes with leading zeros; decimal commas and commas between thousands are understood.

    Args:
        path: the file, in UTF-8.
        batch_size: b, rows to draw.
        seed: of ``numpy.random.default_rng``.
        label_column: name, or position from 0, of the column with the classes; the last by default.
        standardize: whether numeric columns are shifted and scaled to mean 0 and deviation 1 over the whole table.
        kinds: ``"number"``, ``"category"``, ``"skip"`` or ``"label"`` by name, for columns that are to be read so.

    Returns:
        The batch; its ``columns`` say which inputs belong to which column, for `decode_rows`, and its ``contents`` what
        was read as what, in a sentence.

    Raises:
        DataError: no such file or column, rows of different length, missing cells in a numeric column or the label,
            numbers as labels that are a regression target, too few rows.
    """
    path, kinds = Path(path), kinds or {}
    cells = read_cells(path)
    names, table = list(cells.columns), Table(path.name, cells, decimal_comma(cells))
    check_names(names, kinds, path.name)
    label = _label(names, label_column, kinds)
    class_names = classes(table, label, is_told=kinds.get(label) == "label")
    columns: list[Column] = []
    for name in names:
        if name != label and kinds.get(name) != "skip":
            start = columns[-1].start + columns[-1].size if columns else 0
            columns.append(describe(table, name, start, kinds.get(name), standardize=standardize))
    if not columns:
        raise DataError(f"{path.name} has no column left beside the label {label}; skip fewer.")
    index = draw(len(cells), batch_size, seed, f"{path.name} has {len(cells)} rows")
    drawn = table._replace(cells=cells.iloc[index])
    return Batch(
        inputs=np.concatenate([encode(drawn, column) for column in columns], axis=1),
        labels=np.array([class_names.index(cell) for cell in drawn.cells[label]], np.int64),
        images=None,
        names=tuple(f"row {i + 1}" for i in index),
        normalization=None,
        image_shape=None,
        num_classes=len(class_names),
        columns=tuple(columns),
        class_names=class_names,
        contents=sentence(tuple(columns), label, class_names, [name for name in names if kinds.get(name) == "skip"]),
    )


def decode_rows(inputs: Float[np.ndarray, "k n"], columns: Sequence[Column]) -> list[dict[str, float | str]]:
    """Table rows from model inputs, true or reconstructed: numbers in their own units, the likeliest category."""
    return [{column.name: _decode(column, row) for column in columns} for row in inputs]


def column_names(columns: Sequence[Column]) -> list[str]:
    """One name per input value: the column's, with its category where the column is one-hot."""
    return [
        column.name if category is None else f"{column.name} = {category}"
        for column in columns
        for category in column.categories or (None,)
    ]


def _label(names: Sequence[str], asked: str | int | None, kinds: Mapping[str, str]) -> str:
    """Name of the label column: the one asked for or told to be, else the last."""
    told = next((name for name, kind in kinds.items() if kind == "label"), None)
    if asked is None:
        label = told or names[-1]
    elif isinstance(asked, int) and 0 <= asked < len(names):
        label = names[asked]
    elif asked in names:
        label = str(asked)
    else:
        raise DataError(f"there is no label column {asked!r}; the columns are {', '.join(names)}.")
    if (told or label) != label or kinds.get(label, "label") != "label":
        raise DataError(f"the label column is {label}, but --columns says otherwise; name one label, and name it once.")
    return label


def _decode(column: Column, row: np.ndarray) -> float | str:
    values = row[column.start : column.start + column.size]
    return column.categories[int(values.argmax())] if column.categories else float(values[0] * column.std + column.mean)
