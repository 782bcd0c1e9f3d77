"""What verify and its certificate say about comparisons that were not made."""

import dataclasses

from octprep import console
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.manifest import Leaks, Manifest
from octprep.pipeline import build
from octprep.verification import verify
from tests.worlds.archive import archive, write_folder


def test_comparison_that_was_not_made_is_not_in_the_certificate(good, tmp_path):
    small = verify(good, workers=0)
    assert small.not_comparable == sum(count.images for count in small.counts.values())
    assert "near-identical" not in console.certificate(small)
    assert "are too small" in console.verification_summary(good, small)
    assert any("images of 32x48 pixels are too small" in line for line in console.duplicate_lines(good, small.manifest))
    src = write_folder(tmp_path / "src", archive())
    for size, near in ((96, True), (96, False)):
        out = tmp_path / f"{near}"
        build(src, out, BuildConfig(recipe=Preprocessing(height=size, width=size), near_duplicates=near), workers=0)
        result = verify(out, workers=0)
        assert ("near-identical scans disjoint" in console.certificate(result)) == near
        assert ("near-identical scans were not searched for" in console.verification_summary(out, result)) != near


def test_declared_near_identical_pairs_are_printed(good):
    manifest = dataclasses.replace(Manifest.load(good), leaks=Leaks(near=(("a.jpeg", "b.jpeg"),)))
    assert console.leak_line(manifest).startswith("LEAKY: in two splits: 1 near-identical pair (a.jpeg = b.jpeg). ")
