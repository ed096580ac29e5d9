"""Warnings are left out for a moment, and the filters are as before, with threads, too."""

import logging
import threading
import warnings

import pytest

from mednextv2.warning_filters import without_warnings


def warned(message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with without_warnings("nothing"):
            warnings.warn(message, stacklevel=1)
    return len(caught)


def test_warnings_of_that_beginning_are_left_out():
    assert warned("nothing to tell") == 0
    assert warned("something to tell") == 1


def test_a_loggers_errors_are_left_out_where_that_is_asked_for(caplog):
    logger = logging.getLogger("tests.quiet")
    with without_warnings("x", "tests.quiet", logging.ERROR):
        logger.error("left out")
        logger.critical("told")
    logger.error("afterwards")
    assert caplog.messages == ["told", "afterwards"]


def test_a_loggers_warnings_are_left_out_in_this_thread_alone(caplog):
    logger = logging.getLogger("tests.quiet")
    with without_warnings("x", "tests.quiet"):
        logger.warning("left out")
        logger.error("an error")
        other = threading.Thread(target=logger.warning, args=("of another thread",))
        other.start()
        other.join()
    logger.warning("afterwards")
    assert caplog.messages == ["an error", "of another thread", "afterwards"]
    assert logger.filters == []
    assert logger.level == logging.NOTSET


def test_filters_are_as_before_after_an_error_and_with_threads():
    before = list(warnings.filters)
    with pytest.raises(KeyError), without_warnings():
        raise KeyError
    assert warnings.filters == before
    inside, barrier = [], threading.Barrier(4)

    def enter():
        barrier.wait()
        for _ in range(50):
            with without_warnings("x"):
                inside.append(1)
                assert len(inside) == 1  # one at a time
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    assert inside == []
