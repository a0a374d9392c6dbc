"""The report is read back: pictures decoded from the page and compared with the arrays, text against the record."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from skimage import data

from spear_jax.client.evaluate import evaluate
from spear_jax.defences.trials import Trial
from spear_jax.report.pictures import SampleRow, amplified_difference, contact_sheet, picture
from spear_jax.report.values import number, share
from spear_jax.report.write import write_report

RECORD = {
    "status": "EXACT",
    "message": "Every sample of the batch was reconstructed and certified.",
    "batch_size": 4,
    "directions_found": 4,
    "certified": 4,
    "layer": "Dense_0",
    "shape": [400, 1728],
    "config": {"method": "auto", "rank": None, "shard": [0, 1]},
    "seed": 7,
    "versions": {"jax": "0.10.0"},
    "stats": {
        "method": "sampling",
        "reason": "few directions",
        "candidates": 27_000_000,
        "expected_candidates": float("inf"),
        "devices": 8,
        "device_kind": "cpu",
        "seconds": {"search": 0.25, "solve": 0.5},
    },
    "certificate": {"matching_score": 0.99999, "weight_residual": 3.1e-15},
    "update_sha256": "ab" * 32,
}


class Shifted:
    """pixel - 0.5."""

    def invert(self, images):
        return images + 0.5


class Page(HTMLParser):
    """Checks that tags nest, and keeps images by caption, the text, and everything that refers elsewhere."""

    VOID = ("meta", "img", "br", "hr")

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open, self.tags, self.references, self.images, self.cards, self.words = [], [], [], {}, [], []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag == "img":
            png = base64.b64decode(attrs["src"].removeprefix("data:image/png;base64,"))
            caption, _, sample = attrs["alt"].partition(" of ")
            assert sample.startswith(("Sample ", "Extra reconstruction "))
            self.images.setdefault(caption, []).append(np.asarray(Image.open(io.BytesIO(png))))
        if tag == "article":
            self.cards.append([attrs["class"], ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.words.append(text)
            if "article" in self.open:
                self.cards[-1][1] += f"{text} "

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def headline(self):
        return re.search(r"<h1>(.*?)</h1>", self.source).group(1)


def photo_batch(num_images=4, size=24, channels=3):
    photo = data.astronaut()[:, :, :channels]
    images = np.stack([photo[i * 3 : i * 3 + size, 150 + i * 2 : 150 + i * 2 + size] for i in range(num_images)])
    return images, (images / 255 - 0.5).reshape(num_images, -1)


def written(folder, inputs, exact=None, matching=None, record=RECORD, **options):
    exact = np.ones(len(inputs), dtype=bool) if exact is None else exact
    matching = np.where(exact, 1.0, 0.7) if matching is None else matching
    index, contact = write_report(folder / "recon", record, inputs, exact, matching, **options)
    return Page(index), contact


def written_with_truth(folder, images, truth, found, exact, **options):
    scores = evaluate(found, truth, normalization=Shifted(), images=images, certified=exact).to_json()
    options = {"normalization": Shifted(), "image_shape": images.shape[1:]} | options
    return written(folder, found, exact, truth_images=images, evaluation_json=scores, **options)


def test_the_page_fetches_nothing_and_runs_nothing(tmp_path):
    images, truth = photo_batch()
    page, _ = written_with_truth(tmp_path, images, truth, truth, np.ones(4, dtype=bool))
    assert len(page.references) == 12
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in page.source
    assert "://" not in page.source
    assert "default-src &#39;none&#39;" in page.source


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_on_the_page_are_the_pixels_beside_their_originals_in_any_order(tmp_path, channels):
    images, truth = photo_batch(channels=channels)
    found = truth[[2, 0, 3, 1]]
    page, contact = written_with_truth(tmp_path, images, truth, found, np.ones(4, dtype=bool))
    expected = images[..., 0] if channels == 1 else images
    np.testing.assert_array_equal(page.images["original"], expected)
    np.testing.assert_array_equal(page.images["reconstruction"], expected)
    assert not np.any(page.images["difference ×20"])
    assert contact.is_file()


def test_a_wrong_reconstruction_shows_in_the_difference(tmp_path):
    images, truth = photo_batch()
    found = truth.copy()
    found[1] += 2 / 255
    page, _ = written_with_truth(tmp_path, images, truth, found, np.ones(4, dtype=bool))
    assert not np.any(page.images["difference ×20"][0])
    np.testing.assert_array_equal(page.images["difference ×20"][1], 40)


def test_one_gray_level_of_error_is_twenty_in_the_difference_and_large_ones_saturate():
    original = np.full((1, 3, 1), 100, np.uint8)
    reconstruction = np.array([100, 101, 160]).reshape(1, 3, 1) / 255
    assert amplified_difference(original, reconstruction).ravel().tolist() == [0, 20, 255]


@pytest.mark.parametrize(
    ("exact", "headline"),
    [
        ([True] * 4, "4 of 4 samples reconstructed and certified without ground truth"),
        ([True, False, True, True], "3 of 4 samples reconstructed and certified without ground truth"),
        ([False] * 4, "None of 4 samples could be certified"),
    ],
)
def test_the_headline_counts_what_is_certified(tmp_path, exact, headline):
    images, truth = photo_batch()
    page, _ = written(tmp_path, truth, np.array(exact), normalization=Shifted(), image_shape=(24, 24, 3))
    assert page.headline == headline
    assert ('class="lead good"' in page.source) == all(exact)


def test_the_headline_counts_directions_that_were_never_found(tmp_path):
    _, truth = photo_batch()
    assert written(tmp_path, truth[:3])[0].headline.startswith("3 of 4 samples")
    assert written(tmp_path, truth[:1], record={})[0].headline.startswith("1 of 1 sample ")
    assert written(tmp_path, truth[:0], record={})[0].headline == "No sample was reconstructed"


def test_an_uncertified_sample_is_marked_and_never_called_exact_even_where_it_is(tmp_path):
    images, truth = photo_batch()
    page, _ = written_with_truth(tmp_path, images, truth, truth, np.array([True, False, True, True]))
    assert [kind for kind, _ in page.cards] == ["card ok", "card open", "card ok", "card ok"]
    _, text = page.cards[1]
    assert "not certified" in text
    assert "matching 0.7000" in text
    assert "exact" not in text
    assert "every pixel exact" in page.cards[0][1]
    assert "✓ certified" in page.cards[0][1]


def test_a_row_that_is_not_finite_is_not_reconstructed_whatever_its_certificate_says(tmp_path):
    images, truth = photo_batch()
    found = truth.copy()
    found[2, 5] = np.nan
    page, contact = written_with_truth(tmp_path, images, truth, found, np.ones(4, dtype=bool))
    assert page.headline.startswith("3 of 4")
    assert len(page.cards) == 4
    assert "not reconstructed" in page.cards[2][1]
    assert len(page.images["original"]) == 4
    assert len(page.images["reconstruction"]) == 3
    assert contact.is_file()


def test_reconstructions_beyond_the_truth_are_named_as_extra(tmp_path):
    images, truth = photo_batch()
    page, _ = written_with_truth(tmp_path, images[:3], truth[:3], truth, np.array([True, True, True, False]))
    assert [text.split("  ")[0].strip() for _, text in page.cards][3].startswith("Extra reconstruction 4")


def test_without_a_normalization_pictures_fill_their_range_and_are_compared_with_nothing(tmp_path):
    images, truth = photo_batch()
    scores = evaluate(truth, truth).to_json()
    page, _ = written(tmp_path, truth, image_shape=(24, 24, 3), truth_images=images, evaluation_json=scores)
    assert set(page.images) == {"reconstruction"}
    assert all((image.min(), image.max()) == (0, 255) for image in page.images["reconstruction"])
    assert "stretched" in page.text


def test_large_images_are_reduced_on_the_page(tmp_path):
    inputs = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 300 * 400))
    page, _ = written(tmp_path, inputs, normalization=Shifted(), image_shape=(300, 400, 1))
    assert page.images["reconstruction"][0].shape == (192, 256)


def test_inputs_that_are_no_images_are_listed_with_their_names(tmp_path):
    inputs = np.arange(40.0).reshape(2, 20) / 8
    names = [f"column {i}" for i in range(20)]
    page, contact = written(tmp_path, inputs, np.array([True, False]), columns=names, record={})
    assert contact is None
    assert "column 11 1.375" in " ".join(page.cards[0][1].split())
    assert "column 0 2.5" in " ".join(page.cards[1][1].split())
    assert "column 12" not in page.text
    assert "first 12 of the 20" in page.text


def test_the_facts_of_the_record_are_on_the_page(tmp_path):
    text = written(tmp_path, np.ones((4, 3)))[0].text
    for fact in (
        "Layer Dense_0",
        "400 × 1,728",
        "Candidates drawn 2.70 × 10⁷",
        "Candidates expected ∞",
        "Mean matching score 0.9999",
        "3.10 × 10⁻¹⁵",
        "search 0.25, solve 0.50, total 0.75",
        "Devices 8 × cpu",
        "Seed 7",
        "method auto, shard 0 1",
        "ab" * 32,
        "here 400",
    ):
        assert fact in text


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"stats": None, "certificate": [], "versions": "0.1", "shape": "?", "batch_size": "four", "config": None},
        {"shape": [3], "stats": {"seconds": {"solve": None}, "devices": None}, "normalization": {"mean": [0.5]}},
    ],
)
def test_a_record_that_lacks_keys_or_holds_odd_ones_still_makes_a_page(tmp_path, record):
    page, _ = written(tmp_path, np.ones((2, 3)), record=record)
    assert "Candidates drawn –" in page.text
    assert "None" not in page.text


def test_everything_from_files_is_escaped(tmp_path):
    attack = '<script>alert("x")</script>&'

    def poisoned(value):
        if isinstance(value, dict):
            return {f"{name}": poisoned(entry) for name, entry in value.items()}
        return attack

    record = poisoned(RECORD) | {"stats": poisoned(RECORD["stats"]), "config": {attack: attack}}
    scores = {"assignment": [0, 1], "psnr": None, "pixel_exact": None, "summary": attack}
    page, _ = written(tmp_path, np.ones((2, 1)), record=record, columns=[attack], evaluation_json=scores)
    assert "script" not in page.tags
    assert attack not in page.source
    assert page.text.count("alert") > 15


SECTIONS = [
    "Threat model",
    "The samples",
    "How it was certified",
    "What it cost",
    "The update and its noise",
    "Which defence would have stopped it",
    "To repeat it",
]


def test_the_sections_come_in_the_order_an_auditor_reads_them_and_print(tmp_path):
    page, _ = written(tmp_path, np.ones((4, 3)))
    assert re.findall(r"<h2>(.*?)</h2>", page.source) == SECTIONS
    assert page.source.index("</h1>") < page.source.index("<h2>")
    assert "@media print" in page.source
    assert "one client's update of Dense_0, a linear layer with bias followed by ReLU" in page.text


@pytest.mark.parametrize(
    ("exact", "approximate", "headline"),
    [
        ([1, 0, 1, 0], [0, 1, 0, 0], "2 of 4 .* ground truth, 1 more approximately .expected error at most 0.02 of"),
        ([0] * 4, [1] * 4, "4 of 4 samples reconstructed approximately .expected error at most 0.04 of .* truth$"),
        ([0] * 4, [0] * 4, "None of 4 samples could be certified$"),
    ],
)
def test_the_headline_gives_the_error_bar_of_what_is_approximate(tmp_path, exact, approximate, headline):
    exact, approximate = np.array(exact, bool), np.array(approximate, bool)
    error = np.array([1e-7, 0.02, 1e-7, 0.04])
    page, _ = written(tmp_path, np.ones((4, 3)), exact, approximate=approximate, error=error)
    assert re.match(headline, page.headline), page.headline
    assert ('class="lead good"' in page.source) == all(exact)


def test_cards_tell_the_certificate_and_its_error_and_no_error_that_nothing_bounds(tmp_path):
    exact, approximate = np.array([1, 0, 0, 1], bool), np.array([0, 1, 0, 0], bool)
    error, labels = np.array([2e-7, 0.03, 0.5, np.inf]), np.array([5, -1, -1, 0])
    page, _ = written(tmp_path, np.ones((4, 3)), exact, approximate=approximate, error=error, labels=labels)
    assert [kind for kind, _ in page.cards] == ["card ok", "card near", "card open", "card ok"]
    texts = [text for _, text in page.cards]
    assert "expected error 2.00 × 10⁻⁷ · label 5" in texts[0]
    assert "approximate" in texts[1]
    assert "expected error 0.03" in texts[1]
    assert "not certified" in texts[2]
    assert [("expected error" in text, "label" in text) for text in texts[2:]] == [(False, False), (False, True)]
    assert "By the network, 2 of them" in page.text


def test_what_certifies_over_several_steps_is_said_only_of_several_steps(tmp_path):
    one, _ = written(tmp_path / "one", np.ones((4, 3)), record=RECORD | {"observed": {"local_steps": 1}})
    many, _ = written(tmp_path / "many", np.ones((4, 3)), record=RECORD | {"observed": {"local_steps": 6}})
    wanted = "over the client's 6 local steps: where the weights moved less than the pre-activation is from zero"
    assert wanted in many.text
    assert "local steps:" not in one.text
    assert "on every live neuron" in one.text
    assert "By the network" not in one.text + many.text


@pytest.mark.parametrize(
    ("kind", "dtype", "is_said"),
    [("weights", "float32", True), ("delta", "float32", True), ("weights", "float64", False)]
    + [("gradient", "float32", False)],
)
def test_the_rounding_of_weights_in_float32_is_explained_where_there_is_some(tmp_path, kind, dtype, is_said):
    observed = {"kind": kind, "dtype": dtype, "lr": 0.05, "local_steps": 1, "defence": "int8"}
    record = RECORD | {"observed": observed, "noise_floor": 2.5e-6, "gap": 400.0}
    page, _ = written(tmp_path, np.ones((4, 3)), record=record)
    assert ("divided by the learning rate, here 0.05, and the rounding is" in page.text) == is_said
    assert "2.50 × 10⁻⁶, in the gradient's units; the smallest one of the batch stands 400 times" in page.text
    assert "a defence was applied before it was sent: int8." in page.text
    assert "may hide some samples" in written(tmp_path / "b", np.ones((4, 3)), record=record | {"gap": 3.0})[0].text


def test_the_defences_that_were_tried_are_tabled_and_the_rest_is_a_command(tmp_path):
    none, _ = written(tmp_path / "none", np.ones((4, 3)), record=RECORD | {"update": "my update.npz"})
    assert "spear-jax defend 'my update.npz' --sweep --out FOLDER" in none.text
    grids = {"top_k": ("share", (1.0, 0.9), (4, 0)), "int8": ("", (None,), (0,)), "clip": ("norm", (1.0,), (4,))}
    trials = [
        Trial(name, parameter, strength, certified, 0, None, 4)
        for name, (parameter, strengths, leaks) in grids.items()
        for strength, certified in zip(strengths, leaks, strict=True)
    ]
    page, _ = written(tmp_path / "some", np.ones((4, 3)), trials=trials)
    assert "got nothing with top_k (share up to 0.9), int8; clip stopped it all at no strength" in page.text
    assert "top_k (share) 1 0.9 4 at 1, 0 at 0.9 int8 – always 0 clip (norm) 1 – 4 at 1" in page.text
    assert "--sweep" not in page.text


def test_the_command_repeats_what_differs_from_the_defaults(tmp_path):
    config = {"method": "sampling", "rank": None, "max_seconds": 30.0, "sampler": "auto", "shard": [0, 1]}
    page, _ = written(tmp_path, np.ones((4, 3)), record=RECORD | {"update": "u.npz", "config": config})
    assert "reconstruct u.npz --layer Dense_0 --seed 7 --method sampling --max-seconds 30.0 SHA-256" in page.text


def test_a_share_reads_one_only_where_it_is_one():
    assert [share(value) for value in (1.0, 0.999999, 0.5, None, float("nan"))] == ["1", "0.9999", "0.5000", "–", "nan"]


def test_numbers_are_written_for_people():
    values = (0, 65536, 27_000_000, 642.3, 2.68, 3.1e-15, float("inf"), float("nan"), None, "many", True)
    expected = ["0", "65,536", "2.70 × 10⁷", "642.3", "2.68", "3.10 × 10⁻¹⁵", "∞", "–", "–", "many", "True"]
    assert [number(value) for value in values] == expected


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 8, 64, 128])
def test_contact_sheets_of_any_number_are_of_readable_shape(count, channels):
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 8, 8, channels), np.uint8)
    rows = [SampleRow(image, image / 255, i % 3 > 0, f"{i} certified 131.2 dB") for i, image in enumerate(images)]
    sheet = contact_sheet(rows, "A title")
    assert 3 * 96 <= sheet.width < 4000
    if count > 2:
        assert 0.8 < sheet.width / sheet.height < 2.6


@pytest.mark.parametrize("count", [3, 40])
def test_a_contact_sheet_holds_every_picture_enlarged_without_smoothing(count):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, 28, 28, 3), np.uint8)
    wrong = 1 - images / 255
    sheet = np.asarray(contact_sheet([SampleRow(a, b, False, "x") for a, b in zip(images, wrong, strict=True)]))
    for index in (0, count - 1):
        for image in (images[index], 255 - images[index]):
            tile = np.asarray(picture(image, 96 if count > 32 else 192))
            assert min(tile.shape[:2]) >= 96
            assert occurrences(sheet, tile) == 1
    assert occurrences(sheet, np.asarray(picture(images[0][::-1], 96 if count > 32 else 192))) == 0


def occurrences(sheet, tile):
    """How often the tile is found; its first pixels, off the frame, pick the places to compare."""
    height, width = tile.shape[:2]
    places = np.argwhere((sheet[: 1 - height or None, : 1 - width or None] == tile[0, 0]).all(axis=2))
    return sum(np.array_equal(sheet[y : y + height, x : x + width], tile) for y, x in places)


def test_certified_and_uncertified_samples_are_framed_differently():
    image = np.zeros((32, 32, 3), np.uint8)
    sheets = [np.asarray(contact_sheet([SampleRow(image, image / 255, flag, "")])) for flag in (True, False)]
    green = [int((sheet == (0x1A, 0x7F, 0x4B)).all(axis=2).sum()) for sheet in sheets]
    assert green[0] > 1000
    assert green[1] == 0


def test_a_contact_sheet_without_pictures_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        contact_sheet([SampleRow(None, None, False, "")])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_shape": (2, 2, 3)}, "image_shape"),
        ({"columns": ["a"]}, "columns has 1"),
        ({"evaluation_json": {"assignment": [4]}}, "not there"),
        ({"truth_images": np.zeros((2, 1, 3, 1), np.uint8)}, "2 originals"),
    ],
)
def test_arrays_that_disagree_are_refused_before_anything_is_written(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        written(tmp_path, np.ones((2, 3)), **changes)
    assert not list(tmp_path.iterdir())
