"""Text files of tables: pandas parses them, and what it cannot parse is said in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from spear_jax.errors import DataError

# pandas.DataFrame and pandas.Series, whose own annotations leave a type checker nothing to rely on.
Frame: TypeAlias = Any
Series: TypeAlias = Any
# The first of these that stands in the first line outside quotes separates: a comma may be a decimal one.
SEPARATORS = "\t;|,"


def read_cells(path: Path) -> Frame:
    """The cells of a table as stripped text, one column of the frame for each of the table, named by the header.

    A first line without a number in it is the header; without one columns are ``column_0``, ``column_1`` and so on. The
    index counts lines of the table from 1, the header's among them.

    Args:
        path: a text file in UTF-8, with or without a byte order mark; tabs, semicolons, bars or commas separate.

    Raises:
        DataError: no such file, another encoding, rows of different length, two columns of one name, no row or only one
            column.
    """
    cells = _parse(path).apply(lambda column: column.str.strip())
    cells.index += 1
    first = cells.iloc[0]
    if plain_numbers(first).notna().any():
        cells.columns = [f"column_{place}" for place in range(len(first))]
    else:
        cells = cells.iloc[1:].set_axis([name or f"column_{place}" for place, name in enumerate(first)], axis=1)
    names = list(cells.columns)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path.name} has several columns called {', '.join(twice)}; give each a name of its own.")
    if cells.empty or cells.shape[1] < 2:
        raise DataError(
            f"{path.name} has {len(cells)} rows below the header and {cells.shape[1]} columns; expected at least one "
            "row, and one feature beside the label, between commas, semicolons, bars or tabs."
        )
    return cells


def plain_numbers(cells: Series) -> Series:
    """The finite numbers with a decimal point among cells as float64, NaN elsewhere."""
    values: Series = pd.to_numeric(cells.where(cells.str.fullmatch(r"[-+.\deE]+"), ""), errors="coerce")
    return values.astype(float).where(values.abs() < float("inf"))


def decimal_comma(cells: Frame) -> bool:
    """Whether a table writes 2,5 for two and a half: some cell must be read so, as 1.234,5, 0,123 or 12,34 must."""
    return _some(cells, r"[-+]?(\d+|\d{1,3}(\.\d{3})+),\d+", but=r"[-+]?[1-9]\d{0,2}(,\d{3})+")


def ambiguous_number(cells: Iterable[str]) -> str | None:
    """The first cell that is one number with a decimal comma and another with commas between thousands."""
    return next((cell for cell in cells if re.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}", cell)), None)


def _some(cells: Frame, pattern: str, *, but: str) -> bool:
    """Whether some cell matches a pattern and not the other."""
    return any((column.str.fullmatch(pattern) & ~column.str.fullmatch(but)).any() for _, column in cells.items())


def _parse(path: Path) -> Frame:
    try:
        with open(path, encoding="utf-8-sig") as file:
            first_line = re.sub(r'"[^"]*"', "", file.readline())
        separator = next((mark for mark in SEPARATORS if mark in first_line), ",")
        return pd.read_csv(
            path, sep=separator, header=None, dtype=str, keep_default_na=False, skipinitialspace=True,
            encoding="utf-8-sig",
        )  # fmt: skip
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path.name} is empty; expected a table with one row per sample.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} cannot be read as a UTF-8 table (byte {error.object[error.start]:#x}); save it as UTF-8."
        ) from error
    except pd.errors.ParserError as error:
        longer = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if longer is None:
            raise DataError(f"{path.name} cannot be read as a table: {' '.join(str(error).split())}.") from error
        expected, row, cells = longer.groups()
        raise DataError(f"{path.name}: row {row} has {cells} cells; expected {expected} as in the first.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read as a table: {(error.strerror or str(error)).lower()}.") from error
