"""Event files, read back by TensorBoard's own reader."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("tensorboard")
pytest.importorskip("keras")

from octtrain.training.tensorboard_logs import TensorBoardLogs
from tests.worlds.runs import ROOT, quiet

pytestmark = pytest.mark.slow


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def curve(folder, name):
    return [(point.step, point.value) for point in read(folder).Scalars(name)]


def test_metrics_of_train_and_validation_are_curves_of_the_same_name(tmp_path):
    logs = TensorBoardLogs(tmp_path, quiet)
    for epoch in (1, 2, 3):
        logs.scalars(epoch, {"loss": 1 / epoch, "val_loss": 2.0 * epoch, "learning_rate": 0.5})
    assert curve(tmp_path / "train", "epoch_loss") == [(1, 1.0), (2, 0.5), (3, np.float32(1 / 3))]
    assert curve(tmp_path / "validation", "epoch_loss") == [(1, 2.0), (2, 4.0), (3, 6.0)]
    assert read(tmp_path / "train").Tags()["scalars"] == ["epoch_loss", "epoch_learning_rate"]
    assert read(tmp_path / "validation").Tags()["scalars"] == ["epoch_loss"]


def test_a_resumed_run_continues_the_curves(tmp_path):
    """An epoch that was written but not saved is trained again, and replaced."""
    logs = TensorBoardLogs(tmp_path, quiet)
    for epoch in (1, 2, 3):
        logs.scalars(epoch, {"loss": float(epoch), "val_loss": 0.0})
    resumed = TensorBoardLogs(tmp_path, quiet)
    resumed.scalars(3, {"loss": 30.0, "val_loss": 0.0})
    resumed.scalars(4, {"loss": 40.0, "val_loss": 0.0})
    assert curve(tmp_path / "train", "epoch_loss") == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]
    assert len(curve(tmp_path / "validation", "epoch_loss")) == 4


def test_images_are_read_back_as_they_were(tmp_path):
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 1), dtype=np.uint8)
    logs = TensorBoardLogs(tmp_path, quiet)
    logs.images(1, "augmented", pixels)
    logs.images(2, "augmented", pixels[:1])
    accumulator = read(tmp_path / "train")
    assert accumulator.PluginTagToContent("images").keys() == {"augmented"}
    first, second = accumulator.Tensors("augmented")
    assert (first.step, second.step) == (1, 2)
    width, height, *files = first.tensor_proto.string_val
    assert (width, height, len(files)) == (b"30", b"20", 3)
    stored = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED) for file in files]
    assert np.array_equal(np.array(stored)[..., np.newaxis], pixels)


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path):
    (tmp_path / "logs").touch()
    lines = []
    logs = TensorBoardLogs(tmp_path / "logs", lines.append)
    for epoch in (1, 2):
        logs.scalars(epoch, {"loss": 1.0, "val_loss": 1.0})
        logs.images(epoch, "augmented", np.zeros((1, 4, 4, 1), np.uint8))
    assert len(lines) == 1
    assert lines[0].startswith("WARNING: TensorBoard's curves are not written any more ([Errno")


def test_a_full_disk_is_one_warning_and_what_was_written_can_be_read(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        lines = []
        logs = TensorBoardLogs(tmp_path, lines.append)
        pixels = np.random.default_rng(0).integers(0, 256, (4, 100, 100, 1), dtype=np.uint8)
        for epoch in range(1, 10):
            logs.scalars(epoch, {"loss": 1.0})
            logs.images(epoch, "augmented", pixels)
        assert lines == ["WARNING: TensorBoard's curves are not written any more ([Errno 28] No space left on device)"]
        steps = [step for step, _ in curve(tmp_path / "train", "epoch_loss")]
        assert 2 <= len(steps) < 9
        assert steps == list(range(1, len(steps) + 1))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_tensorflow_is_not_needed(tmp_path):
    code = f"""
import sys
sys.modules["tensorflow"] = None
import numpy as np
from octtrain.training.tensorboard_logs import TensorBoardLogs
logs = TensorBoardLogs(__import__("pathlib").Path({str(tmp_path)!r}), print)
logs.scalars(1, {{"loss": 0.5}})
logs.images(1, "augmented", np.zeros((1, 4, 4, 1), np.uint8))
"""
    environment = {"KERAS_BACKEND": "numpy", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert curve(tmp_path / "train", "epoch_loss") == [(1, 0.5)]
