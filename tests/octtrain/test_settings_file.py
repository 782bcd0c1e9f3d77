"""Settings in a TOML file: what is read, what is refused, and what is written."""

import dataclasses
import os
import string
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octprep.format.config import Preprocessing
from octprep.format.errors import SettingError
from octprep.format.options import option, settings
from octtrain.config import FEEDS, MODELS, FitConfig
from octtrain.settings_file import merge_file, read_settings, write_settings


def pair(text):
    first, _, second = text.partition(",")
    return int(first), int(second or first)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Every:
    """A setting of each kind."""

    name: str = option("a", help="A text.")
    count: int = option(1, help="A number.")
    rate: float = option(0.5, help="A number.", name="--speed")
    few: int | None = option(None, help="A number, or none.")
    share: float | None = option(None, help="A number, or none.", default_text="all")
    on: bool = option(True, help="A switch.")
    kind: Literal["plain", "fancy"] = option("plain", help="A choice.")
    maybe: Literal["plain", "fancy"] | None = option(None, help="A choice, or none.")
    height: int = option(
        3, help="Two numbers.", name="--size", metavar="H,W", parse=pair, also=("width",),
        text=lambda values: f"{values.height},{values.width}",
    )  # fmt: skip
    width: int = option(3, help="")


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
EVERY = st.builds(
    Every,
    name=TEXT,
    count=st.integers(),
    rate=st.floats(allow_nan=False),
    few=st.none() | st.integers(),
    share=st.none() | st.floats(allow_nan=False),
    on=st.booleans(),
    kind=st.sampled_from(["plain", "fancy"]),
    maybe=st.sampled_from([None, "plain", "fancy"]),
    height=st.integers(0, 10**6),
    width=st.integers(0, 10**6),
)
FIT = st.builds(
    FitConfig,
    model=st.sampled_from([*MODELS, "my_package.my_module:build"]),
    epochs=st.integers(1, 100_000),
    batch_size=st.just("auto") | st.integers(1, 1_000_000),
    lr=st.just("auto") | st.floats(0, 10, exclude_min=True),
    ema=st.floats(0, 0.99999),
    feed=st.sampled_from(FEEDS),
    deterministic=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    weights=TEXT,
    patience=st.integers(0),
    fold=st.none() | st.integers(0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("settings")


@given(EVERY | FIT)
def test_what_is_written_reads_back_as_the_same_settings(folder, values):
    write_settings(folder / "config.toml", values)
    assert type(values)(**read_settings(folder / "config.toml", type(values))) == values
    assert merge_file(folder / "config.toml", type(values), {}) == read_settings(folder / "config.toml", type(values))


def test_every_option_of_the_command_line_is_written_and_described(tmp_path):
    for values in (FitConfig(), Preprocessing(height=64, width=128)):
        write_settings(tmp_path / "config.toml", values)
        text = (tmp_path / "config.toml").read_text(encoding="utf-8")
        described = " ".join(line.removeprefix("# ") for line in text.splitlines())
        for setting in settings(type(values)):
            if setting.option.help:
                assert setting.option.help in described
                assert f"{setting.flag.removeprefix('--')} =" in text
            if setting.choices and not setting.option.parse:
                assert f'One of {", ".join(setting.choices)}. Default: "{setting.default}".' in described
        assert max(map(len, text.splitlines())) <= 100


def test_a_value_that_is_not_set_is_a_comment(tmp_path):
    write_settings(tmp_path / "config.toml", Every())
    assert "# few =\n" in (tmp_path / "config.toml").read_text()
    assert "Default: all." in (tmp_path / "config.toml").read_text()


def test_a_file_name_that_toml_cannot_hold_is_a_comment(tmp_path):
    write_settings(tmp_path / "config.toml", FitConfig(weights=os.fsdecode(b"M\xfcller.keras")))
    text = (tmp_path / "config.toml").read_text(encoding="utf-8")
    assert r'# weights = "M\\xfcller.keras", with bytes that TOML cannot hold: give --weights' in text
    assert "weights" not in read_settings(tmp_path / "config.toml", FitConfig)


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "run.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("key", ["batch-size", "batch_size"])
def test_keys_have_hyphens_or_underscores(file, key):
    assert read_settings(file(f"{key} = 64\nlr = 1\n"), FitConfig) == {"batch_size": 64, "lr": 1.0}


def test_a_file_of_an_editor_with_a_byte_order_mark_is_read(file):
    assert read_settings(file(b"\xef\xbb\xbfepochs = 3\r\n"), FitConfig) == {"epochs": 3}


def test_an_option_that_is_made_from_text_takes_text_or_a_number(file):
    assert read_settings(file('size = "2,5"'), Every) == {"height": 2, "width": 5}
    assert read_settings(file("size = 7"), Every) == {"height": 7, "width": 7}


def test_given_settings_replace_those_of_the_file(file):
    path = file("epochs = 3\nlr = 0.1")
    assert merge_file(path, FitConfig, {"epochs": 5}) == {"epochs": 5, "lr": 0.1}
    assert merge_file(None, FitConfig, {"epochs": 5}) == {"epochs": 5}


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (
            FitConfig,
            "bach-size = 3",
            "there is no setting 'bach-size'; did you mean batch-size? The settings are augmentation, batch-",
        ),
        (
            FitConfig,
            "depth = 3",
            "no setting 'depth'. The settings are augmentation, batch-size, clip-norm, deterministic, devices, ema",
        ),
        (
            FitConfig,
            "[training]\nepochs = 3",
            "a table 'training', but settings are not grouped in tables; remove the line",
        ),
        (FitConfig, "batch-size = 3\nbatch_size = 3", "batch-size is there twice, as batch_size too; remove one"),
        (FitConfig, 'epochs = "3"', "epochs must be a whole number; got '3'"),
        (FitConfig, "epochs = 3.0", "epochs must be a whole number; got 3.0"),
        (FitConfig, "epochs = true", "epochs must be a whole number; got True"),
        (FitConfig, "fold = []", "fold must be a whole number; got []"),
        (FitConfig, "model = 3", "model must be a text in quotes; got 3"),
        (FitConfig, "lr = true", "lr must be a text in quotes, RATE|auto; got True"),
        (Every, "on = 1", "on must be true or false; got 1"),
        (Every, 'kind = "other"', "kind must be one of plain, fancy; got 'other'"),
        (Every, "maybe = []", "maybe must be one of plain, fancy; got []"),
        (Every, "speed = 2000-01-01", "speed must be a number; got datetime.date(2000, 1, 1)"),
        (Every, "size = [1, 2]", "size must be a text in quotes, H,W; got [1, 2]"),
        (Every, 'size = "x"', "invalid literal for int"),
        (Every, "width = 3", "there is no setting 'width'"),
        (
            FitConfig,
            "epochs = 3\nepochs = 4",
            "is not TOML (Cannot overwrite a value",
        ),
        (FitConfig, "epochs: 3", "is not TOML (Expected '=' after a key"),
        (FitConfig, b"\xff", "is not TOML ('utf-8' codec"),
        (FitConfig, "a = " + "[" * 100_000, "is not TOML ("),
        (FitConfig, "#" * 1_000_001, "cannot be read: it has 1,000,001 bytes, more than"),
    ],
)
def test_an_error_names_the_file_the_key_and_what_was_expected(file, kind, text, message):
    path = file(text)
    with pytest.raises(SettingError) as caught:
        read_settings(path, kind)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_none_is_an_error(tmp_path):
    with pytest.raises(SettingError, match=r"none\.toml cannot be read: No such file"):
        read_settings(tmp_path / "none.toml", FitConfig)
    with pytest.raises(SettingError, match="cannot be read: "):
        read_settings(tmp_path, FitConfig)


def test_a_value_out_of_range_names_the_file_only_if_it_is_from_there(file):
    path = file("lr = 0")
    with pytest.raises(SettingError) as caught:
        merge_file(path, FitConfig, {"epochs": 3})
    assert str(caught.value).startswith(f"{path}: lr must be auto, or above 0")
    with pytest.raises(SettingError, match=r"^epochs must be at least 1"):
        merge_file(file("lr = 1"), FitConfig, {"epochs": 0})
    assert merge_file(path, FitConfig, {"lr": 1.0}) == {"lr": 1.0}


def test_a_number_beyond_all_limits_is_out_of_range(file):
    with pytest.raises(SettingError, match=r"lr must be auto, or above 0 and at most 10.* got inf"):
        merge_file(file("lr = 1" + "0" * 400), FitConfig, {})


@given(st.text(string.printable) | st.binary())
def test_any_file_is_read_or_refused(folder, content):
    path = folder / "any.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        read_settings(path, FitConfig)
    except SettingError as error:
        assert str(path) in str(error)
