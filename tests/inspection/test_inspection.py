"""The audit: what is planted is named, what is honest is not blamed, and nothing under the source is touched."""

import itertools
import json
import re
import shutil
import sys

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from octprep import cli, console, preprocessing
from octprep.duplicates import file
from octprep.duplicates.exact import DuplicatePair
from octprep.format import outputs
from octprep.format.errors import OutputError, SettingError, SourceError, StoppedError
from octprep.inspection import audit, page, shortcuts, similarity
from octprep.inspection import text as sentences
from octprep.inspection.features import ScanFeatures, stored_pixels
from octprep.source.files import PUBLISHED, PublishedDataset, Scan
from octprep.synthetic import draw
from octprep.synthetic.faults import near_duplicate
from tests.worlds.archive import CLASSES, SAMPLE, draw_scan, files_of, write_scan

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = "<img src=x onerror=alert(1)>.jpeg"
EVIL = "OCT <b onmouseover=alert(3)>\u202e"  # a folder above the classes, so part of every path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Phantoms with the archive's faults, a content under two classes and names that mean harm, two folders deep."""
    home = tmp_path_factory.mktemp("audit") / "src"
    root = home / EVIL
    draw(root, patients=24, seed=6, workers=1)
    twin = sorted((root / "train" / "CNV").glob("CNV-*-1.jpeg"))[0]
    shutil.copy(twin, root / "train" / "DME" / "DME-7777770-1.jpeg")
    other = sorted((root / "train" / "NORMAL").glob("NORMAL-*-1.jpeg"))[0]
    copy = near_duplicate(preprocessing.decode(other.read_bytes()), np.random.default_rng(5))
    (root / "test" / "DRUSEN" / "DRUSEN-7777771-1.jpeg").write_bytes(copy)
    write_scan(root / "train" / "DME" / HOSTILE)
    return home


@pytest.fixture(scope="module")
def found(source):
    before = files_of(source)
    result = audit(source, workers=1)
    page.render(source, result)
    assert files_of(source) == before
    return result


