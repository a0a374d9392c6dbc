"""The words and the look of the report: facts from the record, what they mean, and one HTML template.

Everything that comes from a file is escaped here; a key that the record lacks becomes a dash.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from string import Template
from typing import Any

DASH = "\N{EN DASH}"
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def render_page(
    record: Mapping[str, Any],
    *,
    headline: str,
    is_complete: bool,
    samples_html: str,
    notes: Iterable[str],
) -> str:
    """The whole page.

    Args:
        record: the dictionary of ``result.json``, with any key missing.
        headline: the first sentence, plain text.
        is_complete: whether everything was certified, which decides how the headline is marked.
        samples_html: what is shown of the samples, already HTML.
        notes: sentences below the headline, plain text.
    """
    return _PAGE.substitute(
        style=_STYLE,
        headline=escape(headline),
        tone="good" if is_complete else "part",
        message=f"<p>{escape(_text(record['message']))}</p>" if record.get("message") else "",
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        samples=samples_html,
        facts="".join(_fact_table(title, rows) for title, rows in facts(record).items()),
        limits="".join(f"<li><b>{escape(name)}.</b> {escape(text)}</li>" for name, text in _limits(record)),
    )


def facts(record: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Tables of (name, value) in plain text, by title."""
    stats, certificate = _mapping(record.get("stats")), _mapping(record.get("certificate"))
    seconds, versions = _mapping(stats.get("seconds")), _mapping(record.get("versions"))
    config, rank = _mapping(record.get("config")), record.get("batch_size")
    return {
        "What the server saw": [
            ("Layer", _text(record.get("layer"))),
            ("Kernel (out \N{MULTIPLICATION SIGN} in)", _shape(record.get("shape"))),
            ("Noise floor of the gradient", number(record.get("noise_floor"))),
            ("Normalisation of the inputs", _text(record.get("normalization"))),
            ("SHA-256 of the update", _text(record.get("update_sha256"))),
        ],
        "What was found": [
            ("Status", _text(record.get("status"))),
            ("Batch size (rank of the gradient)", number(rank)),
            ("Directions found", _of(record.get("directions_found"), rank)),
            ("Samples certified", _of(record.get("certified"), rank)),
            ("Mean matching score", share(certificate.get("matching_score"))),
            ("Relative residual, weight gradient", number(certificate.get("weight_residual"))),
            ("Relative residual, bias gradient", number(certificate.get("bias_residual"))),
        ],
        "How": [
            ("Method", _text(stats.get("method"))),
            ("Why this one", _text(stats.get("reason"))),
            ("Sampler", _text(stats.get("sampler"))),
            ("Candidates drawn", number(stats.get("candidates"))),
            ("Candidates expected", number(stats.get("expected_candidates"))),
            ("Still expected", number(stats.get("expected_remaining"))),
            ("Rounds", number(stats.get("rounds"))),
            ("Options", _text({name: value for name, value in config.items() if value is not None})),
        ],
        "On what": [
            ("Seconds", _seconds(seconds)),
            ("Devices", _devices(stats)),
            ("Float64 solved by", _text(stats.get("float64"))),
            ("Versions", _text(versions)),
            ("Seed", _text(record.get("seed"))),
        ],
    }


def number(value: Any) -> str:
    """A number as people write it: 27 000 000 is 2.7 x 10^7, infinity its sign, anything else its text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return DASH if math.isnan(value) else "\N{INFINITY}"
    if value == 0 or (value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPT)
    return f"{mantissa} \N{MULTIPLICATION SIGN} 10{power}"


def share(value: Any) -> str:
    """A share in [0, 1] that reads 1 only where it is 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return _text(value)
    return "1" if value == 1 else f"{min(value, 0.9999):.4f}"


def _of(count: Any, total: Any) -> str:
    return DASH if count is None else f"{number(count)} of {number(total)}"


def _devices(stats: Mapping[str, Any]) -> str:
    kind = _text(stats.get("device_kind"))
    return kind if stats.get("devices") is None else f"{number(stats['devices'])} \N{MULTIPLICATION SIGN} {kind}"


