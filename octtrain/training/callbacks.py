"""Callbacks of the training loop: save each epoch, print a line about it, write TensorBoard's logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from octtrain.models.weights import first_line
from octtrain.runs.folder import RunFolder
from octtrain.runs.history import Row, best_epoch
from octtrain.training.compilation import require_finite_loss, reseed
from octtrain.training.schedule import is_finished


class EpochRecorder(keras.callbacks.Callback):  # type: ignore[misc]
    """After every epoch: save it, print a line, and end the training when patience has run out.

    clean_model: the model without augmentation, which is saved.  history: the finished epochs; rows are added to it.
    steps: of an epoch.  batch_size: images of a step.
    """

    def __init__(
        self,
        folder: RunFolder,
        clean_model: keras.Model,
        history: list[Row],
        *,
        steps: int,
        batch_size: int,
        log: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.folder, self.clean_model, self.history, self.log = folder, clean_model, history, log
        self.config = folder.run.config
        self.steps, self.batch_size = steps, batch_size
        self.start = self.end = 0.0  # of the steps that are timed
        self.timed_steps = 0
        self.is_compiled = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock, and set this epoch's random states: a resumed run draws the same as an unbroken one."""
        reseed(self.model, self.config.seed, epoch)
        self.start = self.end = time.monotonic()
        self.timed_steps = self.steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop the clock: validation comes after the last step and does not count. Nor does the very first step, in
        which the model is compiled, if there are others.
        """
        self.end = time.monotonic()
        if not self.is_compiled and self.steps > 1:
            self.start, self.timed_steps = self.end, self.steps - 1
        self.is_compiled = True

    def on_test_begin(self, logs: Any = None) -> None:
        """Stop the clock again: on a GPU the last step has only ended by now."""
        self.end = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save the epoch, print its line, and stop the training if it is finished."""
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        require_finite_loss(metrics["loss"], epoch, self.config)
        rate = self.timed_steps * self.batch_size / max(self.end - self.start, 1e-9)
        self.history.append({"epoch": epoch + 1, **metrics, "images_per_second": round(rate, 1)})
        self.folder.save_epoch(self.history, self.model, self.clean_model)
        self.log(
            f"epoch {epoch + 1:3}/{self.config.epochs}  loss {metrics['loss']:.4f}  "
            f"val loss {metrics['val_loss']:.4f}  val balanced accuracy {metrics['val_balanced_accuracy']:.4f}"
            f"{' *' if best_epoch(self.history) == epoch + 1 else '  '}  {rate:,.0f} images/s"
        )
        self.model.stop_training = is_finished(self.history, self.config)


class TensorBoardLogs(keras.callbacks.TensorBoard):  # type: ignore[misc]
    """TensorBoard's curves. If they cannot be written, a warning is printed once and the training continues."""

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        super().__init__(folder, write_graph=False)
        self.log, self.failed = log, False

    def _try(self, write: Callable[..., None], *arguments: Any) -> None:
        if self.failed:
            return
        try:
            write(*arguments)
        except Exception as error:  # whatever TensorFlow's writer raises
            self.failed = True
            self.log(f"WARNING: TensorBoard's curves are not written ({first_line(error)})")

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the log."""
        self._try(super().on_train_begin, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        """Open the log of the validation."""
        self._try(super().on_test_begin, logs)

    def on_test_end(self, logs: Any = None) -> None:
        """Write the metrics by steps."""
        self._try(super().on_test_end, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the metrics by epochs."""
        self._try(super().on_epoch_end, epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Close the log."""
        self._try(super().on_train_end, logs)
