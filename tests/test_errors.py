import errno
import subprocess
import sys
import textwrap

import pytest
import torch

from mednextv2.errors import InputError, find_input_error, show_plainly


def raised(function):
    """Return the exception that a function raises, with the chain that Python builds."""
    try:
        function()
    except BaseException as e:
        return e
    raise AssertionError("nothing was raised")


def fail():
    raise InputError("a.nii.gz: is 2D")


def wrap_explicitly():
    try:
        fail()
    except InputError as e:
        raise RuntimeError("applying transform") from e


def wrap_implicitly():
    try:
        fail()
    except InputError:
        raise KeyError("cleaning up") from None


def wrap_while_handling():
    try:
        fail()
    except InputError:
        {}["x"]


def wrap_many_times():
    error = raised(wrap_while_handling)
    for i in range(20):
        try:
            raise error
        except Exception as e:
            error = raised(lambda e=e, i=i: _raise(RuntimeError(str(i)), e))
    raise error


def _raise(error, cause):
    raise error from cause


def test_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize("function", [fail, wrap_explicitly, wrap_implicitly, wrap_while_handling, wrap_many_times])
def test_input_error_is_found_behind_what_others_raised(function):
    found = find_input_error(raised(function))
    assert isinstance(found, InputError)
    assert str(found) == "a.nii.gz: is 2D"


def test_outermost_of_several_input_errors_is_found():
    def function():
        try:
            wrap_explicitly()
        except RuntimeError as e:
            raise InputError("the outer one") from e

    assert str(find_input_error(raised(function))) == "the outer one"


@pytest.mark.parametrize("error", [None, ValueError("other"), raised(lambda: _raise(RuntimeError("a"), KeyError("b")))])
def test_none_is_found_where_there_is_none(error):
    assert find_input_error(error) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), "a worker process was killed"),
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"), "--num_workers or a smaller --batch"),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's "
         "workers are out of shared memory."), "--shm-size"),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\n  …\nRuntimeError: unable to "
         "allocate shared memory(shm) for file </torch_7_8_0>: No space left on device (28)"), "/dev/shm: is too"),
        (RuntimeError("unable to write to file </torch_2_4>: No space left on device (28)"), "--num_workers (0 needs"),
        (RuntimeError("unable to mmap 96 bytes from file </torch_1_2>: Cannot allocate memory (12)"), "/dev/shm: is"),
        (RuntimeError("unable to open shared memory object </torch_5_6> in read-write mode"), "/dev/shm: is too small"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (OSError(24, "Too many open files"), "num_workers: too many files are open"),
        (OSError(28, "No space left on device", "/data/x.tmp"), "/data/x.tmp: cannot be written (No space left"),
        (OSError(122, "Disk quota exceeded"), "cannot be written (Disk quota exceeded); make room"),
    ],
)  # fmt: skip
def test_what_the_machine_is_short_of_is_told_with_what_to_do(error, words):
    wrapped = raised(lambda: _raise(RuntimeError("Failed to evaluate ConfigExpression"), error))
    assert words in str(find_input_error(wrapped))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to open file </home/me/torch_model.pt>"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(2, "No such file or directory", "x"),
        RuntimeError("DataLoader worker 3 read a patch"),
    ],
)
def test_other_errors_are_no_shortage(error):
    assert find_input_error(error) is None


def test_show_plainly_leaves_other_programs_alone(monkeypatch):
    hook = sys.excepthook
    for program in ("pytest", "/x/bundle/main.py", "/x/other/__main__.py", "-c", ""):
        monkeypatch.setattr(sys, "argv", [program])
        show_plainly()
        assert sys.excepthook is hook


def test_show_plainly_leaves_the_hook_of_another_alone(monkeypatch):
    def hook(*args):
        pass

    monkeypatch.setattr(sys, "argv", ["/x/monai/bundle/__main__.py", "run"])
    monkeypatch.setattr(sys, "excepthook", hook)
    show_plainly()
    assert sys.excepthook is hook


PROGRAM = """
    from mednextv2.errors import InputError, show_plainly

    show_plainly()

    def evaluate():
        raise {error}

    try:
        evaluate()
    except Exception as e:
        raise RuntimeError("Failed to evaluate ConfigExpression") from e
"""


def run(folder, module, error):
    """Run a program called `python -m module`, as `python -m monai.bundle` is."""
    package = folder / module.replace(".", "/")
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(textwrap.dedent(PROGRAM.format(error=error)))
    return subprocess.run([sys.executable, "-m", module], cwd=folder, capture_output=True, text=True, timeout=60)


def test_message_stands_alone_in_the_program_monai_bundle(tmp_path):
    result = run(tmp_path, "some.bundle", "InputError('a.nii.gz: is 2D\\nb.nii.gz: is 4D')")
    assert result.stderr == "error: a.nii.gz: is 2D\nb.nii.gz: is 4D\n"
    assert result.stdout == ""
    assert result.returncode == 1


def test_other_errors_keep_their_traceback_there(tmp_path):
    result = run(tmp_path, "some.bundle", "ZeroDivisionError('a bug')")
    assert "Traceback (most recent call last)" in result.stderr
    assert "ZeroDivisionError: a bug" in result.stderr
    assert "RuntimeError: Failed to evaluate" in result.stderr
    assert "error: " not in result.stderr.splitlines()[0]
    assert result.returncode == 1


def test_message_has_its_traceback_in_other_programs(tmp_path):
    result = run(tmp_path, "some.program", "InputError('a.nii.gz: is 2D')")
    assert "Traceback (most recent call last)" in result.stderr
    assert result.returncode == 1


def test_a_file_that_the_system_keeps_from_the_program_is_the_users_to_mend():
    error = wrapped_os_error(OSError(errno.ELOOP, "Too many links", "/data/a.nii.gz"))
    assert str(find_input_error(error)).startswith("/data/a.nii.gz: cannot be used (Too many links)")
    assert find_input_error(PermissionError(errno.EACCES, "Permission denied")) is None  # of no file
    assert find_input_error(FileNotFoundError(errno.ENOENT, "No such file", "/package/missing.html")) is None


def wrapped_os_error(error):
    return raised(lambda: _raise(RuntimeError("while loading"), error))


def test_a_lacking_permission_is_told_with_the_name_of_the_file():
    error = raised(lambda: _raise(RuntimeError("of a library"), PermissionError(13, "Permission denied", "a/b.json")))
    assert str(find_input_error(error)).startswith("a/b.json: this user may not read or write it (Permission denied);")
    assert find_input_error(PermissionError(1, "not permitted")) is None


def test_a_system_without_a_place_for_temporary_files_is_told_how_to_get_one():
    error = FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
    assert "TMPDIR" in str(find_input_error(error))


class _Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise InputError("a.nii.gz: is truncated")


def test_an_input_error_of_a_worker_process_has_its_own_words():
    with pytest.raises(InputError) as raised_again:
        next(iter(torch.utils.data.DataLoader(_Broken(), num_workers=1)))
    assert "Traceback" in str(raised_again.value)
    assert str(find_input_error(raised_again.value)) == "a.nii.gz: is truncated"
