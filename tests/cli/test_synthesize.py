"""`octprep synthesize`: wrong labels, the mix of classes, and how many scans have fill."""

import hashlib
import json
from collections import Counter

import pytest

from octprep.format.errors import SettingError
from octprep.synthetic import CLASSES, MIN_PATIENTS, draw, scans
from octprep.synthetic.dataset import parse_class_mix
from octprep.synthetic.population import TWO_CLASS_PATIENTS, population, wrong_labels

pytestmark = pytest.mark.slow


def contents(folder):
    return {
        hashlib.sha256(path.read_bytes()).hexdigest(): path.relative_to(folder).as_posix()
        for path in folder.rglob("*.jpeg")
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The same scans with right labels and with a fifth of the training scans wrong."""
    folder = tmp_path_factory.mktemp("drawn")
    right = draw(folder / "right", patients=MIN_PATIENTS, faults=False, workers=2)
    wrong = draw(
        folder / "wrong",
        patients=MIN_PATIENTS,
        faults=False,
        label_noise=0.2,
        truth=folder / "truth.jsonl",
        workers=2,
    )
    return folder, right, wrong


def test_wrong_labels_move_training_scans_alone_and_change_no_pixel(drawn):
    folder, right, wrong = drawn
    before, after = contents(folder / "right"), contents(folder / "wrong")
    assert before.keys() == after.keys()
    moved = {content for content in before if before[content] != after[content]}
    training = [path for path in before.values() if path.startswith("train/")]
    assert len(moved) == round(0.2 * len(training)) == wrong.faults["wrong label"] > 0
    assert right.faults == {} and wrong.faults.keys() == {"wrong label"}
    for content in moved:
        split, label, name = before[content].split("/")
        other_split, other, other_name = after[content].split("/")
        assert split == other_split == "train" and other in set(CLASSES) - {label}
        assert other_name == name.replace(label, other)


def test_the_truth_file_has_the_true_label_of_a_file_under_its_wrong_name(drawn):
    folder, _, wrong = drawn
    lines = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    assert {line["path"] for line in lines} == set(contents(folder / "wrong").values())
    assert sum(line["path"].split("/")[1] != line["label"] for line in lines) == wrong.faults["wrong label"]
    right = Counter(path.split("/")[1] for path in contents(folder / "right").values())
    assert Counter(line["label"] for line in lines) == right


def test_wrong_labels_depend_on_the_seed_and_no_two_scans_get_one_name():
    volumes = population(40, 3, faults=True)
    wrong = wrong_labels(volumes, 0.5, seed=3)
    assert wrong == wrong_labels(volumes, 0.5, seed=3) != wrong_labels(volumes, 0.5, seed=4)
    names = [
        (volume.patient, labels.get(number, volume.label), number)
        for volume, labels in zip(volumes, wrong, strict=True)
        for _, number in volume.scans
    ]
    assert len(set(names)) == len(names)
    assert len({volume.patient for volume in volumes}) == len(volumes) - len(TWO_CLASS_PATIENTS)
    assert {label for labels in wrong for label in labels.values()} == set(CLASSES)


def test_the_mix_of_classes_is_that_of_the_patients_and_leaves_test_as_it_is():
    mix = parse_class_mix("CNV=1,DME=1, DRUSEN=1,NORMAL=7")
    volumes = population(100, 0, faults=False, class_mix=mix)
    assert Counter(volume.label for volume in volumes) == {"CNV": 10, "DME": 10, "DRUSEN": 10, "NORMAL": 70}
    test = Counter(volume.label for volume in volumes for split, _ in volume.scans if split == "test")
    assert len(set(test.values())) == 1


def test_the_fill_rate_is_a_factor_on_the_scans_with_fill(tmp_path):
    shares = {}
    for rate in (0, 1, 2):
        summary = draw(tmp_path / str(rate), patients=MIN_PATIENTS, fill_rate=rate, workers=2)
        kinds = ("white fill", "black fill", "black band at a side")
        shares[rate] = sum(summary.faults.get(kind, 0) for kind in kinds) / summary.images
    assert shares[0] == 0
    assert 0.25 < shares[1] < 0.5 < 0.65 < shares[2]


def test_scans_are_what_draw_writes_by_default(drawn):
    assert {path for path, _ in scans(MIN_PATIENTS, faults=False)} == set(contents(drawn[0] / "right").values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_noise": 0.6}, "label-noise must be between 0 and 0.5; got 0.6"),
        ({"label_noise": float("nan")}, "label-noise must be between"),
        ({"fill_rate": 3.0}, "fill-rate must be between 0 and 2; got 3"),
        ({"class_mix": {"CNV": 1.0}}, "class-mix must have a share of 0 or more for each of CNV, DME, DRUSEN, NORMAL"),
        ({"class_mix": dict.fromkeys(CLASSES, 0.0)}, "one of them above 0"),
        ({"class_mix": dict.fromkeys(CLASSES, -1.0)}, "a share of 0 or more"),
    ],
)
def test_a_share_out_of_range_is_refused_before_anything_is_drawn(tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        draw(tmp_path / "scans", patients=MIN_PATIENTS, **settings)
    assert not (tmp_path / "scans").exists()


@pytest.mark.parametrize(
    "text", ["", "CNV=1", "CNV=1,DME=1,DRUSEN=1,NORMAL=x", "CNV=1,DME=1,DRUSEN=1,NORMAL=1,NORMAL=2"]
)
def test_a_mix_that_does_not_name_every_class_once_is_refused(text):
    with pytest.raises(SettingError, match="class-mix must be a number for each of CNV, DME, DRUSEN, NORMAL, such as"):
        parse_class_mix(text)
