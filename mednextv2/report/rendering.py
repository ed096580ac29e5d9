"""From values to markup: the templates, and how they escape what they are given."""

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
    """Return the report's templates. All that they print is escaped; a name that nobody gave them is an error."""
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


def render_page(**values: Any) -> str:
    """Return the page, which may run its own script alone and load nothing.

    Args:
        values: What `page.html.j2` names.

    Raises:
        jinja2.UndefinedError: When one of them is missing.
    """
    script = _source("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    page = environment().get_template("page.html.j2")
    return page.render(values, policy=policy, style=_source("report.css"), script=script)


def _source(name: str) -> str:
    """Return a file that goes into the page as it is: its braces are not the templates'."""
    return resources.files("mednextv2.report").joinpath("templates", name).read_text(encoding="utf-8")


def _finalize(value: Any) -> Any:
    """Replace what a page cannot hold: control characters, and what is left of file names that are no UTF-8."""
    if type(value) is not str or value.isprintable():  # numbers and markup are as they should be
        return value
    return _UNWRITABLE.sub("\ufffd", value.encode("utf-8", "replace").decode("utf-8"))


def _fixed(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}"


def _general(value: float) -> str:
    return f"{value:.6g}"
