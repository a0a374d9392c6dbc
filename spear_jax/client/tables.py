"""CSV tables as model inputs: numeric columns standardized over the whole table, categorical ones one-hot."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from spear_jax.client.batch import Batch, Column, draw
from spear_jax.errors import DataError
from spear_jax.update.dense_layers import natural_key


def load_table(
    path: str | os.PathLike[str],
    *,
    batch_size: int,
    seed: int = 0,
    label_column: str | int | None = None,
    standardize: bool = True,
) -> Batch:
    """Draws rows of a CSV table without replacement.

    A first line without a number in it is the header. Commas, semicolons and tabs separate. A column whose every cell
    is a number is numeric.

    Args:
        path: the file, in UTF-8.
        batch_size: b, rows to draw.
        seed: of ``numpy.random.default_rng``.
        label_column: name, or position from 0, of the column with the classes; the last by default.
        standardize: whether numeric columns are shifted and scaled to mean 0 and deviation 1 over the whole table.

    Returns:
        The batch; its ``columns`` say which inputs belong to which column, for `decode_rows`.

    Raises:
        DataError: no such file or column, rows of different length, empty cells in a numeric column, too few rows.
    """
    path = Path(path)
    header, rows = _read(path)
    label_index = _label_index(header, label_column)
    cells = np.array(rows, dtype=str)
    class_names = tuple(sorted(set(cells[:, label_index].tolist()), key=natural_key))
    class_index = {name: i for i, name in enumerate(class_names)}
    labels = np.array([class_index[cell] for cell in cells[:, label_index]], np.int64)

    columns: list[Column] = []
    for index, name in enumerate(header):
        if index != label_index:
            start = columns[-1].start + columns[-1].size if columns else 0
            columns.append(_describe(path.name, name, cells[:, index], start, standardize))
    index = draw(len(cells), batch_size, seed, f"{path.name} has {len(cells)} rows")
    features = np.delete(cells, label_index, axis=1)[index]
    return Batch(
        inputs=np.concatenate([_encode(column, features[:, i]) for i, column in enumerate(columns)], axis=1),
        labels=labels[index],
        images=None,
        names=tuple(f"row {i + 1}" for i in index),
        normalization=None,
        image_shape=None,
        num_classes=len(class_names),
        columns=tuple(columns),
        class_names=class_names,
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


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        first_line = text.partition("\n")[0]
        delimiter = max(",;\t", key=first_line.count)
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a UTF-8 table: {error}.") from error
    if not rows:
        raise DataError(f"{path.name} is empty; expected a table with one row per sample.")
    has_header = not any(_number(cell) is not None for cell in rows[0])
    header = rows.pop(0) if has_header else [f"column_{i}" for i in range(len(rows[0]))]
    for number, row in enumerate(rows, start=1 + has_header):
        if len(row) != len(header):
            raise DataError(f"{path.name}: row {number} has {len(row)} cells; expected {len(header)} as in the first.")
    if not rows or len(header) < 2:
        raise DataError(
            f"{path.name} has {len(rows)} rows below the header and {len(header)} columns; expected at least one row, "
            "and one feature beside the label."
        )
    return header, rows


def _label_index(header: Sequence[str], label_column: str | int | None) -> int:
    if label_column is None:
        return len(header) - 1
    if isinstance(label_column, str) and label_column in header:
        return header.index(label_column)
    if isinstance(label_column, int) and 0 <= label_column < len(header):
        return label_column
    raise DataError(f"there is no label column {label_column!r}; the columns are {', '.join(header)}.")


def _describe(file_name: str, name: str, cells: np.ndarray, start: int, standardize: bool) -> Column:
    numbers = [_number(cell) for cell in cells if cell]
    if not numbers or any(number is None for number in numbers):
        return Column(name, "categorical", start, categories=tuple(sorted(set(cells.tolist()), key=natural_key)))
    if len(numbers) < len(cells):
        raise DataError(
            f"{file_name}: the numeric column {name} has {len(cells) - len(numbers)} empty cells; fill or drop them."
        )
    if not standardize:
        return Column(name, "numeric", start)
    values = np.array(numbers, np.float64)
    # A constant column has nothing to scale and becomes zero.
    return Column(name, "numeric", start, mean=float(values.mean()), std=float(values.std()) or 1.0)


def _encode(column: Column, cells: np.ndarray) -> np.ndarray:
    if column.categories:
        return (cells[:, None] == np.array(column.categories)[None, :]).astype(np.float64)
    return (cells.astype(np.float64)[:, None] - column.mean) / column.std


def _decode(column: Column, row: np.ndarray) -> float | str:
    values = row[column.start : column.start + column.size]
    return column.categories[int(values.argmax())] if column.categories else float(values[0] * column.std + column.mean)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