@pytest.fixture(scope="module")
def html(source, found, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "audit.html"
    path.write_bytes(page.render(source, found))
    return path


def test_all_that_is_planted_is_named(source, found):
    told = console.audited(source, found)
    planted = [path.name for path in (source / EVIL).rglob("*-999998?-*.jpeg")]
    assert len(planted) == 4
    pictured = {name.rpartition("/")[2] for join in found.closeness.joined for name in (join.first, join.second)}
    assert pictured >= {*planted, "DRUSEN-7777771-1.jpeg"}
    groups = sentences.listed([patient for group in found.findings.groups for patient in group.patients], 99)
    for name in planted:
        assert name.split("-")[1] in groups
        assert name in told
    folders = {folder: {path.name for path in (source / EVIL / folder).rglob("*-*-*.jpeg")} for folder in found.images}
    shared = {name.split("-")[1] for name in folders["test"]} & {
        name.split("-")[1] for name in folders["train"] | folders["val"]
    }
    assert {leak.patient for leak in found.findings.leaks} >= shared
    assert len(shared) >= 8
    shown = page.render(source, found).decode()
    for patient in shared:
        assert f"<bdi>{patient}: " in shown
    assert len([copies for copies in found.findings.copies if copies.reason == "same bytes"]) == 2
    assert len(found.findings.near) >= 3
    assert len(found.findings.two_classes) == 3
    assert "truncated JPEG" in told
    assert "Leaky as it is: " in told
    assert sentences.closing(found) in told


def test_contradictory_labels_are_listed(source, found):
    (conflict,) = found.findings.conflicts
    assert {scan.label for scan in conflict.scans} == {"CNV", "DME"}
    assert conflict.scans[-1].path.endswith("DME-7777770-1.jpeg")
    (near,) = found.findings.near_conflicts
    assert near.first.endswith("DRUSEN-7777771-1.jpeg")
    assert re.search(
        r"contents under more than one class: 1\n .*DME-7777770-1.jpeg: same bytes", console.audited(source, found)
    )


def test_samples_are_called_samples_and_folders_with_few_patients_are_named(source, found, html):
    text, printed = html.read_text(encoding="utf-8"), console.audited(source, found)
    pairs = len(similarity.neighbours([item.scan for item in found.read]))
    assert f"Drawn were {len(found.closeness.same)} of {pairs} pairs of neighbours" in text
    ids = [item.scan.patient for item in found.read]
    same = sum(one == other for one, other in itertools.combinations(ids, 2))
    assert f"all {same:,} pairs of scans of one patient" in text
    assert found.closeness.distances.different_of == len(ids) * (len(ids) - 1) // 2 - same
    for where in (text, printed):
        assert re.search(r"test has few patients \([0-9] of CNV, .*\): a result on so few", where)
    assert "Look through it before you share it." in text.partition("<footer>")[2]


def test_pairs_of_one_person_are_not_shown_as_strangers(found):
    for join in found.closeness.apart:
        assert found.persons[join.first] != found.persons[join.second]
    assert all(join.correlation >= similarity.THRESHOLD for join in found.closeness.joined)
    assert max(found.closeness.different) < similarity.THRESHOLD
    assert found.closeness.same


def test_the_joins_are_those_of_a_build(source, found):
    scans = [item.scan for item in found.read]
    descriptors = [item.descriptor for item in found.read]
    near = file.near_duplicate_pairs(scans, descriptors, lambda index: stored_pixels(source, scans[index]))
    assert near == sorted(found.closeness.joined)


def test_workers_do_not_change_a_byte_and_the_seed_is_told(source, found, html):
    again = audit(source, workers=2)
    assert again.to_json() == found.to_json()
    assert page.render(source, again) == html.read_bytes()
    with pytest.raises(SettingError, match="got -1"):
        audit(source, seed=-1)


def test_the_json_holds_everything(found):
    raw = json.loads(found.to_json())
    assert len(raw["scans"]) == len(found.read)
    assert raw["closeness"]["threshold"] == similarity.THRESHOLD
    assert len(raw["groups_of_several_ids"]) == len(found.findings.groups)
    assert raw["contents_in_more_than_one_class"][0]["classes"] == ["CNV", "DME"]
    assert [guess["feature"] for guess in raw["shortcuts"]["guesses"]][-1] == "all together"


def test_names_that_mean_harm_stay_names(source, found, html):
    text = html.read_text(encoding="utf-8")
    assert "<b onmouseover" not in text
    assert "<img src=x" not in text
    assert "\u202e" not in text + console.audited(source, found)
    assert "&lt;b onmouseover=alert(3)&gt;\\u202e" in text
    assert text.count("<script>") == 1
    assert str(source.parent) not in text


def test_the_page_says_the_verdict_first_and_shows_every_part(found, html):
    text = html.read_text(encoding="utf-8")
    assert re.search(r'<h1 class="bad">.*Leaky as it is: ', text)
    for check in sentences.checks(found):
        assert check.name in text
    assert text.count('class="twin"') >= len(found.closeness.joined) + len(found.findings.conflicts)
    assert text.count('role="img"') == text.count("<desc") == 3
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img [^>]*>", text))
    assert len(text) < 3_000_000


def test_the_gallery_is_capped(source, found):
    many = tuple(
        DuplicatePair(*one, "near-identical", 0.9) for one in [(found.read[0].scan.path, found.read[-1].scan.path)] * 60
    )
    crowded = vars(found) | {"closeness": type(found.closeness)(**vars(found.closeness) | {"joined": many})}
    text = page.render(source, type(found)(**crowded)).decode()
    assert "the 24 first of 60" in text


def reads(tell, patients=24, scans=4, seed=0):
    """Made-up scans of two classes: `tell` gives the numbers of one from its class and a generator."""
    rng = np.random.default_rng(seed)
    found, persons = [], []
    for label in ("CNV", "NORMAL"):
        for patient in range(patients):
            for number in range(scans):
                name = f"{label}-{patient if label == 'CNV' else patient + 1000}-{number}.jpeg"
                numbers = {"bytes": 50_000 + int(rng.normal(0, 9000)), "border": 0.1, "mean": rng.normal(50, 9)} | tell(
                    label, rng
                )
                scan = Scan(
                    f"{label}/{name}", label, str(patient), number, "", numbers.pop("bytes"), name, 496, 512, name
                )
                found.append(
                    ScanFeatures(scan, b"", deviation=30.0, stored_mean=60.0, stored_deviation=40.0, **numbers)
                )
                persons.append(name.split("-")[1])
    return found, persons


def told(found, persons):
    test = shortcuts.examine(found, persons, seed=0, progress=lambda *_: None)
    return test, {guess.feature: guess for guess in test.guesses}


def test_a_shortcut_stands_out_with_its_interval_and_a_plain_sentence():
    test, by_name = told(
        *reads(lambda label, rng: {"bytes": 50_000 + 30_000 * (label == "CNV") + int(rng.normal(0, 5000))})
    )
    assert by_name["file bytes"].right > 0.95
    assert by_name["file bytes"].tells(test.chance)
    assert by_name["all together"].tells(test.chance)
    assert not by_name["mean of the decoded scan"].tells(test.chance)
    said = sentences.shortcuts(test)
    assert re.match(
        r"File bytes alone tell the class in \d+ % of the cases where 50 % would be chance "
        r"\(95 % interval \d+ to \d+ %\): a network may learn them instead of the retina\. Stored images have no ",
        said[0],
    )
    assert "may be the disease itself" in said[-1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_honest_set_is_not_blamed(seed):
    test, by_name = told(*reads(lambda label, rng: {}, patients=40, seed=seed))
    assert not any(guess.tells(test.chance) for guess in test.guesses)
    assert all(guess.low <= test.chance + shortcuts.MARGIN for guess in by_name.values())
    assert "points better than chance" in sentences.shortcuts(test)[0]


def test_what_only_names_the_patient_is_no_shortcut():
    """Every patient has a brightness of their own: folds that parted patients would be fooled."""
    own = {}
    found, persons = reads(lambda label, rng: {})
    brightness = np.random.default_rng(3)
    for place, (item, person) in enumerate(zip(found, persons, strict=True)):
        own.setdefault(person, brightness.uniform(20, 90))
        found[place] = ScanFeatures(**vars(item) | {"mean": own[person]})
    test, by_name = told(found, persons)
    assert by_name["mean of the decoded scan"].low < test.chance


def test_too_few_patients_are_a_sentence():
    found, persons = reads(lambda label, rng: {}, patients=2)
    test, _ = told(found, persons)
    assert test.left_out == "class CNV has 2 patients, and at least 3 of each class are needed"
    one = [item for item in found if item.scan.label == "CNV"]
    assert "only one class" in told(one, persons[: len(one)])[0].left_out


def write_class_folders(root, quality):
    """Two classes without split folders; each saved at its quality."""
    for label, patients in (("CNV", range(8)), ("NORMAL", range(10, 18))):
        for patient in patients:
            for number in range(3):
                scan = root / label / f"{label}-{patient}-{number}.jpeg"
                write_scan(scan, key=scan.name, quality=quality[label])
    return root


def test_class_folders_alone_have_no_leaks_but_their_shortcuts(tmp_path):
    src = write_class_folders(tmp_path / "src", {"CNV": 95, "NORMAL": 60})
    copy = src / "NORMAL" / "NORMAL-99-1.jpeg"
    shutil.copy(src / "CNV" / "CNV-1-1.jpeg", copy)
    done = CliRunner().invoke(
        cli.app,
        [
            "audit",
            "--src",
            str(src),
            "--workers",
            "1",
            "--report",
            str(tmp_path / "a.html"),
            "--json",
            str(tmp_path / "a.json"),
        ],
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Not split into folders yet, so nothing leaks; 1 content under more than one class\n")
    assert "patients in more than one folder" not in done.stdout
    assert "File bytes alone tell the class" in done.stdout
    assert "1 and 99 (4 scans): CNV/CNV-1-1.jpeg = NORMAL/NORMAL-99-1.jpeg: same bytes" in done.stdout
    assert done.stdout.endswith(f"wrote {tmp_path / 'a.html'}\nwrote {tmp_path / 'a.json'}\n")
    assert "There are no split folders" in (tmp_path / "a.html").read_text()
    assert json.loads((tmp_path / "a.json").read_text())["images"] == {"": {"CNV": 24, "NORMAL": 25}}


def test_without_scikit_learn_all_else_is_said(tmp_path, monkeypatch):
    src = write_class_folders(tmp_path / "src", {"CNV": 80, "NORMAL": 80})
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = audit(src, workers=1)
    told = console.audited(src, result)
    assert (
        "The shortcut test was left out: scikit-learn is not installed; install it with: pip install 'octprep[audit]'"
        in told
    )
    assert "48 scans of 16 patient ids" in told
    assert "pip install &#39;octprep[audit]&#39;" in page.render(src, result).decode()


def test_a_published_version_is_recognised(found):
    assert found.version is None
    assert sentences.version(found).startswith("The counts match no published version")
    name = PublishedDataset(next(iter(PUBLISHED)))
    assert sentences.version(type(found)(**vars(found) | {"version": name})) == f"By its counts this is {name}"


def test_a_clean_split_is_called_clean(tmp_path):
    for folder, shift in (("train", 0), ("test", 100)):
        for place, label in enumerate(CLASSES):
            for patient in range(3):
                scan = tmp_path / "src" / folder / label / f"{label}-{shift + 10 * place + patient}-1.jpeg"
                write_scan(scan, key=scan.name)
    result = audit(tmp_path / "src", workers=1)
    assert sentences.headline(result) == "No leak between train and test was found"
    assert {check.state for check in sentences.checks(result)[:5]} == {sentences.YES}
    text = page.render(tmp_path / "src", result).decode()
    assert '<h1 class="good">' in text
    assert text.count("<p>None.</p>") >= 6


@pytest.mark.parametrize("option", ["--report", "--json"])
def test_nothing_is_written_under_the_source_or_where_it_cannot_be(tmp_path, option):
    src = write_class_folders(tmp_path / "src", {"CNV": 80, "NORMAL": 80})
    before = files_of(tmp_path)
    for path, sentence in (
        (src / "audit.html", "lies inside --src"),
        (src / ".." / "src" / "CNV" / "a", "lies inside --src"),
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "a", "there is no folder"),
    ):
        done = CliRunner().invoke(cli.app, ["audit", "--src", str(src), "--workers", "1", option, str(path)])
        assert isinstance(done.exception, OutputError)
        assert sentence in str(done.exception)
    assert files_of(tmp_path) == before
    with pytest.raises(OutputError, match="cannot be written"):
        outputs.write(option, tmp_path / "none" / "a", b"")


def test_a_source_without_a_readable_scan_is_a_sentence(tmp_path):
    path = tmp_path / "src" / "CNV" / "CNV-1-1.jpeg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(SourceError, match="has no readable scan"):
        audit(tmp_path / "src", workers=1)


def test_a_file_that_changes_meanwhile_is_a_sentence(tmp_path):
    scan = write_scan(tmp_path / "CNV" / "CNV-1-1.jpeg")
    known = audit(tmp_path, workers=1).read[0].scan
    scan.write_bytes(cv2.imencode(".jpeg", draw_scan("other"))[1].tobytes())
    with pytest.raises(StoppedError, match=r"CNV-1-1.jpeg .* so it is not the file that was listed"):
        stored_pixels(tmp_path, known)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is not here")
def test_the_real_sample_leaks_three_patients_and_joins_nobody():
    result = audit(SAMPLE, workers=1)
    assert [leak.patient for leak in result.findings.leaks] == ["53018", "732516", "6294785"]
    assert result.findings.groups == result.closeness.joined == ()
    assert sentences.headline(result) == "Leaky as it is: 3 patients stand in more than one folder"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright drives the browser")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--no-first-run", *(f"--disable-{part}" for part in quiet)]
        )
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400)])
def test_a_browser_opens_the_page_and_asks_for_nothing_else(browser, html, scheme, width):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    view = context.new_page()
    asked, complaints = [], []
    view.on("request", lambda request: asked.append(request.url))
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    view.goto(html.as_uri(), wait_until="load")
    view.mouse.wheel(0, 50_000)
    view.wait_for_timeout(200)
    assert [url for url in asked if not url.startswith("data:")] == [html.as_uri()]
    assert complaints == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate("[...document.images].every((image) => image.alt && image.complete && image.naturalWidth)")
    assert view.get_by_text("DRUSEN-7777771-1.jpeg").first.is_visible()
    view.locator("main button").first.focus()
    view.keyboard.press("Enter")
    assert view.locator("dialog").is_visible()
    context.close()


def test_the_page_reads_without_its_script(browser, html):
    context = browser.new_context(java_script_enabled=False)
    view = context.new_page()
    view.goto(html.as_uri())
    assert "Leaky as it is" in view.locator("h1").inner_text()
    assert view.locator("main img").first.is_visible()
    context.close()
