"""The command line of the converters: options, mistakes and messages."""

import sys

import pytest
from converter_runs import load, run
from source_builders import kits19

from mednextv2.data.conversion_command import main, need
from mednextv2.errors import InputError
from mednextv2.machine import usable_cpus


def test_options_that_make_no_sense_are_refused_with_status_2(tmp_path):
    source = kits19(tmp_path / "source")
    for word, words in {
        "--workers=0": "--workers 0: should be a whole number from 1",
        "--workers=two": "argument --workers: invalid int value: 'two'",
        "--exclude=case_1": "--exclude case_1: there is no such case; some names are case_00000, case_00001",
        "--defective=keep": "invalid choice: 'keep'",
        "--modality=ct": "unrecognized arguments: --modality=ct",
    }.items():
        status, said = run("kits19", source, tmp_path / "target", word)
        assert status == 2, said
        assert words in said
    assert not (tmp_path / "target").exists()


def test_the_help_shows_the_text_the_example_and_the_options(capsys):
    script = load("amos22")
    with pytest.raises(SystemExit) as caught:
        main(script.facts, script.find, script.convert, script.__doc__, script.add_options, ["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for words in ("SOURCE TARGET", "Convert AMOS22", "python scripts/convert/amos22.py", "--modality {ct,all}",
                  f"default: {usable_cpus()}, one for each processor"):  # fmt: skip
        assert words in " ".join(said.split()), words


def test_a_user_who_interrupts_is_told_how_to_go_on(tmp_path, capsys):
    def stop(source, options):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        main(load("kits19").FACTS, stop, load("kits19").convert, "", None, [str(tmp_path), str(tmp_path / "t")])
    assert caught.value.code == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_what_the_machine_lacks_is_one_message_and_a_bug_is_a_traceback(tmp_path, capsys):
    def full(source, options):
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    with pytest.raises(SystemExit) as caught:
        main(load("kits19").FACTS, full, load("kits19").convert, "", None, [str(tmp_path), str(tmp_path / "t")])
    assert caught.value.code == 1
    assert "make room on the disk" in capsys.readouterr().err

    def bug(source, options):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main(load("kits19").FACTS, bug, load("kits19").convert, "", None, [str(tmp_path), str(tmp_path / "t")])


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    assert need("json", "Text").dumps(1) == "1"
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r'Text needs h5py: pip install "mednextv2\[convert\]", or pip install h5py'):
        need("h5py", "Text")
