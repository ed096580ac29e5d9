"""Suppression of warnings of libraries that do not help a user, after which the process is as before."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# filters belong to the whole process: two threads at once would restore each other's filters
_TURN = threading.RLock()


@contextmanager
def without_warnings(message: str = "", logger: str | None = None, level: int = logging.WARNING) -> Iterator[None]:
    """Suppress warnings; threads take turns.

    Args:
        message: A regular expression for the beginning of the warnings to suppress; empty for all.
        logger: The name of a logger whose warnings from this thread are also suppressed.
        level: The highest level of this logger's messages that are suppressed.
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
