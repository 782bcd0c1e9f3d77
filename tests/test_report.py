"""The quality report: what it says is so, what it shows is there, and a browser finds nothing to complain about."""

import csv
import dataclasses
import re
import shlex
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner
from world import SAMPLE, archive, files_of, write_folder, write_scan

from octprep import cli, images, report
from octprep.phantom import draw
from octprep.pipeline import build
from octprep.report import command, rows, summary, verdict
from octprep.report.text import visible
from octprep.schema import REPORT_NAME, BuildConfig, Manifest, ManifestError, OutputError, Recipe, SourceError

HOSTILE = "<img src=x onerror=alert(1)>.jpeg"
SCRIPT = "\"'&amp;<script>alert(2)<!--\n\u202egpj.jpeg"
SMALL = Recipe(height=32, width=48)
CONFIG = BuildConfig(recipe=SMALL, shard_mb=0.02)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An archive with leaks, a duplicate, junk, and names that mean harm."""
    src = write_folder(tmp_path_factory.mktemp("report"), [*archive(), "train/CNV-50-7"])
    cnv = src / "train" / "CNV"
    (cnv / "CNV-0-90.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes())
    (cnv / "CNV-0-91.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes()[:-400])
    for name in (HOSTILE, SCRIPT, "x" * 240 + ".jpeg"):
        write_scan(src / "train" / "DME" / name)
    (src / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return src


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "shards"
    build(source, out, CONFIG, workers=1)
    return out


@pytest.fixture
def shards(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "shards"))


class Page(HTMLParser):
    """The words and the pictures of a page."""

    def __init__(self, folder):
        super().__init__()
        self.words, self.pictures, self.tags, self.silent = [], [], set(), False
        self.html = (folder / REPORT_NAME).read_text(encoding="utf-8")
        self.feed(self.html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.silent = tag in ("style", "script")
        if tag == "img":
            self.pictures.append(dict(attrs))

    def handle_data(self, data):
        if not self.silent:
            self.words.append(data)

    def handle_endtag(self, tag):
        self.silent = False


def edit(folder, change):
    """Rewrite images.csv after a change of its rows."""
    path = folder / "images.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def rows_of(rows, split):
    return [row for row in rows if row["split"] == split]


def test_a_good_build_says_so_first_and_shows_every_part(built):
    page = Page(built)
    assert re.search(r"<h1[^>]*>.*?Leak-free, balanced and complete", page.html)
    assert "No patient and no file content is in two of train, val and test." in page.text
    assert Manifest.load(built).digest in page.text
    for part in (
        "Counts by split and class",
        "Images per patient",
        "What gives a class away",
        "Before and after",
        "Lowest crop confidence",
        "Most fill at the border",
        "Darkest",
        "Most blurred",
        "Left out, and why",
        "same bytes as another scan",
        "truncated JPEG",
        "its patient is in the test set",
        "octprep build --src DIR --out DIR --split repaired --size 32x48 --shard-mb 0.02",
    ):
        assert part in page.text, part
    assert all(picture["alt"] and picture["src"].startswith("data:image/jpeg;base64,") for picture in page.pictures)
    assert page.html.count('role="img"') == page.html.count("<desc") == 7


def test_the_counts_are_those_of_the_manifest(built):
    manifest = Manifest.load(built)
    rows = images.read((built / "images.csv").read_bytes())
    cells = [re.sub(r"<[^>]*>", " ", line).split() for line in Page(built).html.splitlines() if line.startswith("<tr")]
    for split in manifest.splits:
        shown = next(line for line in cells if line[:1] == [split] and "images" in line)
        assert int(shown[-1]) == sum(row["split"] == split for row in rows)
    records = next(line for line in cells if line[:1] == ["records"])
    assert list(map(int, records[1:])) == [*manifest.per_class("train").values(), manifest.records("train")]


def test_build_and_report_write_the_same_bytes(source, shards):
    before = (shards / REPORT_NAME).read_bytes()
    (shards / REPORT_NAME).unlink()
    assert report.write(shards, source) == shards / REPORT_NAME
    assert (shards / REPORT_NAME).read_bytes() == before


def test_the_page_names_no_folder_of_this_machine(source, built):
    html = Page(built).html
    assert str(source) not in html
    assert str(built) not in html


def test_without_the_source_only_stored_pixels_are_shown_and_the_page_says_so(built, shards):
    report.write(shards)
    page = Page(shards)
    assert "Made without the source" in page.text
    assert "octprep report DIR --src SRC" in page.text
    assert page.pictures
    assert all("as stored" in picture["alt"] for picture in page.pictures)
    assert len(page.pictures) < len(Page(built).pictures)
    assert "Made without" not in Page(built).text


def test_a_source_file_that_changed_is_not_shown_for_the_one_that_was_built_from(source, shards, tmp_path):
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    path = Page(shards).pictures[0]["alt"].removeprefix("Source of ").partition(",")[0]
    write_scan(copy / path, key="another eye")
    report.write(shards, copy)
    page = Page(shards)
    assert "not the one that was built from" in page.text
    assert not any(picture["alt"].startswith(f"Source of {path},") for picture in page.pictures)


def test_a_source_file_that_vanished_leaves_a_sentence_in_its_place(source, shards, tmp_path):
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    path = Page(shards).pictures[0]["alt"].removeprefix("Source of ").partition(",")[0]
    (copy / path).unlink()
    report.write(shards, copy)
    assert "the file is not in the source, or cannot be read" in Page(shards).text


def test_nothing_outside_the_source_is_shown(shards, source, tmp_path):
    outside = write_scan(tmp_path / "private" / "eye.jpeg")
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    (copy / "link.jpeg").symlink_to(outside)

    def point_out(rows):
        left = [row for row in rows if row["left_out"]]
        left[0]["path"], left[1]["path"] = "../private/eye.jpeg", "link.jpeg"
        left[2]["path"] = str(outside)
        for row in left[:3]:
            row.update(left_out="pointed out", sha256="")

    edit(shards, point_out)
    report.write(shards, copy)
    page = Page(shards)
    assert "pointed out" in page.text
    assert not any("pointed out" in picture["alt"] for picture in page.pictures)


def test_a_patient_put_on_two_sides_is_named(source, shards):
    def move(rows):
        rows_of(rows, "test")[0]["patient"] = rows_of(rows, "train")[0]["patient"] = "4711"

    edit(shards, move)
    report.write(shards, source)
    page = Page(shards)
    assert "LEAKY" in re.search(r"<h1[^>]*>(.*?)</h1>", page.html)[1]
    assert "patient 4711: in train and test" in page.text
    assert "images.csv was changed after it was written" in page.text


@pytest.mark.parametrize(
    ("change", "word", "detail"),
    [
        (lambda rows: rows.pop(), "INCOMPLETE", "rows, where the manifest says"),
        (lambda rows: rows_of(rows, "test")[0].update(copies="2"), "WITH REPEATS", "2 times in test"),
        (lambda rows: rows_of(rows, "val")[0].update(left_out="why not"), "INCOMPLETE", "a shard and a reason"),
        (lambda rows: rows_of(rows, "val")[0].update(shard="", split=""), "INCOMPLETE", "neither a shard nor a reason"),
        (lambda rows: rows_of(rows, "val")[0].update(mean="nan"), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update(width="wide"), "INCOMPLETE", "a number that is none"),
        (lambda rows: rows_of(rows, "val")[0].update({"class": "<b>"}), "INCOMPLETE", "class '<b>'"),
        (lambda rows: rows_of(rows, "val")[0].update(shard="../x"), "INCOMPLETE", "which the manifest does not have"),
        (lambda rows: rows.append(dict(rows[-1])), "INCOMPLETE", "has 2 rows"),
    ],
)
def test_every_edit_of_the_table_changes_the_verdict(shards, change, word, detail):
    edit(shards, change)
    report.write(shards)
    page = Page(shards)
    assert word in re.search(r"<h1[^>]*>(.*?)</h1>", page.html)[1]
    assert "EDITED" in page.text
    assert detail in page.text


def test_a_missing_table_and_a_ruined_shard_do_not_stop_the_report(source, shards):
    test = Manifest.load(shards).splits["test"][0].name
    for path in shards.glob("train/*.tfrecord"):
        path.write_bytes(b"ruined")
    (shards / test).unlink()
    report.write(shards, source)
    assert "the record cannot be read from its shard" in Page(shards).text
    for content in (b"\xff\xfe", b"path\nx\n", None):
        (shards / "images.csv").unlink()
        if content is not None:
            (shards / "images.csv").write_bytes(content)
        report.write(shards, source)
        assert "WITHOUT ITS TABLE" in Page(shards).text
        (shards / "images.csv").touch()


def test_an_unbalanced_shard_is_named(built):
    manifest = Manifest.load(built)
    first, *rest = manifest.splits["train"]
    uneven = dataclasses.replace(first, per_class=(1, *first.per_class[1:]))
    check = verdict.balance(dataclasses.replace(manifest, splits={**manifest.splits, "train": (uneven, *rest)}))
    assert (check.state, check.word) == ("broken", "NOT BALANCED")
    number = first.per_class[1]
    assert check.details == (f"{first.name}: CNV 1, DME {number}, DRUSEN {number}, NORMAL {number}",)


def test_a_leaky_build_says_leaky_and_names_the_patients(source, tmp_path):
    config = dataclasses.replace(CONFIG, split="official", allow_leaks=True, balance="none")
    build(source, tmp_path / "out", config)
    page = Page(tmp_path / "out")
    assert re.search(r'<h1 class="bad">.*LEAKY; otherwise complete</h1>', page.html)
    assert "patient 50: in train and test" in page.text
    assert "--allow-leaks" in page.text


def _config(recipe, **settings):
    return BuildConfig(recipe=Recipe(**{"height": 32, "width": 32, **recipe}), **settings)


CONFIGS = [
    _config({"width": 48}, split="repaired", fractions=(3.0, 1.0, 1.0), balance="undersample", seed=12),
    _config({"denoise": "lee", "strength": 7.0, "fit": "pad"}, split="grouped", encoding="png"),
    _config({"denoise": "bilateral", "strength": 12.5, "crop": "none"}, split="kfold", folds=2, balance="none"),
    _config({"denoise": "none", "flatten": True, "field": 20.0}, split="official", allow_leaks=True, shard_mb=0.3),
    _config({"denoise": "nlm", "strength": 0.1}, split="repaired", balance="none", seed=2**62),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_command_on_the_page_makes_the_same_config(source, tmp_path, config):
    build(source, tmp_path / "first", config)
    page = Page(tmp_path / "first")
    said = unescape(re.search(r"<pre><code>(.*?)</code></pre>", page.html)[1])
    assert said == command.command(Manifest.load(tmp_path / "first").config)
    program, *words = shlex.split(said)
    assert program == "octprep"
    folders = iter([str(source), str(tmp_path / "again")])
    done = CliRunner().invoke(cli.app, [next(folders) if word == "DIR" else word for word in words])
    assert done.exit_code == 0, done.output
    assert Manifest.load(tmp_path / "again").config == config
    assert files_of(tmp_path / "again") == files_of(tmp_path / "first")
    assert "None" not in page.html.replace("<p>None.</p>", "")


def test_settings_without_an_option_are_told_beside_the_command():
    assert command.unsaid(BuildConfig()) == {}
    assert command.unsaid(BuildConfig(recipe=Recipe(clean=False, margin_below=0.5))) == {
        "clean": False,
        "margin_below": 0.5,
    }


def test_the_sample_is_of_different_training_patients_and_does_not_depend_on_the_order(built):
    manifest = Manifest.load(built)
    kept = rows.read((built / "images.csv").read_bytes(), manifest).kept
    sample = summary.fair_sample(kept, manifest)
    assert sample == summary.fair_sample(kept[::-1], manifest)
    for label, drawn in sample.items():
        assert {(image.label, image.split) for image in drawn} == {(label, "train")}
        assert len({image.patient for image in drawn}) == len(drawn) > 0


def test_a_value_that_goes_with_the_class_is_told_from_one_that_does_not(built):
    kept = rows.read((built / "images.csv").read_bytes(), Manifest.load(built)).kept
    labels = ("CNV", "DME", "DRUSEN", "NORMAL")
    given = summary.histogram(kept, labels, lambda image: float(image.label == "DME"))
    assert {spread.label: spread.telling for spread in given.spreads}["DME"] == 1
    blind = summary.histogram(kept, labels, lambda image: 7.0)
    assert {spread.telling for spread in blind.spreads} == {0.5}
    assert all(sum(shares) == pytest.approx(1) for shares in given.shares.values())
    wide = [dataclasses.replace(image, width=512 + labels.index(image.label)) for image in kept]
    assert (summary.sizes(wide, labels).guess, summary.sizes(wide, labels).chance) == (1, 0.25)
    same = [dataclasses.replace(image, width=512) for image in kept]
    assert summary.sizes(same, labels).guess == 0.25


def test_an_empty_world_reads_well(shards):
    edit(shards, lambda rows: [row.update(left_out="taken out", shard="", split="", copies="0") for row in rows])
    report.write(shards)
    page = Page(shards)
    assert page.text.count("None.") >= 6
    assert "taken out" in page.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("train/CNV/CNV-1-1.jpeg", "train/CNV/CNV-1-1.jpeg"),
        ("gr\u00fc\u00df \u7f51", "gr\u00fc\u00df \u7f51"),
        ("a\nb\tc\0", "a\\nb\\tc\\x00"),
        ("\u202egpj.exe\u200b", "\\u202egpj.exe\\u200b"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text, shown):
    assert visible(text) == shown


def test_names_that_mean_harm_stay_names(built):
    page = Page(built)
    assert HOSTILE in page.text
    assert "\"'&amp;<script>alert(2)<!--\\n\\u202egpj.jpeg" in page.text
    assert page.html.count("<script>") == 1
    assert "<img src=x" not in page.html
    assert "\u202e" not in page.html
    assert not page.tags & {"iframe", "object", "embed", "form", "base"}


@pytest.mark.parametrize(
    ("folder", "src", "error", "words"),
    [
        ("absent", None, ManifestError, "is not a folder"),
        ("empty", None, ManifestError, "has no manifest.json"),
        ("shards", "absent", SourceError, "does not exist; give the folder that"),
        ("shards", "shards/manifest.json", SourceError, "is a file"),
        ("shards", "empty", SourceError, "has none of the files"),
    ],
)
def test_what_cannot_be_reported_is_a_sentence(shards, tmp_path, folder, src, error, words):
    (tmp_path / "empty").mkdir()
    before = files_of(tmp_path)
    with pytest.raises(error, match=words):
        report.write(tmp_path / folder, src and tmp_path / src)
    assert files_of(tmp_path) == before


def test_a_page_that_cannot_be_written_is_a_sentence(shards):
    (shards / REPORT_NAME).unlink()
    (shards / REPORT_NAME / "in the way").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"report\.html cannot be written: "):
        report.write(shards)
    assert not list(shards.glob(".*"))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    draw(folder / "src", patients=24, seed=3, workers=2)
    return folder / "src"


@pytest.mark.parametrize("flatten", [False, True], ids=["plain", "flattened"])
def test_phantoms_are_shown_step_by_step_on_a_small_page(phantoms, tmp_path, flatten):
    config = BuildConfig(recipe=Recipe(flatten=flatten))
    build(phantoms, tmp_path / "out", config)
    page = Page(tmp_path / "out")
    assert len(page.html) < 3_000_000
    kinds = [picture["alt"] for picture in page.pictures]
    assert sum("its crop framed" in alt for alt in kinds) >= 16
    assert sum("as stored, 224 x 224 pixels" in alt for alt in kinds) >= 16
    assert any("painted over" in alt for alt in kinds)
    assert 'class="absent"' not in page.html


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is not here")
def test_the_report_of_the_sample_is_good(tmp_path):
    build(SAMPLE, tmp_path / "out", BuildConfig())
    page = Page(tmp_path / "out")
    assert "Leak-free, balanced and complete" in page.text
    assert 'class="absent"' not in page.html


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


@pytest.fixture(params=[("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400)], ids=str)
def opened(browser, built, request):
    """The report in a browser, and everything that it asked for or complained about."""
    scheme, width = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto((built / REPORT_NAME).as_uri(), wait_until="load")
    yield page, asked, complaints, width
    context.close()


def test_a_browser_opens_the_page_and_asks_for_nothing_else(built, opened):
    page, asked, complaints, width = opened
    page.wait_for_timeout(200)
    page.mouse.wheel(0, 50_000)
    assert [url for url in asked if not url.startswith("data:")] == [(built / REPORT_NAME).as_uri()]
    assert complaints == []
    assert "Leak-free, balanced and complete" in page.locator("h1").inner_text()
    assert page.locator("table").count() >= 6
    assert page.locator("table >> visible=true").count() == page.locator("table").count()
    for text in (HOSTILE, "its patient is in the test set", "octprep build --src DIR"):
        assert page.get_by_text(text).first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every((image) => image.alt && image.complete && image.naturalWidth)")
    assert page.evaluate("[...document.querySelectorAll('svg')].every((svg) => svg.querySelector('title').textContent)")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgba(0, 0, 0, 0)"


def test_a_picture_is_enlarged_with_the_keyboard_alone(opened):
    page, _, complaints, width = opened
    first = page.locator("main button").first
    first.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    assert page.locator("dialog p").inner_text() == page.locator("dialog img").get_attribute("alt")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_hidden()
    assert complaints == []


def test_dark_and_light_are_both_readable(browser, built):
    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    backgrounds = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto((built / REPORT_NAME).as_uri())
        back = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        backgrounds.append(back)
        for selector in ("body", "h1", ".how", "nav a", ".check dd", "thead th", "svg .name"):
            script = f"getComputedStyle(document.querySelector('{selector}'))"
            ink = luminance(page.evaluate(f"{script}.{'fill' if selector.startswith('svg') else 'color'}"))
            contrast = (max(ink, back) + 0.05) / (min(ink, back) + 0.05)
            assert contrast >= 4.5, f"{selector} in {scheme}: {contrast:.1f}"
        page.close()
    assert backgrounds[0] > 0.8 > 0.1 > backgrounds[1]


def test_the_page_reads_without_its_script(browser, built):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((built / REPORT_NAME).as_uri())
    assert "Leak-free" in page.locator("h1").inner_text()
    assert page.locator("main img").first.is_visible()
    assert page.locator("dialog").count() == 0
    context.close()
