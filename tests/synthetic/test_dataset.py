"""The folder of synthetic scans: its layout, its images, and errors where it cannot be written."""

import json
from collections import Counter

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from octprep import synthetic
from octprep.format.errors import OutputError, SettingError
from octprep.synthetic import CLASSES, MIN_PATIENTS, draw, draw_appearance, draw_scan
from tests.worlds.phantoms import digests, draw_patient, files_of_scans, patient, read_image, splits_of_patients

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """The same scans as `faulty`, drawn by one worker into an empty folder: folder, summary and calls of progress."""
    folder = tmp_path_factory.mktemp("repeated")
    (folder / "empty").mkdir()
    calls: list[tuple[str, int, int]] = []
    summary = draw(
        folder / "empty", patients=MIN_PATIENTS, seed=3, workers=1, progress=lambda *call: calls.append(call)
    )
    return folder / "empty", summary, calls


def test_bytes_do_not_depend_on_the_number_of_workers(faulty, repeated):
    out, summary = faulty
    assert digests(repeated[0]) == digests(out)
    assert repeated[1] == summary


def test_another_seed_gives_other_patients_and_scans(faulty, clean):
    assert not splits_of_patients(faulty[0]).keys() & splits_of_patients(clean[0]).keys()
    assert not set(digests(faulty[0]).values()) & set(digests(clean[0]).values())


def test_names_image_sizes_and_file_sizes_are_those_of_the_archive(clean):
    out, summary = clean
    files = [path for path in out.rglob("*") if path.is_file()]
    assert sorted(files) == sorted(files_of_scans(out))
    assert summary.images == len(files)
    assert summary.patients == 40 == len(splits_of_patients(out))
    for path in files:
        pixels = read_image(path)
        assert pixels.dtype == np.uint8
        assert pixels.shape in {(512, 512), *((496, width) for width in (384, 512, 768, 1024, 1536))}
        assert 20_000 < path.stat().st_size < 300_000


def test_widths_are_as_frequent_as_in_the_archive_and_alike_in_every_class(clean):
    widths = Counter((path.parent.name, read_image(path).shape[1]) for path in files_of_scans(clean[0]))
    assert all(sum(widths[label, width] > 0 for width in (512, 768, 1536)) >= 2 for label in CLASSES)
    frequencies = Counter(draw_appearance(np.random.default_rng(number)).view.width for number in range(2000))
    assert 0.48 < frequencies[512] / 2000 < 0.58
    assert 0.26 < frequencies[768] / 2000 < 0.36


@pytest.mark.parametrize("folder", ["faulty", "clean"])
def test_class_counts_of_each_split(folder, request):
    out, _ = request.getfixturevalue(folder)
    count = Counter((path.parts[-3], path.parts[-2]) for path in files_of_scans(out))
    assert len({count["test", label] for label in CLASSES}) == 1
    assert all(0 < count["val", label] <= 8 for label in CLASSES)
    splits = splits_of_patients(out)
    for label in CLASSES:
        ids = {patient(path) for path in files_of_scans(out) if path.parent.name == label}
        assert sum(splits[patient_id] == {"train"} for patient_id in ids) >= 3
        assert sum("test" in splits[patient_id] for patient_id in ids) >= 2


def test_without_faults_no_patient_is_in_two_splits_and_no_content_is_repeated(clean):
    out, summary = clean
    assert summary.faults == {}
    assert all(len(folders) == 1 for folders in splits_of_patients(out).values())
    assert len({patient(path) for path in files_of_scans(out)}) == len(
        {(patient(p), p.parent.name) for p in files_of_scans(out)}
    )
    assert max(Counter(digests(out).values()).values()) == 1
    for path in files_of_scans(out):
        pixels = read_image(path)
        edges = (pixels[:3], pixels[-3:], pixels[:, :2], pixels[:, -2:])
        assert not any((edge > 250).mean() > 0.2 or (edge < 2).mean() > 0.99 for edge in edges)


@pytest.mark.parametrize("label", CLASSES)
def test_neighbouring_scans_of_a_visit_are_more_similar_than_distant_ones_and_those_of_other_patients(label):
    def small(number: int, position: float) -> np.ndarray:
        appearance, disease, _ = draw_patient(label, number)
        pixels = draw_scan(appearance, disease, position, np.random.default_rng([number, int(100 * position)])).pixels
        reduced = cv2.resize(pixels, (96, 96), interpolation=cv2.INTER_AREA).astype(float).ravel()
        return (reduced - reduced.mean()) / reduced.std()

    volumes = [[small(number, position) for position in (0.4, 0.46, 0.9)] for number in range(12)]
    near, distant = ([float((scans[0] * scans[turn]).mean()) for scans in volumes] for turn in (1, 2))
    others = [max(float((scans[0] * other[0]).mean()) for other in volumes if other is not scans) for scans in volumes]
    assert np.mean(near) > np.mean(distant) + 0.007
    assert np.mean(np.array(near) > np.array(others)) > 0.9
    assert np.mean(near) > np.mean(others) + 0.1


