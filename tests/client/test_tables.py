"""Tables: what columns hold is told from cells or by the user, said in a sentence, never guessed in silence."""

import numpy as np
import pytest

from spear_jax.client.columns import parse_kinds
from spear_jax.client.load import load_batch
from spear_jax.errors import DataError
from tests.helpers.command_line import run


def rows(*cells):
    """Lines of text."""
    return "\n".join(cells) + "\n"


def numbered(make, count=40):
    """A table of a running number and a label made of it."""
    return rows("a,y", *(f"{i},{make(i)}" for i in range(count)))


def load(folder, text, columns=None, encoding="utf-8", **options):
    (folder / "t.csv").write_bytes(text.encode(encoding))
    kinds = None if columns is None else parse_kinds(columns)
    return load_batch(folder / "t.csv", batch_size=2, kinds=kinds, **options)


@pytest.mark.parametrize("mark", ["NaN", "nan", "NA", "n/a", "?", "", "null", "None", "-", "."])
def test_missing_numbers_are_refused_with_their_column_count_and_a_way_out(tmp_path, mark):
    text = rows("age,job,y", "20,cook,0", f"{mark},smith,1", "30,cook,0", f"{mark},cook,1")
    with pytest.raises(DataError, match=r"numeric column age has 2 empty cells of 4.*--columns age=skip"):
        load(tmp_path, text)
    assert "left out: age" in load(tmp_path, text, "age=skip").contents
    assert load(tmp_path, text, "age=category").inputs.shape[1] == 5


@pytest.mark.parametrize("mark", ["NaN", "?", "", "NA"])
def test_a_missing_category_is_a_category_of_its_own_and_said(tmp_path, mark):
    batch = load(tmp_path, rows("age,job,y", "20,cook,0", f"25,{mark},1", "30,cook,0"))
    assert batch.inputs.shape[1] == 3
    assert f"job: 2 values with {mark!r}" in batch.contents


