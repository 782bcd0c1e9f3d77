"""A browser shows the page, light and dark, wide and narrow, and requests nothing else."""

import re

import pytest

from octprep.format.manifest import REPORT_NAME
from tests.worlds.pages import HOSTILE

pytestmark = pytest.mark.slow


@pytest.fixture(params=[("light", 1280), ("dark", 400)], ids=str)
def opened(browser, built, request):
    """The report in a browser, its requests, and its errors."""
    scheme, width = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto((built / REPORT_NAME).as_uri(), wait_until="load")
    yield page, requests, complaints, width
    context.close()


def test_browser_shows_the_page_without_requests_or_errors(built, opened):
    page, requests, complaints, width = opened
    page.wait_for_timeout(200)
    page.mouse.wheel(0, 50_000)
    assert [url for url in requests if not url.startswith("data:")] == [(built / REPORT_NAME).as_uri()]
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


def test_picture_is_enlarged_with_the_keyboard(opened):
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


def test_text_has_contrast_in_light_and_dark(browser, built):
    def luminance(colour):
        channels = [int(channel) / 255 for channel in re.findall(r"\d+", colour)[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
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


def test_page_is_readable_without_its_script(browser, built):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((built / REPORT_NAME).as_uri())
    assert "Leak-free" in page.locator("h1").inner_text()
    assert page.locator("main img").first.is_visible()
    assert page.locator("dialog").count() == 0
    context.close()
