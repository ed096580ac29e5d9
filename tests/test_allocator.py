"""The C allocator is set when it is asked for, and left alone before; glibc is played by a stand-in."""

import pytest

from mednextv2 import allocator


@pytest.fixture
def glibc(monkeypatch):
    """What is asked of glibc in a process that has set nothing yet; two GiB of freed memory are kept."""
    calls = []

    def function(name):
        def mallopt(*arguments):
            calls.append((name, tuple(argument.value for argument in arguments)))
            return 1

        def mallinfo2():
            return allocator._MallInfo2(fordblks=2 * 2**30)

        return mallinfo2 if name == "mallinfo2" else mallopt

    monkeypatch.setattr(allocator, "_keeping", False)
    monkeypatch.setattr(allocator, "_glibc", function)
    return calls


def test_freed_memory_is_kept_when_it_is_asked_for(glibc):
    assert allocator.keep_freed_memory()
    assert {name for name, _ in glibc} == {"mallopt"}
    assert dict(arguments for _, arguments in glibc)[allocator._MMAP_MAX] == 0


def test_memory_is_returned_above_the_limit(glibc):
    allocator.keep_freed_memory()
    glibc.clear()
    allocator.return_freed_memory(2 * 2**30)
    assert glibc == []
    allocator.return_freed_memory(2**30)
    assert glibc == [("malloc_trim", (0,))]


def test_an_allocator_that_was_not_set_is_left_alone(glibc):
    allocator.return_freed_memory(0)
    assert glibc == []


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocator, "_keeping", False)
    monkeypatch.setattr(allocator, "_glibc", lambda name: None)
    assert not allocator.keep_freed_memory()
    allocator.return_freed_memory(0)
