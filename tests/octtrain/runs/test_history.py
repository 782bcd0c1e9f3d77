"""history.csv: the best epoch, and what is read of an edited file."""

import pytest

from octprep.format.errors import ManifestError
from octtrain.runs.history import best_epoch, encode, read_history


def rows(*pairs):
    return [{"val_balanced_accuracy": accuracy, "val_loss": loss} for accuracy, loss in pairs]


def test_the_best_epoch_has_the_highest_balanced_accuracy_then_the_lowest_loss():
    assert best_epoch(rows((0.5, 1), (0.9, 2), (0.8, 0.1))) == 2
    assert best_epoch(rows((0.9, 2), (0.9, 1), (0.9, 3))) == 2


def test_a_history_reads_back_as_written(tmp_path):
    history = [{"epoch": 1, "loss": 0.5, "val_loss": float("nan"), "val_balanced_accuracy": 0.25}]
    (tmp_path / "history.csv").write_bytes(encode(history))
    assert repr(read_history(tmp_path / "history.csv")) == repr(history)
    assert read_history(tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    "text",
    [
        "epoch,loss\n1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,1,1,1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1.5,1,1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n2,1,1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,nan,1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,1,1,nan\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,1,1,7\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,1,1,\n",
        'epoch,loss,val_loss,val_balanced_accuracy\n1,1,1,"1\n',
        "",
    ],
)
def test_an_edited_history_is_a_one_line_error(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(ManifestError, match=r"history\.csv is not what `octtrain fit` wrote") as caught:
        read_history(tmp_path / "history.csv")
    assert len(str(caught.value).splitlines()) == 1
