"""From values to markup: the templates, and how they escape values."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@cache
def environment() -> Environment:
    """Return the report's templates. Everything that they print is escaped; an undefined name is an error."""
    templates = Environment(
        loader=PackageLoader("mednextv2.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=_finalize,
    )
    templates.filters |= {"fixed": _fixed, "general": _general}
    return templates


def render_page(template: str = "page.html.j2", **values: Any) -> str:
    """Return the page, which may run only its own script and load nothing.

    Args:
        template: The template of the page.
        values: The values that it uses.

    Raises:
        jinja2.UndefinedError: If one of them is missing.
    """
    script = _source("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    page = environment().get_template(template)
    return page.render(values, policy=policy, style=_source("report.css"), script=script)


def _source(name: str) -> str:
    """Return a file that goes into the page unchanged: its braces are not template syntax."""
    return resources.files("mednextv2.report").joinpath("templates", name).read_text(encoding="utf-8")


def _finalize(value: Any) -> Any:
    """Replace what a page cannot contain: control characters, and parts of file names that are not UTF-8."""
    if type(value) is not str or value.isprintable():  # numbers and markup need no change
        return value
    return _UNWRITABLE.sub("\ufffd", value.encode("utf-8", "replace").decode("utf-8"))


def _fixed(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}"


def _general(value: float) -> str:
    return f"{value:.6g}"
