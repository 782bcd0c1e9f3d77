"""The CSV file of a split: what is read from it, and the errors of one that cannot be used."""

import pytest

from octprep.format.errors import SourceError
from octprep.splits.split_file import SplitFile, load
from tests.splits.populations import scans, split_file


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "splits.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_paths_take_precedence_over_patients_and_other_columns_and_rows_without_a_split_are_ignored(written):
    file = load(written("\ufeffpatient,class,split,path\r\n1,CNV,train,a/1\r\n2,DME,,a/2\r\n3,CNV,test,a/3\r\n"))
    assert file == SplitFile("path", {"a/1": "train", "a/3": "test"})
    assert load(written("split,patient\nval,007\n")) == SplitFile("patient", {"007": "val"})
    assert load(written("patient,split,image\n1,train,12\n")) == SplitFile("patient", {"1": "train"})
    # images.csv has two columns that tables call a split.
    assert load(written("path,source_split,split\na,test,val\n")) == SplitFile("path", {"a": "val"})


@pytest.mark.parametrize(
    "content",
    [
        "File Name;Subset\na;train\n",
        "image,partition\na,train\n",
        "sep=;\r\npath;split\r\na;train\r\n",
        "path\tsplit\na\ttrain\n".encode("utf-16"),
    ],
)
def test_columns_and_encodings_are_those_that_tables_have(written, content):
    assert load(written(content)) == SplitFile("path", {"a": "train"})


def test_the_digest_depends_on_the_names_and_their_splits_alone(written):
    first = load(written("patient,split\n1,train\n2,test\n"))
    same = load(written("split,note,patient\ntest,x,2\n,,3\ntrain,y,1\ntrain,y,1\n"))
    assert first.sha256 == same.sha256
    assert len(first.sha256) == 64
    others = ["patient,split\n1,train\n2,val\n", "path,split\n1,train\n2,test\n", "patient,split\n1,train\n"]
    assert len({first.sha256, *(load(written(other)).sha256 for other in others)}) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must have a header with the columns split and path .or patient., and rows below it; got no rows"),
        ("path,split\n", "got no rows"),
        ("name,split\n1,train\n", "got name, split"),
        ("path,fold\n1,train\n", "got path, fold"),
        ("path,split\na,train\nb,fold0\n", "row 3: split must be one of train, val, test.*got 'fold0'"),
        ("path,split\n,train\n", "row 2: path is empty"),
        ("patient,split\n1,train\n1,test\n", "row 3: patient 1 is in test, but also in train"),
        ("path,split\na,\n", "assigns no path to a split"),
        (b"path,split\n\xff,train\n", "is not a CSV file in UTF-8 .*; save it as 'CSV UTF-8'"),
        ('path,split\n"a,train\n', "is not a CSV file in UTF-8"),
    ],
)
def test_an_unusable_file_is_an_error_that_says_why(written, content, message):
    with pytest.raises(SourceError, match=message):
        load(written(content))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        load(tmp_path / "absent.csv")


def test_names_that_are_not_in_the_source_are_an_error():
    file = split_file("patient", train=["1"], test=["2", "3", "9"])
    with pytest.raises(
        SourceError, match=r"2 of 4 patients in the file of --split-file are not in the source: 2 and 9\."
    ):
        file.resolved(scans(["CNV-1-1", "DME-3-1"]))
    assert file.resolved(scans(["CNV-1-1", "CNV-2-1", "DME-3-1", "DME-9-1"])) == file


@pytest.mark.parametrize(
    "line",
    [
        "path,split\n{},{}\n",
        "path;split\r\n{};{}\r\n",
        "path\tnote\tsplit\n{}\tx\t{}\n",
        " Path , Split \n {} , {} \n",
        '"PATH";"SPLIT"\n"{}";"{}"\n',
    ],
)
@pytest.mark.parametrize("split", ["val", "Val", "VALID", "validation"])
@pytest.mark.parametrize(
    "path",
    [
        "train/CNV/CNV-1-1.jpeg",
        "./train/CNV/CNV-1-1.jpeg",
        "train\\CNV\\CNV-1-1.jpeg",
        ".\\train\\CNV\\CNV-1-1.jpeg",
        "/content/drive/OCT2017/train/CNV/CNV-1-1.jpeg",
        "C:\\Users\\x\\OCT2017\\train\\CNV\\CNV-1-1.jpeg",
        "CNV/CNV-1-1.jpeg",
        "CNV-1-1.jpeg",
        "Train/cnv/CNV-1-1.JPEG",
        "train/CNV/CNV-1-1",
    ],
)
def test_a_file_in_any_form_that_people_have_means_the_same(written, line, split, path):
    population = scans(["train/CNV-1-1", "test/CNV-11-1", "train/DME-1-1"])
    resolved = load(written(line.format(path, split))).resolved(population)
    assert resolved == SplitFile("path", {"train/CNV/CNV-1-1.jpeg": "val"})


@pytest.mark.parametrize("name", ["633913", "633913.0", " 633913"])
def test_a_patient_may_be_written_as_a_table_of_numbers_writes_it(written, name):
    resolved = load(written(f"patient,split\n{name},test\n")).resolved(scans(["CNV-633913-1", "CNV-6-1"]))
    assert resolved == SplitFile("patient", {"633913": "test"})


def test_a_name_that_may_mean_two_files_is_an_error_that_names_them():
    population = scans(["train/CNV-1-1", "test/CNV-1-1"])
    with pytest.raises(
        SourceError, match=r"CNV-1-1\.jpeg is the end of test/CNV/CNV-1-1\.jpeg and train/CNV/CNV-1-1\.jpeg"
    ):
        split_file("path", train=["CNV-1-1.jpeg"]).resolved(population)


@pytest.mark.parametrize("path", ["val/CNV/CNV-1-1.jpeg", "/data/val/CNV/CNV-1-1.jpeg", "1.jpeg", "./"])
def test_a_path_of_another_folder_or_half_a_name_is_not_matched(path):
    with pytest.raises(SourceError, match="1 of 1 path in the file of --split-file are not in the source"):
        split_file("path", train=[path]).resolved(scans(["train/CNV-1-1"]))


def test_two_names_of_one_file_with_different_splits_are_an_error_that_names_both():
    file = split_file("path", train=["CNV-1-1.jpeg"], test=["./train/CNV/CNV-1-1.jpeg"])
    with pytest.raises(SourceError, match=r"CNV-1-1\.jpeg and \./train/CNV/CNV-1-1\.jpeg .* one is in train"):
        file.resolved(scans(["train/CNV-1-1"]))
