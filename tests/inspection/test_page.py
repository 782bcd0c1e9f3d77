"""The page of an inspection: complete, escaped, self-contained, and readable in a browser."""

import re
import shutil

import pytest

from octprep import console
from octprep.duplicates.exact import DuplicatePair
from octprep.inspection import checks, page
from octprep.inspection.similarity import within_patient_pairs

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def test_hostile_file_names_are_escaped(source, inspection, html):
    content = html.read_text(encoding="utf-8")
    assert "<b onmouseover" not in content
    assert "<img src=x" not in content
    assert "\u202e" not in content + console.inspection_summary(source, inspection)
    assert "&lt;b onmouseover=alert(3)&gt;\\u202e" in content
    assert content.count("<script>") == 1
    assert str(source.parent) not in content


def test_the_verdict_comes_first_and_every_section_is_shown(inspection, html):
    content = html.read_text(encoding="utf-8")
    assert re.search(r'<h1 class="bad">.*Leaky as it is: ', content)
    for check in checks.checks(inspection):
        assert check.name in content
    for leak in inspection.findings.patient_leaks[:40]:
        assert f"<bdi>{leak.patient}: " in content
    cards = len(inspection.pixels.similarity.duplicates) + len(inspection.findings.label_conflicts)
    assert content.count('class="card"') >= cards
    assert content.count('role="img"') == content.count("<desc") == 3
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img [^>]*>", content))
    assert len(content) < 3_000_000


def test_samples_are_called_samples_and_few_patients_are_reported(source, inspection, html):
    content, printed = html.read_text(encoding="utf-8"), console.inspection_summary(source, inspection)
    similarity = inspection.pixels.similarity
    pairs = len(within_patient_pairs(inspection.scans))
    assert f"Drawn were {len(similarity.within)} of {pairs} pairs within patients" in content
    assert f"all {similarity.distances.within_total:,} pairs of scans of one patient" in content
    for output in (content, printed):
        assert re.search(r"test has few patients \([0-9] of CNV, .*\): a result on so few", output)
    assert "Look through it before you share it." in content.partition("<footer>")[2]


def test_the_gallery_is_capped(source, inspection):
    pair = DuplicatePair(inspection.scans[0].path, inspection.scans[-1].path, "near-identical", 0.9)
    similarity = inspection.pixels.similarity
    many = type(similarity)(**vars(similarity) | {"duplicates": (pair,) * 60})
    pixels = type(inspection.pixels)(**vars(inspection.pixels) | {"similarity": many})
    content = page.render(source, type(inspection)(**vars(inspection) | {"pixels": pixels})).decode()
    assert "the first 24 of 60" in content


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright drives the browser")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    disabled = ("quic", "background-networking", "component-update", "sync", "gpu")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in disabled)],
        )
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400)])
def test_a_browser_shows_the_page_and_requests_nothing_else(browser, html, scheme, width):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    view = context.new_page()
    requests, complaints = [], []
    view.on("request", lambda request: requests.append(request.url))
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    view.goto(html.as_uri(), wait_until="load")
    view.mouse.wheel(0, 50_000)
    view.wait_for_timeout(200)
    assert [url for url in requests if not url.startswith("data:")] == [html.as_uri()]
    assert complaints == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate("[...document.images].every((image) => image.alt && image.complete && image.naturalWidth)")
    assert view.get_by_text("DRUSEN-7777771-1.jpeg").first.is_visible()
    view.locator("main button").first.focus()
    view.keyboard.press("Enter")
    assert view.locator("dialog").is_visible()
    context.close()


def test_the_page_is_readable_without_its_script(browser, html):
    context = browser.new_context(java_script_enabled=False)
    view = context.new_page()
    view.goto(html.as_uri())
    assert "Leaky as it is" in view.locator("h1").inner_text()
    assert view.locator("main img").first.is_visible()
    context.close()
