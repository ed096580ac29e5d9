"""Calls of the command line as a user makes them, within the test's process."""

import sys

from mednextv2.__main__ import main


def call(monkeypatch, capsys, *arguments):
    """Run `mednextv2 ARGUMENTS`; return the exit code and what it printed to stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["mednextv2", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as e:
        code = e.code
    out, err = capsys.readouterr()
    return code, out, err
