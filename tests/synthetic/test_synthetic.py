from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from octprep.format.errors import OutputError, SettingError
from octprep.synthetic import CLASSES, MIN_PATIENTS, draw, draw_disease, draw_look, draw_scan
from octprep.synthetic import scans as phantom_scans
from octprep.synthetic.faults import add_fill, encode, near_duplicate

pytestmark = pytest.mark.slow

NAME = re.compile(r"(CNV|DME|DRUSEN|NORMAL)-(\d+)-(\d+)\.jpeg")
TIMES = np.linspace(0, 1, 7)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantoms") / "faulty"
    return out, draw(out, patients=MIN_PATIENTS, seed=3, workers=2)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantoms") / "clean"
    return out, draw(out, patients=40, seed=4, faults=False, workers=2)


def scans(root: Path) -> list[Path]:
    """Files of a scan's name in the folder of their class."""
    paths = sorted(root.glob("t*/*/*.jpeg")) + sorted(root.glob("val/*/*.jpeg"))
    return [path for path in paths if (m := NAME.fullmatch(path.name)) and m[1] == path.parent.name]


def patient(path: Path) -> str:
    return path.stem.split("-")[1]


def folders_of_patients(root: Path) -> dict[str, set[str]]:
    found = defaultdict(set)
    for path in scans(root):
        found[patient(path)].add(path.parts[-3])
    return found


