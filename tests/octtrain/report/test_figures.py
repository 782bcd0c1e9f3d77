"""The report's charts as files: each is a whole SVG with its own colours, or the same as a PDF with its fonts."""

import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from octtrain.report import points


def test_curves_of_a_case_counted_by_hand():
    truth, score = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.8, 0.1])
    assert points.roc(truth, score) == [(0.0, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0)]
    recall_precision = points.precision_recall(truth, score)
    assert recall_precision[:2] == [(0.0, 1.0), (0.5, 1.0)]
    assert recall_precision[-1] == (1.0, 0.5)
    assert points.roc(np.array([True, True]), np.array([0.1, 0.2])) == []
    assert points.precision_recall(np.array([False]), np.array([0.1])) == []


def test_a_thinned_curve_keeps_its_ends_and_its_shape():
    curve = [(i / 10_000, (i / 10_000) ** 0.5) for i in range(10_001)]
    thin = points.thinned(curve, 100)
    assert len(thin) <= 101 and (thin[0], thin[-1]) == (curve[0], curve[-1])
    x, y = np.array(thin).T
    assert np.trapezoid(y, x) == pytest.approx(2 / 3, abs=1e-3)
    assert points.thinned(curve[:50], 100) == curve[:50]


def test_a_patient_has_the_highest_score_of_their_images():
    truth, worst = points.worst_of_patients(["b", "a", "b"], np.array([False, False, True]), np.array([0.7, 0.2, 0.3]))
    assert truth.tolist() == [False, True] and worst.tolist() == [0.2, 0.7]


@pytest.mark.slow
def test_figures_are_whole_svg_files(reported, tmp_path):
    pytest.importorskip("tensorflow")
    from octtrain.report.write import figures
    from tests.worlds.runs import quiet

    paths = figures(reported, tmp_path / "figures", log=quiet)
    expected = {"main-results", "roc", "roc-referral", "precision-recall", "reliability", "risk-coverage"}
    assert {path.stem for path in paths} == expected | {"loss", "training"}
    for path in paths:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        style = root.find("{http://www.w3.org/2000/svg}style").text
        assert "var(" not in style and ".line" in style and ".grid" in style
        assert re.search(r"\.c0 \{ fill: #", style)
        assert re.search(r"svg \.tick, svg \.axis[^{]*\{ text-anchor: middle", style)  # rules of several selectors too


@pytest.mark.slow
def test_pdfs_have_the_size_of_the_charts_lines_instead_of_pixels_and_their_fonts(reported, tmp_path):
    pytest.importorskip("tensorflow")
    pytest.importorskip("typst", reason="typst writes PDFs")
    from octtrain.report.write import figures
    from tests.worlds.runs import quiet

    paths = figures(reported, tmp_path / "figures", file_format="both", log=quiet)
    assert len(paths) == 16
    for path in paths[1::2]:
        assert path.suffix == ".pdf"
        pdf, svg = path.read_bytes(), ElementTree.parse(path.with_suffix(".svg")).getroot()
        points_of_pixels = [0.75 * float(svg.get(side)) for side in ("width", "height")]
        [box] = re.findall(rb"/MediaBox ?\[0 0 (\S+) (\S+)\]", pdf)
        assert [float(side) for side in box] == pytest.approx(points_of_pixels, abs=0.01)
        assert b"/Subtype/Image" not in pdf
        fonts = pdf.count(b"/Type/FontDescriptor")
        assert fonts > 0 and fonts == len(re.findall(rb"/FontFile[23]? ", pdf))
    again = figures(reported, tmp_path / "again", file_format="pdf", log=quiet)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths[1::2]]


@pytest.mark.slow
def test_without_typst_a_pdf_is_an_error_that_says_what_to_install_and_nothing_is_written(
    reported, tmp_path, monkeypatch
):
    pytest.importorskip("tensorflow")
    from octtrain.report.write import figures
    from octtrain.runtime import MissingPackage
    from tests.worlds.runs import quiet

    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(MissingPackage, match=r"octprep\[figures\]"):
        figures(reported, tmp_path / "figures", file_format="both", log=quiet)
    assert not (tmp_path / "figures").exists()
