"""Calls of the command line as a user makes them, within the test's process: it takes seconds to import everything."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from mednextv2.__main__ import main
from mednextv2.bundle.task import read_task


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


def call_verb(*arguments):
    """Do the same where a test has no fixtures to give, as in a function that several tests share."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["mednextv2", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as e:
            code = e.code
    return code, out.getvalue(), err.getvalue()


def refusal(*arguments):
    """Return the message of a call that is refused."""
    code, _, err = call_verb(*arguments)
    assert code == 1, err
    assert "Traceback" not in err
    return err[err.rindex("error: ") :]


def planned(folder, output, *arguments):
    """Plan, and return the printed table and the facts of the task."""
    code, out, err = call_verb("plan", folder, "--output", output, *arguments)
    assert code == 0, err[-3000:]
    return out, read_task(output / "task.yaml").workflow
