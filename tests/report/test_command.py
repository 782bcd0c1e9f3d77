"""The command on the page makes the same folder again."""

import re
import shlex
from html import unescape

import pytest
from typer.testing import CliRunner

from octprep import cli
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.manifest import Manifest
from octprep.pipeline import build
from octprep.report.settings import command
from octprep.splits import split_file
from tests.worlds.archive import SAMPLE, files_of
from tests.worlds.pages import Page


def config_of(recipe, **settings):
    return BuildConfig(recipe=Preprocessing(**{"height": 32, "width": 32, **recipe}), **settings)


CONFIGS = [
    config_of({"width": 48}, split="keep-test", fractions=(3.0, 1.0, 1.0), balance="undersample", seed=12),
    config_of({"denoise": "lee", "denoise_strength": 7.0, "resize": "pad"}, split="by-patient", encoding="png"),
    config_of(
        {"denoise": "bilateral", "denoise_strength": 12.5, "crop": "none"}, split="kfold", folds=2, balance="none"
    ),
    config_of(
        {"denoise": "none", "flatten": True, "field_of_view": 20.0}, split="as-given", allow_leaks=True, shard_mb=0.3
    ),
    config_of(
        {"denoise": "nlm", "denoise_strength": 0.1}, split="keep-test", balance="none", seed=2**62, max_per_patient=3
    ),
]


def command_on(page):
    return unescape(re.search(r"<pre><code>(.*?)</code></pre>", page.html)[1])


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_command_on_the_page_makes_the_same_folder(source, tmp_path, config):
    build(source, tmp_path / "first", config, workers=0)
    page = Page(tmp_path / "first")
    line = command_on(page)
    assert line == command(Manifest.load(tmp_path / "first").config)
    program, *words = shlex.split(line)
    assert program == "octprep"
    folders = iter([str(source), str(tmp_path / "again")])
    done = CliRunner().invoke(cli.app, [next(folders) if word == "DIR" else word for word in words])
    assert done.exit_code == 0, done.output
    assert Manifest.load(tmp_path / "again").config == config
    assert files_of(tmp_path / "again") == files_of(tmp_path / "first")
    assert "None" not in page.html.replace("<p>None.</p>", "")
    assert ("without its black bars" in page.text) == (config.recipe.resize == "pad")


@pytest.mark.slow
def test_command_of_a_build_from_a_split_file_takes_the_file(source, built, tmp_path):
    given = split_file.load(built / "images.csv")
    config = config_of({}, split="file", split_file_sha256=given.sha256)
    build(source, tmp_path / "first", config, split_file=given, workers=0)
    page = Page(tmp_path / "first")
    line = command_on(page)
    assert line == "octprep build --src DIR --out DIR --split-file FILE --size 32"
    assert given.sha256 in page.text
    words = line.replace("DIR", str(source), 1).replace("DIR", str(tmp_path / "again"))
    done = CliRunner().invoke(cli.app, shlex.split(words.replace("FILE", str(built / "images.csv")))[1:])
    assert done.exit_code == 0, done.output
    assert files_of(tmp_path / "again") == files_of(tmp_path / "first")


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is missing")
def test_report_of_the_sample_of_real_scans(tmp_path):
    build(SAMPLE, tmp_path / "out", BuildConfig())
    page = Page(tmp_path / "out")
    assert "Leak-free, balanced and complete" in page.text
    assert 'class="absent"' not in page.html
