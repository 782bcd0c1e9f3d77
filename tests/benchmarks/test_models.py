"""What the comparison of models computes: multiplications, verdicts, intervals, the frontier and the table."""

import numpy as np
import pytest

from benchmarks.models import (
    Verdicts,
    balanced_accuracy,
    frontier,
    multiplications,
    patient_interval,
    percent,
    pooled,
    table,
    verdicts,
)

CLASSES = ("CNV", "DME")


def test_multiplications_are_those_counted_by_hand():
    keras = pytest.importorskip("keras")
    layers = keras.layers
    pixels = keras.Input((8, 10, 1))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(pixels)  # 4 x 5 places, 9 weights of 1 channel, 4 channels
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(layers.BatchNormalization()(x))  # 20 * 9 * 8
    x = layers.Conv2D(6, 1, groups=2, use_bias=False)(x)  # 20 places, 4 channels of each group, 6 channels
    x = layers.Dense(5)(x)  # at 20 places
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    assert multiplications(model) == 20 * 9 * 4 + 20 * 9 * 8 + 20 * 4 * 6 + 20 * 6 * 5 + 5 * 3


def test_a_verdict_is_the_mean_over_the_scans_of_a_patient_and_class():
    probabilities = [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.6, 0.4]]
    found = verdicts(["7", "7", "7", "8"], ["CNV", "CNV", "DME", "DME"], probabilities, CLASSES)
    assert (found.patients, found.classes) == (["7", "7", "8"], ["CNV", "DME", "DME"])
    assert found.correct.tolist() == [1, 1, 0]
    assert balanced_accuracy(found.correct, found.classes) == 0.75


def test_the_interval_by_patient_is_the_plain_bootstrap_where_every_patient_has_one_scan():
    rng = np.random.default_rng(0)
    correct, classes = rng.integers(0, 2, 40) * 1.0, [CLASSES[i % 2] for i in range(40)]
    found = Verdicts([f"{i:02}" for i in range(40)], classes, correct)
    plain, names = [], np.array(classes)
    draw = np.random.default_rng(3)
    for _ in range(200):
        chosen = draw.integers(40, size=40)
        plain.append(np.mean([correct[chosen][names[chosen] == name].mean() for name in CLASSES]))
    assert patient_interval(found, seed=3, draws=200) == pytest.approx(tuple(np.percentile(plain, [2.5, 97.5])))


def test_verdicts_of_one_patient_are_drawn_together():
    single = Verdicts([f"{i:02}" for i in range(20)], ["CNV"] * 20, np.arange(20) % 2.0)
    repeated = Verdicts(single.patients * 5, ["CNV"] * 100, np.tile(single.correct, 5))
    assert patient_interval(repeated) == pytest.approx(patient_interval(single))


def test_seeds_are_pooled_by_averaging_the_same_verdicts():
    def training(correct, classes=("CNV", "DME")):
        return {"unseen": {"scans": 2, "patients": ["1", "2"], "classes": list(classes), "correct": correct}}

    given = pooled([training([1, 0]), training([1, 1])], "unseen")
    assert given.correct.tolist() == [1, 0.5]
    assert pooled([training([1, 0])], "genuine") is None
    with pytest.raises(ValueError, match="not judged on the same unseen scans"):
        pooled([training([1, 0]), training([1, 0], ("DME", "CNV"))], "unseen")


def test_the_frontier_is_of_models_that_no_other_beats():
    points = {"fast": (1, 60), "good": (5, 80), "worse": (6, 80), "slow": (9, 70), "same": (1, 60), "best": (9, 81)}
    assert frontier(points) == ["fast", "good", "same", "best"]


def test_the_table_says_what_was_not_run():
    cost = {
        "octnet-s": {
            "parameters": 512_345,
            "multiplications": 60e6,
            "training_per_second": 123.4,
            "inference_per_second": 1234,
            "cpu_ms": 1.55,
        }
    }
    verdict = {"scans": 9, "patients": ["1", "2"], "classes": ["CNV", "DME"], "correct": [1.0, 1.0]}
    lines = table(["octnet-s", "octnet-m"], cost, {"octnet-s": [{"unseen": verdict}]}).splitlines()
    assert lines[2] == "| octnet-s | 0.51 | 60 | 123 | 1,234 | 1.6 | 1 | 100.0 (100 to 100) | not run |"
    assert lines[3] == f"| octnet-m | {' | '.join(['not run'] * 5)} | 0 | not run | not run |"
    assert percent(None) == "not run"
