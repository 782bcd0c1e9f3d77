"""Options that are derived from the fields of settings: arguments, the command of a build, and its description."""

import shlex
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octprep.format import options
from octprep.format.config import BALANCES, DENOISERS, STRATEGIES, BuildConfig, Preprocessing
from octprep.format.errors import SettingError
from octprep.report import settings as described_settings


@dataclass(frozen=True)
class Sample:
    count: int = options.option(3, help="How many.", title="Count", words={0: "none", None: "{count:,} of them"})
    shown: bool = options.option(True, help="Whether.", title="Shown", words={True: "yes", False: "no"})
    only_in_python: int = options.option(1, help="", title="Only in Python")
    plain: int = 0


def test_arguments_are_those_that_differ_from_the_defaults():
    assert options.arguments(Sample(), Sample()) == []
    assert options.arguments(Sample(count=7, shown=False, only_in_python=2), Sample()) == ["--count", "7", "--no-shown"]


def test_words_describe_values_and_insert_other_settings():
    assert dict(options.described(Sample(count=1200))) == {
        "Count": "1,200 of them",
        "Shown": "yes",
        "Only in Python": "1",
    }
    assert dict(options.described(Sample(count=0, shown=False)))["Count"] == "none"


def test_choices_are_those_of_the_type():
    choices = {
        setting.field: setting.choices for kind in (BuildConfig, Preprocessing) for setting in options.settings(kind)
    }
    assert choices["split"] == STRATEGIES
    assert choices["balance"] == BALANCES
    assert choices["denoise"] == tuple(DENOISERS)
    assert choices["seed"] == ()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_as_text_reads_back_as_the_same(number):
    assert float(options.text_of(number)) == number


@pytest.mark.parametrize(
    "config",
    [
        BuildConfig(),
        BuildConfig(split="kfold", folds=3, seed=4, near_duplicates=False, fractions=(0.7, 0.2, 0.1)),
        BuildConfig(split="as-given", allow_leaks=True, balance="none", shard_mb=0.5, label_conflicts="keep"),
        BuildConfig(recipe=Preprocessing(height=64, width=128, denoise="lee", flatten=True, inpaint_fill=False)),
        BuildConfig(
            recipe=Preprocessing(denoise="wavelet", denoise_strength=3.5, field_of_view=20.5, margin_below=0.2)
        ),
    ],
)
def test_the_printed_command_makes_the_same_config(config, monkeypatch, tmp_path):
    from octprep import cli, pipeline

    class Stop(Exception):
        pass

    configs = []

    def record(src, out, config, **given):
        configs.append(config)
        raise Stop

    monkeypatch.setattr(pipeline, "build", record)
    words = shlex.split(described_settings.command(config))[1:]
    with pytest.raises(Stop):
        cli.app(words, standalone_mode=False)
    assert configs == [config]


def test_a_value_outside_a_closed_set_is_a_setting_error():
    with pytest.raises(SettingError, match="crop must be one of retina, band, none; got 'x'"):
        Preprocessing(crop="x")
