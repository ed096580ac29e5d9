"""Warnings of libraries that tell a user nothing: left out for a moment, after which the process is as before."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# the filters are the whole process's: two threads that took each other's for those to go back to would mix them up
_TURN = threading.RLock()


@contextmanager
def without_warnings(message: str = "", logger: str | None = None, level: int = logging.WARNING) -> Iterator[None]:
    """Leave warnings out; threads take turns.

    Args:
        message: A regular expression for the beginning of those that are left out; empty for all.
        logger: The name of a logger whose warnings of this thread are left out, too.
        level: The highest level of this logger's messages that are left out.
    """
    with _TURN, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message)
        if logger is None:
            yield
            return
        thread = threading.get_ident()

        def passes(record: logging.LogRecord) -> bool:
            return record.levelno > level or record.thread != thread

        logging.getLogger(logger).addFilter(passes)
        try:
            yield
        finally:
            logging.getLogger(logger).removeFilter(passes)
