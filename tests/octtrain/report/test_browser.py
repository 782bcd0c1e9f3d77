"""A browser shows the report, light and dark, wide and narrow, and requests nothing else."""

import pytest

pytest.importorskip("tensorflow")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 400)])
@pytest.mark.parametrize("fixture", ["reported", "uncertain"])
def test_browser_shows_the_report_without_requests_or_errors(browser, request, fixture, scheme, width):
    path = request.getfixturevalue(fixture) / "report.html"
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri(), wait_until="load")
    page.mouse.wheel(0, 50_000)
    page.wait_for_timeout(100)
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert complaints == []
    assert "Balanced accuracy" in page.locator("h1").inner_text()
    assert page.locator("svg").count() >= 4
    assert page.locator("table >> visible=true").count() == page.locator("table").count()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every((image) => image.alt && image.complete && image.naturalWidth)")
    inside = """[...document.querySelectorAll('main svg, header svg')].every((svg) => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text, circle')].every((part) => {
            const box = part.getBoundingClientRect();
            return box.left >= frame.left - 1 && box.right <= frame.right + 1 && box.bottom <= frame.bottom + 1;
        });
    })"""
    assert page.evaluate(inside)  # no label is cut off
    links = page.evaluate("[...document.querySelectorAll('nav a')].map((link) => link.getAttribute('href'))")
    assert links and all(page.locator(link).count() == 1 for link in links)
    context.close()


def test_the_printed_page_fits_on_paper(browser, reported):
    page = browser.new_page(viewport={"width": 690, "height": 1000})  # A4 without its margins, at 96 dots per inch
    page.emulate_media(media="print")
    page.goto((reported / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    assert not page.locator("nav").is_visible()
    page.close()
