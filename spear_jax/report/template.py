"""Pages are Jinja templates filled with plain values; whatever a file brings is escaped where it is filled in."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from spear_jax.report.values import number, text
from spear_jax.tensor_files import make_folder

# A page of more samples than these gets a search box and a filter.
MOST_UNSEARCHED = 24


def render(name: str, **values: Any) -> Markup:
    """A template of this package, filled: HTML in which every value that is no `Markup` is escaped."""
    return Markup(environment().get_template(name).render(values))


@cache
def environment() -> Environment:
    """Where templates come from, and what all of them know; a value that is missing raises."""
    made = Environment(
        loader=PackageLoader("spear_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "text": text}
    script = made.get_template("finder.js").render()
    made.globals |= {"script": Markup(script), "policy": _policy(script), "most_unsearched": MOST_UNSEARCHED}
    return made


def _policy(script: str) -> str:
    """What a browser lets a page do: show itself and run this script. Nothing is fetched, whatever stands in it."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )


def write_page(folder: Path, page: str) -> Path:
    """Write a page as ``index.html`` of a folder, which is made where it does not exist, and give its path."""
    make_folder(folder)
    index = folder / "index.html"
    index.write_text(page, encoding="utf-8", errors="surrogateescape")
    return index
