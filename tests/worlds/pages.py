"""The report's page, for tests that read it or edit what it is made of."""

import re
from html import unescape
from html.parser import HTMLParser

from octprep import report
from octprep.format.manifest import DUPLICATES_NAME, REPORT_NAME, Manifest
from octprep.report import table as images_table
from tests.worlds.tables import bytes_of, cells_of

HOSTILE = "<img src=x onerror=alert(1)>.jpeg"
SCRIPT = "\"'&amp;<script>alert(2)<!--\n\u202egpj.jpeg"


class Page(HTMLParser):
    """The text and the pictures of a folder's report.html."""

    def __init__(self, folder):
        super().__init__()
        self.words, self.pictures, self.tags, self._skip = [], [], set(), False
        self.html = (folder / REPORT_NAME).read_text(encoding="utf-8")
        self.feed(self.html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._skip = tag in ("style", "script")
        if tag == "img":
            self.pictures.append(dict(attrs))

    def handle_data(self, data):
        if not self._skip:
            self.words.append(data)

    def handle_endtag(self, tag):
        self._skip = False


def headline(html):
    return re.search(r"<h1[^>]*>(.*?)</h1>", html)[1]


def section(html, name):
    """A section's HTML, and the texts of its pictures."""
    content = html.partition(f'<section id="{name}"')[2].partition("</section>")[0]
    return content, [unescape(alt) for alt in re.findall(r'<img [^>]*alt="([^"]*)"', content)]


def edited(table, change):
    """The bytes of images.csv after a change of its cells."""
    rows = cells_of(table)
    change(rows)
    return bytes_of(rows)


def edit(folder, change):
    """Rewrite images.csv after a change of its cells."""
    path = folder / "images.csv"
    path.write_bytes(edited(path.read_bytes(), change))


def rendered(folder, src=None, **files):
    """The page of a folder, with other bytes of images.csv (table) or duplicates.json (pairs) if they are given."""
    table, pairs = ((folder / name).read_bytes() for name in ("images.csv", DUPLICATES_NAME))
    contents = {"table": table, "pairs": pairs, **files}
    manifest, source = Manifest.load(folder), report.SourceImages(src)
    page = report.render(folder, manifest, contents["table"], contents["pairs"], source)
    return page.decode()


def kept_rows(folder):
    return images_table.read((folder / "images.csv").read_bytes(), Manifest.load(folder)).kept


def of_split(rows, split):
    return [row for row in rows if row["split"] == split]