def statistics(pixels: np.ndarray) -> list[float]:
    histogram = np.bincount(pixels.ravel() >> 4, minlength=16) / pixels.size
    return [*map(float, pixels.shape), pixels.mean(), pixels.std(), *histogram]


def test_whole_image_statistics_do_not_separate_the_classes(tmp_path):
    """Not even without faults, which only blur them."""
    scores = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        draw(out, patients=32, seed=seed, faults=False, workers=2)
        sets = {"train": ([], []), "test": ([], [])}
        for path in files_of_scans(out):
            name = "test" if path.parts[-3] == "test" else "train"
            sets[name][0].append(statistics(read_image(path)))
            sets[name][1].append(path.parent.name)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
        model.fit(*sets["train"])
        scores.append(balanced_accuracy_score(sets["test"][1], model.predict(sets["test"][0])))
    assert np.mean(scores) < 0.60


def test_progress_counts_every_scan(faulty, repeated):
    """Each once; faults add more files."""
    scans = len(faulty[0].with_name("truth.jsonl").read_text().splitlines())
    _, summary, calls = repeated
    assert 0 < scans <= summary.images
    assert {(what, total) for what, _, total in calls} == {("drawing scans", scans)}
    assert all(done > 0 for _, done, _ in calls)
    assert sum(done for _, done, _ in calls) == scans


def test_a_file_or_a_folder_with_files_is_not_overwritten(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"is not empty.*a new or empty folder is needed.*name another"):
        draw(tmp_path / "full", patients=24)
    with pytest.raises(OutputError, match=r"is a file"):
        draw(tmp_path / "full" / "thesis.txt", patients=24)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "thesis.txt"]
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"


def test_an_empty_folder_is_filled(faulty, repeated):
    out, *_ = repeated
    assert {path.name for path in out.iterdir()} == {path.name for path in faulty[0].iterdir()}
    assert [path.name for path in out.parent.iterdir()] == ["empty"]


def test_too_few_patients_and_a_negative_seed_are_errors(tmp_path):
    with pytest.raises(SettingError, match=rf"patients must be at least {MIN_PATIENTS}.*got 23"):
        draw(tmp_path / "out", patients=23)
    with pytest.raises(SettingError, match=r"seed must be 0 or more; got -1"):
        draw(tmp_path / "out", seed=-1)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written \(Not a directory\)"):
        draw(tmp_path / "file" / "out", patients=24)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_drawing_leaves_no_files(error, workers, tmp_path):
    def stop(*_) -> None:
        assert {path.name.partition(".part-")[0] for path in (tmp_path / "deep").iterdir()} == {".out", "out"}
        assert not list((tmp_path / "deep" / "out").iterdir())
        raise error

    with pytest.raises(error):
        draw(tmp_path / "deep" / "out", patients=24, workers=workers, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_truth_file_holds_layers_fill_and_lesions_of_every_scan(faulty):
    out, _ = faulty
    lines = [json.loads(line) for line in out.with_name("truth.jsonl").read_text().splitlines()]
    expected = list(synthetic.scans(MIN_PATIENTS, seed=3))
    assert [row["path"] for row in lines] == [path for path, _ in expected]
    for row, (path, scan) in zip(lines, expected, strict=True):
        assert (out / path).is_file()
        for name in ("ilm", "rpe", "bruch"):
            np.testing.assert_allclose(row[name], getattr(scan, name), atol=0.051)
        for name in ("fill", "lesion"):
            mask = np.zeros(scan.pixels.size, np.uint8)
            for start, stop in zip(row[name][::2], row[name][1::2], strict=True):
                mask[start:stop] = 1
            np.testing.assert_array_equal(mask.reshape(row["rows"], row["columns"]), getattr(scan, name))
    assert not (out / ".truth").exists()


def test_an_unwritable_truth_file_is_an_error_before_anything_is_drawn(tmp_path):
    (tmp_path / "file").touch()
    for name in ("out/truth.jsonl", ".", "file/truth.jsonl"):
        calls = []
        with pytest.raises(OutputError, match="--truth"):
            draw(
                tmp_path / "out",
                patients=MIN_PATIENTS,
                truth=tmp_path / name,
                progress=lambda *call: calls.append(call),  # noqa: B023
            )
        assert not calls
        assert not (tmp_path / "out").exists()
