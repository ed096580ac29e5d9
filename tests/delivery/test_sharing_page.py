"""The commands of docs/sharing.md have options that exist; the release's trial and other tests run them."""

import inspect
import re
import shlex

import pytest
from delivery_helpers import ROOT

from mednextv2.commands import VERBS
from mednextv2.commands.arguments import read_arguments
from mednextv2.delivery.sources import find_source

PAGE = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^mednextv2 .*", PAGE, flags=re.M)]


def test_the_page_shows_both_verbs():
    assert {command[1] for command in COMMANDS} == {"pack", "fetch"}
    assert len(COMMANDS) >= 9


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_have_options_that_exist(command):
    verb = VERBS[command[1]]
    arguments = read_arguments(verb, command[2:])
    inspect.signature(verb).bind(**arguments)
    if command[1] == "fetch":
        find_source(arguments["source"])


def test_the_options_of_the_release_are_those_of_the_script():
    import release

    (line,) = re.findall(r"^python scripts/release.py (.*)", PAGE, flags=re.M)
    options = release.parse_options(shlex.split(line))
    assert (options.output, options.github, options.image) == ("release", "OWNER/REPO/TAG", "IMAGE")
