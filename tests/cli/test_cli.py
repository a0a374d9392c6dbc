"""The command line as a new user meets it: what works, what is printed where, and what lies there afterwards."""

import html
import io
import json

import numpy as np
import pytest
from PIL import Image

from spear_jax.update.bundle_file import load_update, save_update
from tests.helpers.command_line import run

ONE = ("--num-devices", 1, "--max-candidates", 2**17)
SMALL = ("--batch-size", 3, "--width", 100, "--depth", 2, "--image-size", 8)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Folder of a small simulated client, float64, and what simulate said."""
    folder = tmp_path_factory.mktemp("client")
    files = ("--out", folder / "update.safetensors", "--truth", folder / "truth.safetensors")
    return folder, run("simulate", *SMALL, "--dtype", "float64", "--seed", 1, *files, "--json")


@pytest.fixture(scope="module")
def reconstructed(client):
    """Folder of its reconstruction, and what reconstruct said."""
    folder, _ = client
    said = run("reconstruct", folder / "update.safetensors", "--out", folder / "recon", *ONE, "--json")
    return folder / "recon", said


def test_simulate_writes_the_update_and_the_truth(client):
    folder, said = client
    assert said.code == 0
    assert said.err == ""
    assert said.json["batch_size"] == 3
    assert sorted(path.name for path in folder.glob("*.safetensors")) == ["truth.safetensors", "update.safetensors"]
    assert load_update(folder / "update.safetensors").observation().weight_grad.dtype == np.float64


def test_simulate_sends_what_local_training_makes(tmp_path):
    files = ("--out", tmp_path / "u.npz", "--truth", tmp_path / "t.npz")
    local = ("--kind", "delta", "--local-epochs", 2, "--mini-batch", 2, "--lr", 0.01, "--weight-decay", 0.001)
    said = run("simulate", *SMALL, "--dtype", "float64", *local, *files, "--json")
    assert said.code == 0, said
    assert (said.json["kind"], said.json["local_steps"], said.json["local_training"]["epochs"]) == ("delta", 4, 2)
    update = load_update(tmp_path / "u.npz")
    assert (update.kind, update.local_steps, update.observation().drift) == ("delta", 4, 0.01)
    assert update.metadata["weight_decay"] == "0.001"
    assert run("reconstruct", tmp_path / "u.npz", "--out", tmp_path / "recon", *ONE).code == 0
    scored = run("evaluate", tmp_path / "recon", "--truth", tmp_path / "t.npz", "--json")
    assert (scored.json["num_recovered"], scored.json["false_certificates"]) == (3, 0)
    assert run("report", tmp_path / "recon").code == 0
    assert "over the client's 4 local steps" in html.unescape((tmp_path / "recon/index.html").read_text())


def test_one_step_of_sgd_sends_weights_that_hold_the_gradient(client, tmp_path):
    files = ("--out", tmp_path / "u.npz", "--truth", tmp_path / "t.npz")
    said = run("simulate", *SMALL, "--dtype", "float64", "--seed", 1, "--kind", "weights", *files)
    assert "weights after 1 local step(s) of 3 samples" in said.out
    gradient = load_update(client[0] / "update.safetensors").observation().weight_grad
    sent = load_update(tmp_path / "u.npz").observation().weight_grad
    np.testing.assert_allclose(sent, gradient, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--lr", 0.1), "--lr: a gradient has no local training; pass --kind weights or --kind delta"),
        (("--mini-batch", 2, "--momentum", 0), "--mini-batch, --momentum: a gradient has no local training"),
        (("--kind", "weight"), "--kind is 'weight'; expected gradient, weights or delta"),
        (("--kind", "delta", "--lr", 0), "--lr is 0; expected a positive number"),
        (("--kind", "delta", "--lr", "nan"), "--lr is nan; expected a number of at least 0"),
        (("--kind", "delta", "--weight-decay", -1), "--weight-decay is -1.0; expected a number of at least 0"),
        (("--kind", "delta", "--optimizer", "lion"), "--optimizer is 'lion'; expected one of sgd, adam, sign"),
        (("--kind", "delta", "--optimizer", "adam", "--momentum", 0.9), "--momentum is SGD's, but --optimizer is adam"),
        (("--kind", "delta", "--local-epochs", 0), "--local-epochs"),
    ],
)
def test_local_training_that_makes_no_sense_is_refused_before_anything_is_written(tmp_path, options, said):
    files = ("--out", tmp_path / "u.npz", "--truth", tmp_path / "t.npz")
    ran = run("simulate", *SMALL, *options, *files, "--json")
    assert ran.code == 2
    assert said in ran.json["error"]
    assert ran.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_inspect_reads_the_batch_size_off_the_gradient_and_the_truth_stays_out_of_it(client):
    folder, _ = client
    said = run("inspect", folder / "update.safetensors", "--json")
    assert said.code == 0
    layers = said.json["layers"]
    assert [layer["rank"] for layer in layers] == [3, 3, 3]
    assert [layer["name"] for layer in layers] == ["dense_0", "dense_1", "dense_2"]
    assert "no ReLU" in layers[-1]["verdict"]
    plain = run("inspect", folder / "update.safetensors", "--layer", "dense_1")
    assert plain.code == 0
    assert "dense_1" in plain.out
    assert "dense_0" not in plain.out


def test_reconstruct_certifies_every_sample_and_writes_where_said(reconstructed):
    folder, said = reconstructed
    assert said.code == 0
    assert said.json["status"] == "EXACT"
    assert said.json["certified"] == said.json["batch_size"] == 3
    assert said.json == json.loads((folder / "result.json").read_text())
    assert sorted(path.name for path in folder.iterdir())[:2] == ["inputs.safetensors", "result.json"]


def test_evaluate_finds_every_pixel(client, reconstructed):
    folder, _ = client
    said = run("evaluate", folder / "recon", "--truth", folder / "truth.safetensors", "--json")
    assert said.code == 0
    assert said.json["num_pixel_exact"] == 3
    assert said.json["false_certificates"] == 0
    assert json.loads((folder / "recon/evaluation.json").read_text()) == said.json


def test_report_makes_a_page_and_a_contact_sheet(client, reconstructed, tmp_path):
    folder, _ = client
    said = run("report", folder / "recon", "--truth", folder / "truth.safetensors", "--out", tmp_path / "r", "--json")
    assert said.code == 0
    assert said.json == {"page": str(tmp_path / "r/index.html"), "contact_sheet": str(tmp_path / "r/contact.png")}
    assert "3 of 3 samples reconstructed and certified" in (tmp_path / "r/index.html").read_text()
    with Image.open(tmp_path / "r/contact.png") as sheet:
        assert sheet.format == "PNG"


def test_without_json_people_read_sentences(client, reconstructed, tmp_path):
    folder, _ = client
    scored = run("evaluate", folder / "recon", "--truth", folder / "truth.safetensors", "--out", tmp_path / "e.json")
    assert scored.out.startswith("3 of 3 samples recovered")
    assert (tmp_path / "e.json").exists()
    assert run("report", folder / "recon", "--out", tmp_path).out.startswith("Written: ")


def test_a_hidden_layer_comes_back_too(client, tmp_path):
    folder, _ = client
    said = run("reconstruct", folder / "update.safetensors", "--layer", "dense_1", "--out", tmp_path, *ONE)
    assert said.code == 0, said
    assert "3 of 3 samples reconstructed and certified" in said.out
    scored = run("evaluate", tmp_path, "--truth", folder / "truth.safetensors", "--json")
    assert scored.code == 0
    assert scored.json["num_pixel_exact"] is None
    assert run("report", tmp_path, "--json").json["contact_sheet"] is None


def test_npz_serves_as_well_as_safetensors(client, reconstructed, tmp_path):
    folder, _ = client
    save_update(load_update(folder / "update.safetensors"), tmp_path / "update.npz")
    said = run("reconstruct", tmp_path / "update.npz", "--out", tmp_path, *ONE, "--json")
    assert said.code == 0
    assert (tmp_path / "inputs.safetensors").read_bytes() == (folder / "recon/inputs.safetensors").read_bytes()


def test_a_table_comes_back_by_column(tmp_path):
    rng = np.random.default_rng(0)
    rows = [",".join([*(f"{value:.4f}" for value in row), str(k)]) for k, row in enumerate(rng.normal(size=(12, 12)))]
    header = ",".join(["age", "income", *(f"answer {k}" for k in range(10)), "label"])
    (tmp_path / "people.csv").write_text("\n".join([header, *rows]))
    update, truth = tmp_path / "u.npz", tmp_path / "t.npz"
    simulated = run(
        "simulate", "--data", tmp_path / "people.csv", "--batch-size", 3, "--width", 100, "--depth", 2,
        "--out", update, "--truth", truth, "--json",
    )  # fmt: skip
    assert simulated.code == 0, simulated
    assert simulated.json["in_features"] == 12
    assert run("reconstruct", update, "--out", tmp_path / "recon", *ONE).code == 0
    assert run("evaluate", tmp_path / "recon", "--truth", truth, "--json").json["num_recovered"] == 3
    assert run("report", tmp_path / "recon", "--truth", truth).code == 0
    page = (tmp_path / "recon/index.html").read_text()
    assert "income" in page
    assert not (tmp_path / "recon/contact.png").exists()


@pytest.mark.slow
def test_folders_of_classes_are_data(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(tmp_path / "pets" / name)
    monkeypatch.setenv("SPEAR_JAX_DATA", str(tmp_path))
    files = ("--out", tmp_path / "new/u.safetensors", "--truth", tmp_path / "new/t.safetensors")
    said = run("simulate", "--images", "pets", *SMALL, *files, "--train-steps", 2, "--json")
    assert said.code == 0, said
    assert said.json["classes"] == 2
    assert (tmp_path / "new/u.safetensors").exists()


def test_a_batch_of_one_needs_no_search(tmp_path):
    files = ("--out", tmp_path / "u.safetensors", "--truth", tmp_path / "t.safetensors")
    assert run("simulate", *SMALL, "--batch-size", 1, *files).code == 0
    said = run("reconstruct", tmp_path / "u.safetensors", "--out", tmp_path / "recon", *ONE, "--json")
    assert said.code == 0
    assert said.json["stats"]["candidates"] == 0
    assert run("evaluate", tmp_path / "recon", "--truth", tmp_path / "t.safetensors").code == 0


def test_a_batch_larger_than_the_layer_ends_with_an_honest_status(tmp_path):
    files = ("--out", tmp_path / "u.safetensors", "--truth", tmp_path / "t.safetensors")
    assert run("simulate", *SMALL, "--width", 16, "--batch-size", 20, *files).code == 0
    inspected = run("inspect", tmp_path / "u.safetensors", "--json")
    assert not inspected.json["layers"][0]["invertible"]
    said = run("reconstruct", tmp_path / "u.safetensors", "--out", tmp_path / "recon", *ONE, "--json")
    assert said.code == 3
    assert (said.json["status"], said.json["certified"]) == ("RANK_FULL", 0)
    scored = run("evaluate", tmp_path / "recon", "--truth", tmp_path / "t.safetensors", "--json")
    assert (scored.code, scored.json["num_recovered"], scored.json["false_certificates"]) == (3, 0, 0)
    assert run("report", tmp_path / "recon").code == 0
    assert "None of 16 samples could be certified" in (tmp_path / "recon/index.html").read_text()


@pytest.mark.parametrize("json_flag", [(), ("--json",)])
def test_the_demo_runs_from_photos_to_a_page(tmp_path, json_flag):
    said = run("demo", *SMALL, "--max-seconds", 20, "--out", tmp_path, *json_flag)
    assert said.code == 0, said
    expected = {"contact.png", "evaluation.json", "index.html", "inputs.safetensors", "result.json"}
    assert expected < {path.name for path in tmp_path.iterdir()}
    if json_flag:
        assert said.json["evaluation"]["num_pixel_exact"] == 3
        assert said.json["page"] == str(tmp_path / "index.html")
    else:
        assert said.out.splitlines()[-1].endswith(f"open {tmp_path / 'index.html'} or {tmp_path / 'contact.png'}")


@pytest.mark.parametrize(("width", "ways"), [(20, 4), pytest.param(40, 5, marks=pytest.mark.slow)])
def test_the_benchmark_compares_the_ways_there_are(tmp_path, width, ways):
    options = ("--width", width, "--rank", 3, "--chunk-size", 64, "--repeats", 1, "--out", tmp_path / "b.json")
    said = run("bench", "sampling", *options, "--json")
    assert said.code == 0
    assert len(said.json["rates"]) == ways
    assert said.json["effective_candidates_per_second"] >= said.json["flat_candidates_per_second"] > 0
    assert json.loads((tmp_path / "b.json").read_text()) == said.json


COMMANDS = [
    ("demo",), ("simulate",), ("inspect",), ("reconstruct",), ("evaluate",), ("report",), ("merge",), ("bench",),
    ("bench", "sampling"),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_and_option_explains_itself(command):
    said = run(*command, "--help")
    assert (said.code, said.err) == (0, "")
    listed = [line for line in said.out.splitlines() if line.startswith("  --")]
    assert listed
    assert all(len(line.split(">", 1)[-1].strip()) > 10 or line.split()[0] == "--help" for line in listed), listed


@pytest.mark.parametrize("arguments", [(), ("--help",)], ids=str)
def test_without_a_command_the_help_lists_every_one_in_a_whole_sentence(arguments):
    said = run(*arguments)
    assert said.code == 0
    assert "..." not in said.out.split("Commands:")[1]
    assert all(f"\n  {name} " in said.out for (name, *_) in COMMANDS)


class FakeClock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    from spear_jax.cli import output

    fake = FakeClock()
    monkeypatch.setattr(output, "time", fake)
    return fake


def progress(found=1, remaining=100.0):
    from spear_jax.attacks.dense.outcome import Progress, SearchState

    return Progress(SearchState(pool=None, candidates=2048), found, 3, remaining, 2.0, 2048)


def lines_of_a_minute(clock, monkeypatch, step):
    """Lines on a stderr that is no terminal, over a minute of rounds of ``step`` seconds."""
    from spear_jax.cli.output import SearchReporter

    err = io.StringIO()
    monkeypatch.setattr("sys.stderr", err)
    with SearchReporter() as reporter:
        for _ in range(int(60 / step)):
            clock.now += step
            reporter(progress())
    return err.getvalue().splitlines()


def test_a_bar_makes_room_for_a_line_and_begins_anew_only_where_a_search_follows():
    from rich.console import Console

    from spear_jax.cli.output import SearchReporter

    reporter = SearchReporter()
    reporter._console = Console(file=io.StringIO(), force_terminal=True)
    with reporter:
        reporter(progress())
        with reporter.paused():
            assert reporter._bar is None
        assert reporter._bar is not None
        with reporter.paused(goes_on=False):
            assert reporter._bar is None
        assert reporter._bar is None


@pytest.mark.parametrize(("step", "count"), [(0.5, 6), (4.0, 5), (30.0, 2)])
def test_progress_is_one_plain_line_every_ten_seconds_at_most(clock, monkeypatch, step, count):
    lines = lines_of_a_minute(clock, monkeypatch, step)
    assert len(lines) == count
    assert set(lines) == {"2.05e+03 candidates, 1.02e+03 per second, 1 of 3 directions, about 100 still needed"}


def test_progress_never_says_that_infinitely_many_or_none_are_needed():
    from spear_jax.cli.output import SearchReporter

    assert SearchReporter._line(progress(remaining=float("inf"))).endswith("the rest out of reach")
    assert SearchReporter._line(progress(found=3, remaining=0.0)).endswith("to be certified")