def _text(value: Any) -> str:
    """Plain text of a JSON value; a dash for what is missing."""
    if value is None or value == "" or value == {} or value == []:
        return DASH
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_text(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _shape(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        return " \N{MULTIPLICATION SIGN} ".join(number(size) for size in value)
    return _text(value)


def _seconds(seconds: Mapping[str, Any]) -> str:
    known = {name: time for name, time in seconds.items() if isinstance(time, int | float)}
    if not known:
        return DASH
    total = {} if "total" in known else {"total": sum(known.values())}
    return ", ".join(f"{name} {time:.2f}" for name, time in (known | total).items())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _fact_table(title: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table class='facts'><caption>{escape(title)}</caption>{body}</table>"


def _limits(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    shape = record.get("shape")
    is_pair = isinstance(shape, list | tuple) and len(shape) == 2 and all(isinstance(size, int) for size in shape)
    bound = f", here {min(shape):,}" if is_pair else ""  # type: ignore[type-var]
    return [
        (
            "A larger batch",
            f"From min(outputs, inputs) of the layer on{bound}, the gradient has full rank and hides nothing in its "
            "column space. Below that, every further sample about doubles the cost of sampling.",
        ),
        (
            "Noise",
            "Enough of it, as in differentially private training (DP-SGD), or strong rounding of the update covers "
            "the exact zeros that tell a true direction from a wrong one.",
        ),
        (
            "Secure aggregation",
            "The server sees only a sum over clients, which is one batch as large as all of theirs together.",
        ),
        ("No bias gradient", "The scale of every sample is read off it: leave the bias out, or do not send it."),
        (
            "A smooth activation",
            "GELU, SiLU, tanh or sigmoid let every sample pass every neuron, so there are no zeros to find.",
        ),
    ]


_STYLE = """
:root { color-scheme: light; --ink:#1c2430; --quiet:#5d6777; --line:#dfe3e8; --soft:#f5f7f9;
  --good:#1a7f4b; --goodsoft:#e8f5ee; --warn:#a84c08; --warnsoft:#fdf2e4; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 40px 28px 56px; }
.kicker { color: var(--quiet); font-size: 14px; letter-spacing: .02em; margin: 0 0 6px; }
h1 { font-size: 28px; line-height: 1.22; margin: 0 0 12px; letter-spacing: -.01em; text-wrap: balance; }
h2 { font-size: 20px; margin: 44px 0 12px; }
p { max-width: 76ch; margin: 0 0 10px; }
.lead { border-left: 5px solid var(--line); padding-left: 20px; }
.lead.good { border-color: var(--good); }
.lead.part { border-color: var(--warn); }
.note { color: var(--quiet); font-size: 14px; }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--card)), 1fr)); }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; break-inside: avoid; }
.card.open { background: var(--warnsoft); border: 1px dashed var(--warn); }
.card header { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 4px 8px; font-size: 14px;
  margin-bottom: 8px; }
.card footer { color: var(--quiet); font-size: 13px; font-variant-numeric: tabular-nums; margin-top: 6px; }
.strip { display: flex; gap: 8px; }
figure { margin: 0; flex: 1 1 0; min-width: 0; }
figure img, .none { display: block; width: 100%; border-radius: 3px; }
img.crisp { image-rendering: pixelated; }
.none { aspect-ratio: 1; background: #e9ecf0; color: var(--quiet); font-size: 13px; display: grid;
  place-items: center; }
figcaption { color: var(--quiet); font-size: 12px; line-height: 1.3; margin-top: 3px; }
.badge { font-size: 12px; font-weight: 600; border-radius: 99px; padding: 1px 9px; white-space: nowrap; }
.ok .badge { color: var(--good); background: var(--goodsoft); }
.open .badge { color: #fff; background: var(--warn); }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 24px 40px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
.facts { align-self: start; break-inside: avoid; }
.facts caption { text-align: left; font-weight: 600; padding-bottom: 4px; }
.facts th { text-align: left; font-weight: 400; color: var(--quiet); width: 46%; padding: 5px 14px 5px 0; }
.facts td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; padding: 5px 0; }
.facts th, .facts td { vertical-align: top; border-top: 1px solid var(--line); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 6px 14px; margin: 0; }
dt { color: var(--quiet); font-size: 12px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
dd { margin: 0; font-size: 14px; font-variant-numeric: tabular-nums; }
ul { padding-left: 20px; max-width: 80ch; margin: 0; }
li { margin-bottom: 6px; }
@media print {
  body { font-size: 11pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; margin-top: 24px; }
  .cards { gap: 8px; grid-template-columns: repeat(auto-fill, minmax(min(100%, calc(.62 * var(--card))), 1fr)); }
  .tables { grid-template-columns: 1fr 1fr; }
  figcaption { font-size: 6pt; }
}
"""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$headline</title>
<style>$style</style>
</head>
<body>
<main>
<p class="kicker">Gradient inversion audit of one federated-learning update</p>
<div class="lead $tone">
<h1>$headline</h1>
$message
$notes
</div>
<h2>The samples</h2>
$samples
<h2>What the certificate means</h2>
<p>A certified sample is consistent with the gradient on every live neuron of the layer: the reconstructed input, put
through the weights that the server itself sent out, is positive exactly where the gradient that belongs to it is not
zero. A wrong reconstruction agrees on many neurons by chance but not on all of them, and no original enters the
test.</p>
<h2>The run</h2>
<div class="tables">$facts</div>
<h2>What stops this attack</h2>
<ul>$limits</ul>
</main>
</body>
</html>
""")
