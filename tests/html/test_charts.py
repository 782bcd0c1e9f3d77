"""Charts: values lie at their position on the axis, and every chart has its content as text."""

import re
from xml.etree import ElementTree

import pytest

from octprep.html import charts
from octprep.html.charts import Axis, Curve, Interval, Row, Scale

ROWS = [Row("CNV", "3 images", (0.5, 0.5, 0.0), 0, 1.0), Row("<b>" + "x" * 20, "", (0.0, 0.25, 0.75), None)]


def test_axis_maps_its_ends_to_its_sides():
    axis = Axis(2, 4, 100, 300)
    assert [axis.x(value) for value in (2, 3, 4)] == [100, 200, 300]


@pytest.mark.parametrize(
    "chart",
    [
        charts.histogram("h", "Title", "CNV: median 1", "gray level", ROWS, [(0, "0"), (3, "3")], (0.2, 0.5, 0.3)),
        charts.shares("s", "Title", ["a", "b", "c"], ROWS, (0.2, 0.5, 0.3), "percent"),
        charts.distribution("d", "Title", "correlation", ROWS, [-1.0, 0.0, 0.5, 1.0], 0.8, "threshold"),
        charts.intervals("i", "Title", "guessed", [Interval("size", 0.1, 0.2, 0.3, True)], 0.25),
        charts.intervals("j", "Title", "percent", [Interval("size", 0.1, 0.2, 0.3, False)]),
        charts.curves("c", "Title", "<b>", Scale("x"), Scale("y"), [Curve("<b>" + "x" * 50, [(0, 0), (1, 1)], 0)]),
    ],
    ids=["histogram", "shares", "distribution", "intervals", "intervals without chance", "curves"],
)
def test_chart_is_well_formed_and_has_a_description(chart):
    figure = ElementTree.fromstring(chart)
    assert figure.find("title").text == "Title"
    assert figure.find("desc").text
    assert "<b>" not in chart
    width, height = map(float, figure.get("viewBox").split()[2:])
    ends = [float(x) for x in re.findall(r"H([\d.]+)", chart)]
    assert all(0 <= x <= width for x in ends)
    assert all(0 <= float(text.get("y")) <= height for text in figure.iter("text"))


def test_bars_of_a_histogram_have_heights_in_proportion():
    chart = charts.histogram("h", "Title", "", "", [Row("a", "", (0.25, 0.5), 0)], [])
    low, high = (float(height) for height in re.findall(r"v-([\d.]+)h?", chart))
    assert high == pytest.approx(2 * low)


def test_count_above_0_always_shows_in_a_distribution():
    chart = charts.distribution("d", "Title", "", [Row("a", "", (1, 0, 10_000), 0)], [0, 1, 2, 3], 1, "limit")
    assert [float(height) for height in re.findall(r"v-([\d.]+)", chart)] == [1.0, 38.0]


def test_nothing_is_drawn_without_a_row():
    assert charts.histogram("h", "Title", "", "", [], []) == charts.shares("s", "Title", [], []) == ""


@pytest.mark.parametrize(("share", "text"), [(0, "0"), (0.001, "<1 %"), (0.124, "12 %"), (1, "100 %")])
def test_percent(share, text):
    assert charts.percent(share) == text


def test_points_of_a_curve_lie_at_their_values_and_none_outside_the_axes():
    rows = [Curve("line", [(0, 0), (0.5, 1), (9, 9)], 0), Curve("point", [(0.5, 0.5)], None, is_line=False)]
    figure = ElementTree.fromstring(
        charts.curves("c", "Title", "words", Scale("x"), Scale("y"), rows, [(0, 0), (1, 1)])
    )
    line = next(path.get("d") for path in figure.iter("path") if path.get("class") == "line c0")
    reference = next(path.get("d") for path in figure.iter("path") if path.get("class") == "reference")
    start, middle, end = ([float(value) for value in point.split()] for point in line[1:].split("L"))
    assert reference == f"M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"
    assert middle == [pytest.approx((start[0] + end[0]) / 2, abs=0.1), end[1]]
    circle = next(figure.iter("circle"))
    assert float(circle.get("cx")) == pytest.approx((start[0] + end[0]) / 2, abs=0.1)
    assert float(circle.get("cy")) == pytest.approx((start[1] + end[1]) / 2, abs=0.1)
    assert end[1] < start[1]  # up is more