def tree(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(path: Path) -> np.ndarray | None:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def one_patient(label: str, number: int, **changes):
    rng = np.random.default_rng([77, number, CLASSES.index(label)])
    look = dataclasses.replace(draw_look(rng), **changes)
    return look, draw_disease(label, look, rng), rng


def test_the_same_seed_gives_the_same_bytes_with_one_worker_and_with_two(faulty, tmp_path):
    out, summary = faulty
    again = draw(tmp_path / "again", patients=MIN_PATIENTS, seed=3, workers=1)
    assert tree(tmp_path / "again") == tree(out)
    assert again == summary


def test_another_seed_gives_other_patients_and_other_scans(faulty, clean):
    assert not folders_of_patients(faulty[0]).keys() & folders_of_patients(clean[0]).keys()
    assert not set(tree(faulty[0]).values()) & set(tree(clean[0]).values())


def test_scans_have_the_archives_names_sizes_and_weights(clean):
    out, summary = clean
    files = [path for path in out.rglob("*") if path.is_file()]
    assert sorted(files) == sorted(scans(out))
    assert summary.images == len(files)
    assert summary.patients == 40 == len(folders_of_patients(out))
    for path in files:
        pixels = read(path)
        assert pixels.dtype == np.uint8
        assert pixels.shape in {(496, width) for width in (512, 768, 1024, 1536)}
        assert 20_000 < path.stat().st_size < 250_000


def test_every_patient_has_one_width_and_widths_are_as_common_as_in_the_archive(clean):
    widths = defaultdict(set)
    for path in scans(clean[0]):
        widths[patient(path)].add(read(path).shape[1])
    assert all(len(found) == 1 for found in widths.values())
    many = Counter(draw_look(np.random.default_rng(number)).width for number in range(2000))
    assert 0.48 < many[512] / 2000 < 0.58
    assert 0.26 < many[768] / 2000 < 0.36


@pytest.mark.parametrize("world", ["faulty", "clean"])
def test_test_has_equal_classes_val_is_tiny_and_each_class_keeps_train_only_patients(world, request):
    out, _ = request.getfixturevalue(world)
    count = Counter((path.parts[-3], path.parts[-2]) for path in scans(out))
    assert len({count["test", label] for label in CLASSES}) == 1
    assert all(0 < count["val", label] <= 8 for label in CLASSES)
    where = folders_of_patients(out)
    for label in CLASSES:
        own = {patient(path) for path in scans(out) if path.parent.name == label}
        assert sum(where[one] == {"train"} for one in own) >= 3
        assert sum("test" in where[one] for one in own) >= 2


@pytest.mark.parametrize("patients", [150, 6000])
def test_patients_have_few_scans_or_many_as_in_the_archive(patients):
    from octprep.synthetic.dataset import _population

    volumes = _population(patients, 0, faults=False)
    counts = sorted(len(volume.places) for volume in volumes)
    trained = sorted(len(volume.places) for volume in volumes if volume.places[0][0] == "train")
    assert 11 <= sum(counts) / patients <= 15
    assert 4 <= trained[len(trained) // 2] <= 7
    assert counts[-1] == 225 >= 1.5 * counts[-2]
    per_class = Counter({label: sum(len(v.places) for v in volumes if v.label == label) for label in CLASSES})
    assert [label for label, _ in per_class.most_common(2)] == ["CNV", "NORMAL"]


def test_without_faults_no_patient_is_on_two_sides_and_no_content_comes_twice(clean):
    out, summary = clean
    assert summary.faults == {}
    assert all(len(folders) == 1 for folders in folders_of_patients(out).values())
    assert len({patient(path) for path in scans(out)}) == len({(patient(p), p.parent.name) for p in scans(out)})
    assert max(Counter(tree(out).values()).values()) == 1
    for path in scans(out):
        pixels = read(path)
        edges = (pixels[:3], pixels[-3:], pixels[:, :2], pixels[:, -2:])
        assert not any((edge > 250).mean() > 0.2 or (edge < 2).mean() > 0.99 for edge in edges)


def test_every_planted_fault_is_there(faulty):
    out, summary = faulty
    files = [path for path in out.rglob("*") if path.is_file()]
    pictures = {path: read(path) for path in files if path.suffix == ".jpeg" and "__MACOSX" not in path.parts}
    where = folders_of_patients(out)
    by_name, by_bytes = defaultdict(set), defaultdict(list)
    for path in scans(out):
        by_name[path.name].add(path.parts[-3])
        by_bytes[path.read_bytes()].append(path)
    twins = [paths for paths in by_bytes.values() if len(paths) > 1]
    classes = {(patient(path), path.parent.name) for path in scans(out)}
    found = {
        "patient in train and test": sum({"train", "test"} <= folders for folders in where.values()),
        "patient in val and test": sum({"val", "test"} <= folders for folders in where.values()),
        "patient in two classes": len(classes) - len(where),
        "file of train and test": sum(paths[0].name == paths[1].name for paths in twins),
        "byte duplicate under another name": sum(
            len(paths) - 1 for paths in twins if len({path.name for path in paths}) > 1
        ),
        "name in train and test": sum({"train", "test"} <= folders for folders in by_name.values())
        - sum(paths[0].name == paths[1].name for paths in twins),
        ".DS_Store": sum(path.name == ".DS_Store" for path in files),
        "AppleDouble file": sum(
            path.name.startswith("._") and path.read_bytes().startswith(b"\x00\x05\x16\x07") for path in files
        ),
        "truncated JPEG": sum(
            path.read_bytes().startswith(b"\xff\xd8") and not path.read_bytes().endswith(b"\xff\xd9")
            for path in pictures
        ),
        "not a JPEG": sum(not path.read_bytes().startswith(b"\xff\xd8") for path in pictures),
        "misnamed file": sum(not NAME.fullmatch(path.name) for path in pictures),
        "RGB JPEG": sum(pixels is not None and pixels.ndim == 3 for pixels in pictures.values()),
        "near-identical scan under another id": sum(9999980 <= int(patient(path)) < 9999990 for path in scans(out)),
    }
    for kind, number in found.items():
        assert number == summary.faults[kind] > 0, kind
    assert (out / "__MACOSX").is_dir()
    assert {path.parent.name for paths in twins for path in paths} == set(CLASSES)
    assert all(len({path.parent.name for path in paths}) == 1 for paths in twins)
    gray = next(pixels for pixels in pictures.values() if pixels is not None and pixels.ndim == 3)
    assert np.ptp(gray, axis=2).max() == 0
    assert summary.images == len(pictures)


def rows_of_light(pixels: np.ndarray) -> np.ndarray:
    """A scan's middle columns, smoothed: enough to tell where it lies and whose it is."""
    gray = pixels if pixels.ndim == 2 else pixels[:, :, 0]
    return cv2.GaussianBlur(gray, (0, 0), 1)[:, gray.shape[1] // 5 : -gray.shape[1] // 5]


def test_a_scan_under_a_strangers_id_is_another_patients_moved_by_some_pixels(faulty):
    out, _ = faulty
    strangers = [path for path in scans(out) if 9999980 <= int(patient(path)) < 9999990]
    assert {path.parts[-3] for path in strangers} == {"train"}
    assert sorted(path.parent.name for path in strangers) == sorted(CLASSES)
    for path in strangers:
        part = rows_of_light(read(path))[40:-40, 8:-8]
        found = {}
        for other in set(scans(out)) - {*strangers}:
            pixels = read(other) if other.parent.name == path.parent.name else None
            if pixels is not None and pixels.shape[:2] == read(path).shape:
                scores = cv2.matchTemplate(rows_of_light(pixels)[30:-30], part, cv2.TM_CCOEFF_NORMED)
                found[other] = float(scores.max()), np.unravel_index(scores.argmax(), scores.shape)
        score, (down, right) = max(found.values())
        assert score > 0.9
        assert abs(down - 10) <= 4 and abs(right - 8) <= 4
        original = max(found, key=lambda other: found[other])
        assert patient(original) != patient(path)
        assert original.read_bytes() != path.read_bytes()


@pytest.mark.parametrize("label", CLASSES)
def test_a_near_duplicate_is_worse_by_a_little_and_its_fill_spares_the_retina(label):
    for number in range(5):
        look, disease, rng = one_patient(label, number)
        scan = draw_scan(look, disease, 0.5, rng)
        before = scan.pixels.copy()
        data = near_duplicate(scan.pixels, rng)
        np.testing.assert_array_equal(scan.pixels, before)
        copy = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert copy.shape == scan.pixels.shape
        assert len(data) < len(encode(scan.pixels))
        middle = np.arange(look.width // 10, look.width - look.width // 10)
        spread = np.linspace(0.1, 0.9, 9)[:, None] * (scan.bruch - scan.ilm)[middle] + scan.ilm[middle]
        inside = spread.astype(int), middle
        white = [(cv2.blur(pixels, (9, 9))[inside] > 253).mean() for pixels in (copy, scan.pixels)]
        assert white[0] < white[1] + 0.02
        seen = [pixels[pixels < 220].mean() for pixels in (copy, scan.pixels)]
        assert 0.92 < seen[0] / seen[1] < 1.08


def test_fill_is_white_or_black_spares_the_retina_and_is_as_common_in_every_class():
    shares = []
    for label in CLASSES:
        look, disease, _ = one_patient(label, 0, width=512, level=150, tilt=0)  # high, where fill could reach it
        phantom = draw_scan(look, disease, 0.5, np.random.default_rng(0))
        rng = np.random.default_rng(9)
        marked = [add_fill(phantom, rng) for _ in range(200)]
        shares.append(sum(fault == "white fill at the border" for _, fault in marked) / 200)
        for scan, fault in marked:
            assert (fault is not None) == bool(scan.border.any())
            fill = scan.pixels[scan.border == 1]
            assert set(np.unique(fill)) <= ({0} if (fault or "").startswith("black") else {255})
            np.testing.assert_array_equal(scan.pixels[scan.border == 0], phantom.pixels[scan.border == 0])
            middle = np.arange(26, 486)
            for line in (scan.ilm, scan.rpe):
                side = fault == "black band at a side"
                assert side or not scan.border[line[middle].astype(int), middle].any()
    assert all(0.25 < share < 0.45 for share in shares)


@pytest.mark.parametrize("label", CLASSES)
def test_the_truth_lies_where_the_pixels_change(label):
    for number in range(6):
        look, disease, rng = one_patient(label, number)
        scan = draw_scan(look, disease, 0.4, rng)
        rows, columns = scan.pixels.shape
        assert (rows, columns) == (496, look.width) == scan.border.shape
        assert scan.ilm.shape == scan.rpe.shape == scan.bruch.shape == (columns,)
        assert (scan.ilm >= 10).all() and (scan.ilm < scan.rpe).all()
        assert (scan.rpe <= scan.bruch + 1e-3).all() and (scan.bruch < rows).all()
        at = np.arange(columns)
        above = scan.pixels[(scan.ilm - 5).astype(int), at].mean()
        nerve = scan.pixels[(scan.ilm + 3).astype(int), at].mean()
        epithelium = scan.pixels[(scan.rpe - 4).astype(int), at].mean()
        assert above < 0.75 * nerve
        assert nerve < 1.2 * epithelium


@pytest.mark.parametrize("label", CLASSES)
def test_every_scan_of_a_volume_shows_its_disease_and_only_that(label):
    for number, time in itertools.product(range(6), TIMES):
        look, disease, rng = one_patient(label, number, width=512)
        scan = draw_scan(look, disease, time, rng)
        healthy = draw_scan(look, draw_disease("NORMAL", look, rng), time, rng)
        lift = (scan.bruch - scan.rpe).max()
        swelling = ((scan.bruch - scan.ilm) - (healthy.bruch - healthy.ilm)).max()
        if label == "CNV":
            assert lift + swelling > 20
        if label == "DRUSEN":
            assert 6 < lift < 30
        if label == "DME":
            assert lift == pytest.approx(0, abs=1e-3)
            assert swelling > 18
        if label == "NORMAL":
            assert lift == pytest.approx(0, abs=1e-3) == swelling


@pytest.mark.parametrize("label", CLASSES)
def test_a_wider_device_shows_the_same_fraction_of_the_same_anatomy(label):
    look, disease, rng = one_patient(label, 1, width=512)
    narrow = draw_scan(look, disease, 0.3, rng)
    wide = draw_scan(dataclasses.replace(look, width=1536), disease, 0.3, rng)
    for line in ("ilm", "rpe", "bruch"):
        apart = getattr(wide, line)[1::3] - getattr(narrow, line)
        assert np.abs(apart[3:-3]).max() < 0.01


def test_neighbours_resemble_each_other_more_than_other_patients_scans(clean):
    volumes = defaultdict(list)
    for path in sorted(scans(clean[0]), key=lambda path: int(path.stem.split("-")[2])):
        small = cv2.resize(read(path), (96, 96), interpolation=cv2.INTER_AREA).astype(float).ravel()
        volumes[path.parent.name, patient(path)].append((small - small.mean()) / small.std())
    near, far = [], []
    for (label, _), volume in volumes.items():
        others = [v[len(v) // 2] for (other, _), v in volumes.items() if other == label and v is not volume]
        for one, following in itertools.pairwise(volume):
            near.append((one * following).mean())
            far.append(max((one * other).mean() for other in others))
    assert np.mean(np.array(near) > np.array(far)) > 0.98
    assert np.mean(near) > np.mean(far) + 0.1
    for volume in volumes.values():
        if len(volume) >= 16:
            next_door = [(one * other).mean() for one, other in itertools.pairwise(volume)]
            halfway = [(one * other).mean() for one, other in zip(volume, volume[8:], strict=False)]
            assert np.mean(next_door) > np.mean(halfway) + 0.007


def below_the_retina(look, time: float) -> np.ndarray:
    """The choroid in rows 10 to 40 under Bruch's membrane, smoothed and without its mean decay."""
    scan = draw_scan(look, draw_disease("NORMAL", look, np.random.default_rng(0)), time, np.random.default_rng(0))
    rows = (scan.bruch[None] + np.arange(10, 40)[:, None]).astype(int)
    flat = cv2.GaussianBlur(scan.pixels[rows, np.arange(look.width)].astype(np.float32), (0, 0), 4)
    return (flat - flat.mean(axis=1, keepdims=True)).ravel()


def test_vessels_of_the_choroid_go_on_from_scan_to_scan_and_differ_between_patients():
    near, far = [], []
    for number in range(8):
        changes = {
            "width": 512,
            "vessels": (),
            "speckle": 0.1,
            "noise": 4.0,
            "mirrored": False,
            "tilt": 0.0,
            "bow": 0.0,
        }
        look, _, _ = one_patient("NORMAL", number, **changes)
        here = below_the_retina(look, 0.5)
        near.append(np.corrcoef(here, below_the_retina(look, 0.55))[0, 1])
        far.append(np.corrcoef(here, below_the_retina(dataclasses.replace(look, texture=number), 0.5))[0, 1])
    assert min(near) > 0.6
    assert np.mean(near) > np.mean(far) + 0.3


def test_the_retina_stays_in_the_frame_however_high_low_or_steep_it_lies():
    for label, level, tilt in itertools.product(CLASSES, (60, 250, 480), (-120, 0, 120)):
        look, disease, rng = one_patient(label, 2, level=level, tilt=tilt)
        scan = draw_scan(look, disease, 0.5, rng)
        assert scan.ilm.min() > 11
        assert scan.bruch.max() < 496


def statistics(pixels: np.ndarray) -> list[float]:
    histogram = np.bincount(pixels.ravel() >> 4, minlength=16) / pixels.size
    return [*map(float, pixels.shape), pixels.mean(), pixels.std(), *histogram]


@pytest.mark.parametrize("faults", [True, False])
def test_statistics_of_whole_images_do_not_tell_the_classes_apart(faults, tmp_path):
    scores = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        draw(out, patients=32, seed=seed, faults=faults, workers=2)
        where = folders_of_patients(out)
        sides = {"train": ([], []), "test": ([], [])}
        for path in scans(out):
            side = "test" if path.parts[-3] == "test" else "train"
            pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            if pixels is not None and (side == "test" or where[patient(path)] == {"train"}):
                sides[side][0].append(statistics(pixels))
                sides[side][1].append(path.parent.name)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
        model.fit(*sides["train"])
        scores.append(balanced_accuracy_score(sides["test"][1], model.predict(sides["test"][0])))
    assert np.mean(scores) < 0.60


def test_progress_counts_every_scan_to_the_end(tmp_path):
    told: list[tuple[int, int]] = []
    summary = draw(
        tmp_path / "out", patients=24, faults=False, workers=1, progress=lambda done, total: told.append((done, total))
    )
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (summary.images, summary.images)
    assert {total for _, total in told} == {summary.images}


def test_a_folder_with_files_is_refused_and_left_alone_and_so_is_a_file(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"is not empty.*need a new or empty folder.*name another"):
        draw(tmp_path / "full", patients=24)
    with pytest.raises(OutputError, match=r"is a file"):
        draw(tmp_path / "full" / "thesis.txt", patients=24)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "thesis.txt"]
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    draw(tmp_path / "empty", patients=24, faults=False, workers=1)
    assert {path.name for path in (tmp_path / "empty").iterdir()} == {"train", "val", "test"}
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_too_few_patients_and_a_negative_seed_are_refused_by_name(tmp_path):
    with pytest.raises(SettingError, match=rf"patients must be at least {MIN_PATIENTS}.*got 23"):
        draw(tmp_path / "out", patients=23)
    with pytest.raises(SettingError, match=r"seed must be 0 or more; got -1"):
        draw(tmp_path / "out", seed=-1)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written \(Not a directory\)"):
        draw(tmp_path / "file" / "out", patients=24)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_drawing_leaves_nothing(error, workers, tmp_path):
    def stop(done: int, total: int) -> None:
        assert {path.name.partition(".part-")[0] for path in (tmp_path / "deep").iterdir()} == {".out", "out"}
        assert not list((tmp_path / "deep" / "out").iterdir())
        raise error

    with pytest.raises(error):
        draw(tmp_path / "deep" / "out", patients=24, workers=workers, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_truth_file_says_where_layers_and_fill_are_in_every_scan(tmp_path):
    draw(tmp_path / "out", patients=MIN_PATIENTS, seed=4, truth=tmp_path / "truth.jsonl", workers=2)
    told = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    expected = list(phantom_scans(MIN_PATIENTS, seed=4))
    assert [row["path"] for row in told] == [place for place, _ in expected]
    for row, (place, phantom) in zip(told, expected, strict=True):
        assert (tmp_path / "out" / place).is_file()
        for name in ("ilm", "rpe", "bruch"):
            np.testing.assert_allclose(row[name], getattr(phantom, name), atol=0.051)
        fill = np.zeros(phantom.pixels.size, np.uint8)
        for start, stop in zip(row["border"][::2], row["border"][1::2], strict=True):
            fill[start:stop] = 1
        np.testing.assert_array_equal(fill.reshape(row["rows"], row["columns"]), phantom.border)
    assert not (tmp_path / "out" / ".truth").exists()


def test_a_truth_file_that_cannot_be_written_is_refused_before_anything_is_drawn(tmp_path):
    (tmp_path / "file").touch()
    for name in ("out/truth.jsonl", ".", "file/truth.jsonl"):
        drawn = []
        with pytest.raises(OutputError, match="--truth"):
            draw(
                tmp_path / "out",
                patients=MIN_PATIENTS,
                truth=tmp_path / name,
                progress=lambda done, _: drawn.append(done),  # noqa: B023
            )
        assert not drawn
        assert not (tmp_path / "out").exists()
