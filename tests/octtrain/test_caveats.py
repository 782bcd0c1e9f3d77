import pytest

pytest.importorskip("tensorflow")

from octtrain.runs.run import Run
from octtrain.training.caveats import chance_warnings, few_patients_warnings
from tests.worlds.runs import LONG_CONFIG, epoch_row
from tests.worlds.shards import write_shards


def test_few_patients_are_a_warning_with_the_number(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"train": 6, "val": 1}, skip={"val": ["NORMAL"]})
    run = Run(folder=tmp_path / "run", config=LONG_CONFIG, manifest=manifest, shards=tmp_path / "s")
    assert few_patients_warnings(run, ("train",), ("val",)) == [
        "WARNING: val has 1 patient of CNV, 1 patient of DME, 1 patient of DRUSEN, no patients of NORMAL: "
        "the best epoch is selected on very little."
    ]
    manifest, _ = write_shards(tmp_path / "one", {"train": 2, "val": 9}, skip={"train": ["CNV", "DME", "DRUSEN"]})
    run = Run(folder=tmp_path / "run", config=LONG_CONFIG, manifest=manifest, shards=tmp_path / "one")
    few, single = few_patients_warnings(run, ("train",), ("val",))
    assert "training has no patients of CNV" in few
    assert "2 patients of NORMAL" in few
    assert "training has images of one class only" in single


def test_a_result_at_chance_is_a_warning_with_the_numbers(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"train": 1, "val": 25})
    run = Run(folder=tmp_path / "run", config=LONG_CONFIG, manifest=manifest, shards=tmp_path / "s")
    for accuracy, learnt in ((0.25, False), (0.3, False), (0.4, True), (1.0, True)):
        lines = chance_warnings(run, ("val",), [epoch_row(1, accuracy), epoch_row(2, 0.1)])
        assert (lines == []) == learnt
    assert (
        "guessing among 4 classes gives 0.2500, and on 100 patients up to 0.3366 by luck"
        in chance_warnings(run, ("val",), [epoch_row(1, 0.3)])[0]
    )
