"""Readers of private inputs: pixels, labels and sampling against files written by hand, and what is refused."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from spear_jax.client.load import DataError, decode_rows, demo_batch, load_batch, load_images, load_table
from spear_jax.normalization import Normalization

NONE = Normalization.parse("none")


def pixels(count, side=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels)).astype(np.uint8)


def drawn(count, batch_size, seed):
    return np.random.default_rng(seed).permutation(count)[:batch_size]


# Normalization


def test_normalization_follows_its_formula_and_inverts():
    images = pixels(2) / 255.0
    imagenet = Normalization.parse("imagenet")
    expected = (images - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(imagenet.apply(images), expected, rtol=1e-15)
    np.testing.assert_allclose(imagenet.invert(imagenet.apply(images)), images, atol=1e-15)
    assert not np.allclose(Normalization.parse("cifar10").apply(images), expected)


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [
        ("none", (0.0,), (1.0,)),
        ("MNIST", (0.1307,), (0.3081,)),
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("0.5, 0.25", (0.5,), (0.25,)),
        ("1,2,3,4,5,6", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    ],
)
def test_normalization_is_read_from_text_and_survives_json(text, mean, std):
    normalization = Normalization.parse(text)
    assert (normalization.mean, normalization.std) == (mean, std)
    assert Normalization.from_json(normalization.to_json()) == normalization


@pytest.mark.parametrize("text", ["imagenette", "1", "1,2,3", "0,0", "nan,1", "0,-1", "", "1,2,3,4,5,x"])
def test_bad_normalizations_are_refused(text):
    with pytest.raises(ValueError, match="normalization"):
        Normalization.parse(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mean": 1, "std": 2}', '{"mean": ["a"], "std": [1]}', "[" * 99_999])
def test_bad_json_normalizations_are_refused(text):
    with pytest.raises(ValueError, match=r"normalization|could not convert"):
        Normalization.from_json(text)


def test_statistics_for_another_number_of_channels_are_refused_with_the_remedy(tmp_path):
    np.savez(tmp_path / "gray.npz", images=pixels(3, channels=1), labels=np.arange(3))
    with pytest.raises(DataError, match=r"1 channel.* statistics for 3; pass mnist, none"):
        load_images(tmp_path / "gray.npz", batch_size=2, normalization=Normalization.parse("imagenet"))


# Images


def test_inputs_are_normalized_pixels_in_c_order(tmp_path):
    images = pixels(5, side=4)
    np.savez(tmp_path / "set.npz", images=images, labels=np.array([4, 0, 1, 1, 2]))
    batch = load_batch(tmp_path / "set.npz", batch_size=3, seed=7, normalization=Normalization.parse("0.5,0.25"))
    index = drawn(5, 3, 7)
    np.testing.assert_array_equal(batch.images, images[index])
    np.testing.assert_array_equal(batch.labels, np.array([4, 0, 1, 1, 2])[index])
    np.testing.assert_allclose(batch.inputs, ((images[index] / 255 - 0.5) / 0.25).reshape(3, 48), atol=1e-15)
    assert (batch.image_shape, batch.num_classes, batch.names) == ((4, 4, 3), 5, tuple(map(str, index)))
    assert batch.inputs.dtype == np.float64
    assert batch.labels.dtype == np.int64


def test_the_seed_decides_the_batch(tmp_path):
    np.savez(tmp_path / "set.npz", x_train=pixels(40, side=2), y_train=np.arange(40)[:, None])
    first, again, other = (load_images(tmp_path / "set.npz", batch_size=20, seed=seed).labels for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(set(first.tolist())) == 20


@pytest.mark.parametrize("layout", ["subfolders", "numbers", "neither"])
def test_folder_classes_come_from_subfolders_then_numbers_then_the_image(tmp_path, layout):
    names = {
        "subfolders": ("dog/1.png", "cat/2.png", "cat/3.png"),
        "numbers": ("7_a.png", "0003_b.png", "3.png"),
        "neither": ("a.png", "20240131.png", "b.png"),
    }[layout]
    images = dict(zip(names, pixels(3), strict=True))
    for name, image in images.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / ".hidden.png").write_text("no image")
    (tmp_path / "notes.md").write_text("no image")
    batch = load_images(tmp_path, batch_size=3, normalization=NONE)
    order = sorted(names)
    expected = {
        "subfolders": {"dog/1.png": 1, "cat/2.png": 0, "cat/3.png": 0},
        "numbers": {"7_a.png": 7, "0003_b.png": 3, "3.png": 3},
        "neither": {name: order.index(name) for name in names},
    }[layout]
    assert dict(zip(batch.names, batch.labels.tolist(), strict=True)) == expected
    assert batch.num_classes == max(expected.values()) + 1
    assert batch.class_names == (("cat", "dog") if layout == "subfolders" else ())
    assert batch.images is not None
    for name, image in zip(batch.names, batch.images, strict=True):
        np.testing.assert_array_equal(image, images[name])


def test_images_are_centre_cropped_then_resized(tmp_path):
    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, 6:14] = (10, 200, 30)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    batch = load_images(tmp_path, batch_size=1, image_size=4, normalization=NONE)
    np.testing.assert_array_equal(batch.images, np.broadcast_to(np.array([10, 200, 30], np.uint8), (1, 4, 4, 3)))


def test_every_pixel_mode_becomes_rgb(tmp_path):
    color = Image.fromarray(pixels(1)[0])
    for mode, name in (("L", "l.png"), ("RGBA", "rgba.png"), ("P", "p.gif"), ("CMYK", "c.tif"), ("1", "bits.bmp")):
        color.convert(mode).save(tmp_path / name)
    Image.fromarray(np.full((8, 8), 257 * 100, np.uint16)).save(tmp_path / "sixteen.png")
    batch = load_images(tmp_path, batch_size=6, normalization=NONE)
    assert batch.images is not None
    assert batch.image_shape == (8, 8, 3)
    assert (batch.images[batch.names.index("sixteen.png")] == 100).all()


def idx(array):
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_mnist_files_are_read_as_distributed(tmp_path, packed, whole_folder):
    images, labels = pixels(6, channels=1)[..., 0], np.array([5, 0, 9, 1, 1, 2], np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        path = tmp_path / f"t10k-{name}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    path = tmp_path if whole_folder else next(tmp_path.glob("*images*"))
    batch = load_batch(path, batch_size=4, seed=3)
    index = drawn(6, 4, 3)
    np.testing.assert_array_equal(batch.images, images[index][..., None])
    np.testing.assert_array_equal(batch.labels, labels[index])
    assert (batch.image_shape, batch.num_classes) == ((8, 8, 1), 10)
    assert batch.normalization == Normalization.parse("mnist")


def test_cifar_records_are_label_then_three_planes(tmp_path):
    images, labels = pixels(4, side=32), np.array([3, 9, 0, 7], np.uint8)
    planes = images.transpose(0, 3, 1, 2).reshape(4, -1)
    np.concatenate([labels[:, None], planes], axis=1).tofile(tmp_path / "test_batch.bin")
    batch = load_batch(tmp_path / "test_batch.bin", batch_size=4, seed=1)
    np.testing.assert_array_equal(batch.images, images[drawn(4, 4, 1)])
    np.testing.assert_array_equal(batch.labels, labels[drawn(4, 4, 1)])


def test_npz_names_are_of_images_or_of_classes(tmp_path):
    labels = np.array([0, 1, 1])
    np.savez(tmp_path / "a.npz", images=pixels(3), labels=labels, names=np.array(["x", "y", "z"]))
    np.savez(tmp_path / "b.npz", images=pixels(3), labels=labels, names=np.array(["cat", "dog", "emu", "fox"]))
    assert sorted(load_batch(tmp_path / "a.npz", batch_size=3).names) == ["x", "y", "z"]
    classes = load_batch(tmp_path / "b.npz", batch_size=3)
    assert (classes.class_names, classes.num_classes) == (("cat", "dog", "emu", "fox"), 4)


def test_num_classes_can_be_raised_but_not_lowered(tmp_path):
    np.savez(tmp_path / "a.npz", images=pixels(3), labels=np.array([0, 1, 4]))
    assert load_batch(tmp_path / "a.npz", batch_size=1, num_classes=10).num_classes == 10
    with pytest.raises(DataError, match="num_classes is 4 but .* has 5 classes"):
        load_batch(tmp_path / "a.npz", batch_size=1, num_classes=4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": pixels(2)}, "holds pictures; expected one of images, x_train, x, arr_0"),
        ({"images": pixels(2) / 255}, r"images of float64\[2, 8, 8, 3\]; expected uint8"),
        ({"images": pixels(2).transpose(0, 3, 1, 2)}, r"uint8\[2, 3, 8, 8\]; expected"),
        ({"images": pixels(2), "labels": np.arange(3)}, r"2 images and labels of int64\[3\]"),
        ({"images": pixels(2), "labels": np.array([-1, 0])}, "one integer from 0 upwards"),
        ({"images": pixels(2), "labels": np.array([{}, {}])}, "pickled .* refused"),
        ({"images": pixels(0)}, "has 0 images"),
    ],
)
def test_npz_that_is_no_image_set_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_batch(tmp_path / "a.npz", batch_size=1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.png", b"\x89PNG\r\n\x1a\n and then nothing", r"broken\.png is not a readable image"),
        ("photo.jpg", b"", r"photo\.jpg is not a readable image"),
        ("data.bin", b"12345", "5 bytes; a CIFAR-10 batch is a multiple of 3073"),
        ("data.bin", bytes([10]) + bytes(3072), "labels up to 10"),
        ("images-idx3-ubyte", b"", "needs its labels; expected labels-idx1-ubyte"),
        ("data.npz", b"PK", "not a readable npz file"),
        ("data.csv", b"\xff\xfe", "cannot be read as a UTF-8 table"),
        ("data.txt", b"", r"data\.txt is no data set that can be read; expected a folder of images"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    is_image = name.endswith((".png", ".jpg"))
    with pytest.raises(DataError, match=message):
        load_batch(tmp_path if is_image else tmp_path / name, batch_size=1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (idx(pixels(2, channels=1)[..., 0])[:-1], "declares .* truncated or damaged"),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**31, 2**31), "truncated or damaged"),
        (b"\x00\x00\x0d\x03" + bytes(12), "no idx file of 3-D unsigned bytes"),
        (idx(pixels(3, channels=1)[..., 0]), r"3 images and labels of uint8\[2\]"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, images, message):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(images)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
    with pytest.raises(DataError, match=message):
        load_batch(tmp_path, batch_size=1)


def test_folders_say_what_they_lack(tmp_path):
    with pytest.raises(DataError, match=r"holds no images; looked at any depth for \.bmp .* \.webp"):
        load_batch(tmp_path, batch_size=1)
    with pytest.raises(DataError, match="gone does not exist"):
        load_batch(tmp_path / "gone", batch_size=1)
    for name, side in (("a.png", 8), ("b.png", 9)):
        Image.fromarray(pixels(1, side=side)[0]).save(tmp_path / name)
    with pytest.raises(DataError, match="has 2 images but the batch size is 3; expected 1 to 2"):
        load_batch(tmp_path, batch_size=3)
    with pytest.raises(DataError, match="sides of 8 to 9 pixels; pass image_size"):
        load_batch(tmp_path, batch_size=2)
    with pytest.raises(DataError, match="image_size is 0"):
        load_batch(tmp_path, batch_size=2, image_size=0)


# Tables

TABLE = "age,job,score,income\n20,cook,7,low\n40,smith,7,high\n60,cook,7,low\n"


def test_tables_are_standardized_and_one_hot(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    batch = load_batch(tmp_path / "t.csv", batch_size=2, seed=5)
    index = drawn(3, 2, 5)
    age = (np.array([20, 40, 60]) - 40) / np.sqrt(800 / 3)
    expected = np.stack([age, [1, 0, 1], [0, 1, 0], [0, 0, 0]], axis=1)
    np.testing.assert_allclose(batch.inputs, expected[index], atol=1e-15)
    np.testing.assert_array_equal(batch.labels, np.array([1, 0, 1])[index])
    assert (batch.class_names, batch.num_classes) == (("high", "low"), 2)
    assert [(c.name, c.kind, c.start, c.categories) for c in batch.columns] == [
        ("age", "numeric", 0, ()),
        ("job", "categorical", 1, ("cook", "smith")),
        ("score", "numeric", 3, ()),
    ]
    assert batch.images is batch.normalization is batch.image_shape is None
    rows = [{"age": 20, "job": "cook", "score": 7}, {"age": 40, "job": "smith", "score": 7}]
    rows.append({"age": 60, "job": "cook", "score": 7})
    assert decode_rows(batch.inputs, batch.columns) == [rows[i] for i in index]


@pytest.mark.parametrize("label_column", ["job", 1])
def test_the_label_column_can_be_chosen_and_scaling_left_out(tmp_path, label_column):
    (tmp_path / "t.csv").write_text(TABLE)
    batch = load_table(tmp_path / "t.csv", batch_size=3, label_column=label_column, standardize=False)
    assert batch.class_names == ("cook", "smith")
    assert sorted(batch.inputs[:, 0]) == [20, 40, 60]
    assert [column.name for column in batch.columns] == ["age", "score", "income"]


def test_tables_without_header_and_with_other_separators_are_read(tmp_path):
    (tmp_path / "t.csv").write_text("1;2,5;0\n3;4,5;1\n")
    batch = load_batch(tmp_path / "t.csv", batch_size=2)
    assert [column.name for column in batch.columns] == ["column_0", "column_1"]
    assert batch.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "has 0 rows below the header"),
        ("1\n2\n", "1 columns"),
        ("a,b\n1,2\n1,2,3\n", "row 3 has 3 cells; expected 2"),
        ("a,b\n1,2\n,3\n", "numeric column a has 1 empty cells"),
        (TABLE, "t.csv has 3 rows but the batch size is 9"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_batch(tmp_path / "t.csv", batch_size=9 if text == TABLE else 1)


def test_options_of_the_other_kind_of_data_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    with pytest.raises(DataError, match="no label column 'wage'; the columns are age, job, score, income"):
        load_batch(tmp_path / "t.csv", batch_size=1, label_column="wage")
    with pytest.raises(DataError, match="image_size goes with images"):
        load_batch(tmp_path / "t.csv", batch_size=1, image_size=8)
    with pytest.raises(DataError, match="label_column goes with a table"):
        load_batch(tmp_path, batch_size=1, label_column="income")


# Demo


def test_demo_has_64_distinct_colour_images_photos_first():
    batch = demo_batch(64, 64, seed=0)
    assert batch.images is not None
    assert batch.images.shape == (64, 64, 64, 3)
    assert len({image.tobytes() for image in batch.images}) == len(set(batch.names)) == 64
    assert not any("crop" in name for name in batch.names[:8])
    assert all("crop" in name for name in batch.names[8:])
    assert {"astronaut", "coffee", "coffee crop 1"} <= set(batch.names)
    assert all(name.startswith(batch.class_names[label]) for name, label in zip(batch.names, batch.labels, strict=True))
    # No two mix: the batch has full rank, without which no attack could take it apart.
    assert np.linalg.matrix_rank(batch.inputs) == 64


def test_demo_depends_on_its_seed_only():
    first, again, other = (demo_batch(12, 16, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert first.names != other.names


def test_demo_says_how_many_images_it_has():
    with pytest.raises(DataError, match=r"the demo has \d+ distinct images but the batch size is 100000"):
        demo_batch(100_000, 4)