NUMBERS = {  # a table, and the numbers of its first column
    "plain": (rows("a,y", "1.5,0", "-2e3,1", "+3,0"), [1.5, -2000, 3]),
    "decimal commas": (rows("a;y", "1,5;0", "2,25;1", "-3;0"), [1.5, 2.25, -3]),
    "decimal commas without header": (rows("1,5;0", "2,25;1", "3;0"), [1.5, 2.25, 3]),
    "points between thousands": (rows("a;y", "1.234,5;0", "2.000;1", "3;0"), [1234.5, 2000, 3]),
    "commas between thousands": (rows("a,y", '"1,234.5",0', '"2,000",1', "3,0"), [1234.5, 2000, 3]),
    "thousands and semicolons": (rows("a;y", "1,234,567;0", "2,000;1", "3;0"), [1234567, 2000, 3]),
    "a decimal comma behind a zero": (rows("a;y", "0,125;0", "2,500;1", "3;0"), [0.125, 2.5, 3]),
    "tabs": (rows("a\ty", "1\t0", "2\t1", "3\t0"), [1, 2, 3]),
    "bars and spaces": (rows("a | y", " 1 | 0", "2|1 ", "3|0"), [1, 2, 3]),
    "quotes": (rows('"a",y', '"1",0', '"2",1', "3,0"), [1, 2, 3]),
    "semicolons in a quoted name": (rows('"a;b",y', "1,0", "2,1", "3,0"), [1, 2, 3]),
    "carriage returns and empty lines": ("a,y\r\n\r\n1,0\r\n2,1\r\n\r\n3,0\r\n", [1, 2, 3]),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_read_as_they_are_written(tmp_path, case):
    text, expected = NUMBERS[case]
    (tmp_path / "t.csv").write_text(text, newline="")
    batch = load_batch(tmp_path / "t.csv", batch_size=3)
    values = batch.inputs[:, 0] * batch.columns[0].std + batch.columns[0].mean
    np.testing.assert_allclose(sorted(values), sorted(expected))


def test_a_byte_order_mark_is_no_part_of_a_name_and_other_encodings_are_refused(tmp_path):
    text = rows("größe,y", "1,0", "2,1")
    assert load(tmp_path, text, encoding="utf-8-sig").columns[0].name == "größe"
    for encoding in ("latin-1", "utf-16"):
        with pytest.raises(DataError, match="cannot be read as a UTF-8 table.*save it as UTF-8"):
            load(tmp_path, text, encoding=encoding)


UNCLEAR = {
    "text among numbers": (
        rows("a,y", "1,0", "2,1", "3,0", "old,1"),
        "a holds numbers but for 1 cells, 'old' in row 5",
    ),
    "infinity": (rows("a,y", "1,0", "2,1", "inf,0"), "a holds numbers but for 1 cells, 'inf' in row 4"),
    "decimal or thousand": (rows("a;y", "1,234;0", "2,500;1"), "1,234 in the column a is a decimal or a thousand"),
    "one name twice": (rows("a,a,y", "1,2,0", "3,4,1"), "several columns called a"),
    "one class": (rows("a,y", "1,0", "2,0"), "label column y holds '0' alone"),
    "label missing": (rows("a,y", "1,0", "2,", "3,1"), "label column y has 1 empty cells of 3"),
    "a short row": (rows("a,b,y", "1,2,0", "3,1"), "label column y has 1 empty cells"),
    "a column of nothing": (rows("a,b,y", "1,,0", "2,,1"), "column b has 2 empty cells"),
    "names": (numbered(lambda i: i % 2, 3000).replace("\n", "\nname").removesuffix("name"), "3000 different values"),
    "fractions as label": (numbered(lambda i: i * 1.37), "y holds 40 different numbers, a regression target"),
    "whole numbers as label": (numbered(lambda i: i * 7, 400), "y holds 400 different numbers, a regression target"),
    "decimal commas as label": (rows("a;y", *(f"{i};{i},5" for i in range(40))), "40 different numbers, a regression"),
    "an open quote": (rows("a,y", '1,"0', "2,1"), "cannot be read as a table"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_cannot_be_read_one_way_is_refused(tmp_path, case):
    text, message = UNCLEAR[case]
    with pytest.raises(DataError, match=message):
        load(tmp_path, text)


FINE = {  # a table, columns told, and what is said of it
    "an identifier left out": (
        rows("id,a,y", "1,5,0", "2,6,1"),
        "id=skip",
        "1 numeric column (a); label: y (2 classes)",
    ),
    "codes": (rows("zip,y", "01067,0", "80331,1"), None, "1 categorical (zip: 2 values); label: y"),
    "codes as numbers": (rows("zip,y", "01067,0", "80331,1"), "zip=number", "1 numeric column (zip); label: y"),
    "numbers as categories": (rows("k,y", "1,0", "2,1"), "k=category", "1 categorical (k: 2 values); label: y"),
    "truth values": (rows("a,y", "True,0", "False,1"), None, "1 categorical (a: 2 values); label: y"),
    "dates": (rows("d,y", "2020-01-01,0", "2020-01-02,1"), None, "1 categorical (d: 2 values); label: y"),
    "another label": (rows("a,b,y", "1,u,0", "2,v,1"), "b=label", "2 numeric columns (a, y); label: b (2 classes)"),
    "classes in fractions": (numbered(lambda i: f"{i % 2}.0"), None, "label: y (2 classes)"),
    "many classes": (numbered(lambda i: i % 20), None, "label: y (20 classes)"),
    "a regression target, insisted on": (numbered(lambda i: i * 1.37), "y=label", "label: y (40 classes)"),
    "a class called none": (rows("a,y", "1,none", "2,mild"), None, "label: y (2 classes)"),
    "a name with an equals sign": (rows("a=b,y", "1,0", "2,1"), "a=b=category", "1 categorical (a=b: 2 values)"),
    "no header": (rows("1,2,0", "3,4,1"), None, "2 numeric columns (column_0, column_1); label: column_2"),
    "an unnamed column": (rows(",a,y", "0,5,0", "1,6,1"), None, "2 numeric columns (column_0, a)"),
    "many columns": (
        rows(",".join([*(f"c{i}" for i in range(12)), "y"]), ",".join("1" * 12 + "0"), ",".join("2" * 12 + "1")),
        None,
        "12 numeric columns (c0, c1, c2, c3, c4, c5, c6, c7 and 4 more)",
    ),
}


@pytest.mark.parametrize("case", FINE)
def test_what_columns_were_read_as_is_said(tmp_path, case):
    text, columns, said = FINE[case]
    assert said in load(tmp_path, text, columns).contents


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("age=int", "--columns holds 'age=int'; expected each column once as name=kind"),
        ("age", "--columns holds 'age'"),
        ("age=skip,age=number", "--columns holds 'age=number'"),
        ("age=label,job=label", "calls age and job labels"),
        ("wage=number", "has no column 'wage', which --columns names; its columns are age, job, y"),
        ("age=skip,job=skip", "no column left beside the label y"),
        ("y=skip", "the label column is y, but --columns says otherwise"),
        ("job=number", "job holds numbers but for 2 cells, 'cook' in row 2"),
    ],
)
def test_columns_told_wrong_are_refused(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, rows("age,job,y", "20,cook,0", "30,smith,1"), columns)


def test_simulate_says_what_it_read_and_takes_columns(tmp_path):
    (tmp_path / "t.csv").write_text(rows("id,age,job,y", "1,20,cook,0", "2,30,smith,1", "3,40,cook,1"))
    common = ("simulate", "--batch-size", 2, "--width", 8, "--depth", 2)
    common = (*common, "--out", tmp_path / "u.safetensors", "--truth", tmp_path / "truth.safetensors")
    said = run(*common, "--data", tmp_path / "t.csv", "--columns", "id=skip,job=label")
    assert said.code == 0, said.err
    assert said.out.startswith("t.csv: 2 numeric columns (age, y); label: job (2 classes); left out: id.\n")
    assert (
        run(*common, "--data", tmp_path / "t.csv", "--json").json["columns"].startswith("2 numeric columns (id, age)")
    )
    without = run(*common, "--columns", "id=skip")
    assert (without.code, "--columns goes with a table" in without.err) == (2, True)
