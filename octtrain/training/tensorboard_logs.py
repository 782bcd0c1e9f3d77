"""Curves and images for TensorBoard, written without TensorFlow.

logs/train/events.out.tfevents.*         epoch_loss, epoch_accuracy, ..., images
logs/validation/events.out.tfevents.*    epoch_loss, epoch_accuracy, ...: shown in the same charts
"""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from octtrain.models.weights import first_line


class TensorBoardLogs:
    """The event files of a run. If they cannot be written a warning is logged once, and nothing raised.

    Every call opens its file, writes and closes it, so there is nothing to close, and an interrupted run has lost none
    of its curves. A resumed run continues them: what an interrupted epoch had written is replaced.

    folder: for the event files.  log: takes lines.
    """

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self.folder, self.log, self.failed = folder, log, False
        self.files: dict[str, Path] = {}  # by subfolder

    def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to the curve of each metric: `loss` to epoch_loss of train, `val_loss` to that of validation.

        step: the number of the epoch.
        """
        values: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
        for name, value in metrics.items():
            values["validation" if name.startswith("val_") else "train"][f"epoch_{name.removeprefix('val_')}"] = value
        for part, points in values.items():
            if points:
                self._write(part, step, partial(_scalars, points))

    def images(self, step: int, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        """Show images, as the network sees them in training. step: the number of the epoch. pixels: (n, h, w, 1)."""
        self._write("train", step, partial(_images, name, pixels))

    def _write(self, part: str, step: int, values: Callable[[], Sequence[Any]]) -> None:
        """Append values, of type Summary.Value, to the event file of a part, `train` or `validation`."""
        if self.failed:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary

            events = [Event(step=step, summary=Summary(value=values()))]
            if part not in self.files:
                # TensorBoard drops what earlier files have from this step on.
                start = SessionLog(status=SessionLog.START)
                events = [Event(file_version="brain.Event:2"), Event(step=step, session_log=start), *events]
            self._append(part, events)
        except Exception as error:  # of the disk, or of a package that is missing or of another version
            self.failed = True
            self.log(f"WARNING: TensorBoard's curves are not written any more ({first_line(error)})")

    def _append(self, part: str, events: Sequence[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        now = time.time()
        data = io.BytesIO()
        for event in events:
            event.wall_time = now
            RecordWriter(data).write(event.SerializeToString())
        if part not in self.files:
            (self.folder / part).mkdir(parents=True, exist_ok=True)
            self.files[part] = self.folder / part / f"events.out.tfevents.{now:.6f}"  # they are read by name
        with self.files[part].open("ab") as file:
            file.write(data.getbuffer())


def _scalars(points: Mapping[str, float]) -> list[Any]:
    """Numbers as values of type Summary.Value, by their names."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return [Summary.Value(tag=name, simple_value=value) for name, value in points.items()]


def _images(name: str, pixels: npt.NDArray[np.uint8]) -> list[Any]:
    """Images, (n, h, w, 1), as one value of type Summary.Value, which TensorBoard shows under one name."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.image.metadata import create_summary_metadata

    n, height, width, _ = pixels.shape
    texts = [str(width).encode(), str(height).encode(), *(_png(image) for image in pixels[..., 0])]
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=n + 2)])
    return [
        Summary.Value(
            tag=name,
            tensor=TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=texts),
            metadata=create_summary_metadata(display_name=name, description=""),
        )
    ]


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of (h, w) uint8, 0 black to 255 white."""
    height, width = image.shape
    rows = np.pad(image, ((0, 0), (1, 0)))  # 0 before each row: its pixels are stored as they are
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(rows.tobytes()), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    )
