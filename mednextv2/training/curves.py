"""Curves and pictures for TensorBoard."""

import logging
import os
import socket
import time
from typing import IO, Any

from mednextv2.distributed import is_main_process
from mednextv2.paths import expand

logger = logging.getLogger(__name__)


class CurveWriter:
    """Write values as TensorBoard curves: a `summary_writer` of MONAI's handlers.

    A value is written at once, by the thread that has it. PyTorch's writer uses a thread of its own, in which a full
    disk ends with a traceback, and which reports it only at some later call. Here, a full disk costs only the curves
    and gives a warning; the scores are in the CSV, too. Under `torch.distributed`, only rank 0 writes.

    Args:
        log_dir: The folder of the file, which is created with the first value.
    """

    def __init__(self, log_dir: str | os.PathLike) -> None:
        self.folder = expand(log_dir)
        self._file: IO[bytes] | None = None
        self._records: Any = None
        self._ended = False

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None, **_: Any) -> None:
        """Write the value of a curve at a step."""
        from torch.utils.tensorboard.summary import scalar  # an optional package

        self._write(summary=scalar(tag, scalar_value), step=global_step or 0)

    def add_image(self, tag: str, png: bytes, size: tuple[int, int], global_step: int | None = None) -> None:
        """Write a picture at a step.

        Args:
            tag: Its name.
            png: The greyscale picture as PNG.
            size: Its rows and columns.
            global_step: The step.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary  # an optional package

        rows, columns = size
        image = Summary.Image(height=rows, width=columns, colorspace=1, encoded_image_string=png)
        self._write(summary=Summary(value=[Summary.Value(tag=tag, image=image)]), step=global_step or 0)

    def flush(self) -> None:
        """Do nothing: everything is already written."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._ended = None, True

    def _write(self, **event: Any) -> None:
        if self._ended or not is_main_process():
            return
        from tensorboard.compat.proto.event_pb2 import Event

        try:
            if self._file is None:
                self._open()
                self._records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
            self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
        except OSError as e:
            logger.warning("%s: no more TensorBoard curves (%s); scores are in the CSV", self.folder, e.strerror or e)
            if self._file is not None and not os.fstat(self._file.fileno()).st_size:
                os.unlink(self._file.name)
            self.close()

    def _open(self) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = (self.folder / name).open("ab", buffering=0)
        self._records = RecordWriter(self._file)
