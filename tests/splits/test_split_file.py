"""A file that says who is in which split: what it may look like, and what is wrong with one that may not."""

import pytest

from octprep.format.errors import SourceError
from octprep.splits.split_file import SplitFile, load


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "splits.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_paths_go_before_patients_other_columns_and_rows_without_a_split_are_passed_over(written):
    found = load(written("\ufeffpatient,class,split,path\r\n1,CNV,train,a/1\r\n2,DME,,a/2\r\n3,CNV,test,a/3\r\n"))
    assert found == SplitFile("path", {"a/1": "train", "a/3": "test"})
    assert load(written("split,patient\nval,007\n")) == SplitFile("patient", {"007": "val"})


def test_the_digest_is_of_who_is_where_and_of_nothing_else(written):
    one = load(written("patient,split\n1,train\n2,test\n"))
    same = load(written("split,note,patient\ntest,x,2\n,,3\ntrain,y,1\ntrain,y,1\n"))
    assert one.sha256 == same.sha256
    assert len(one.sha256) == 64
    others = ["patient,split\n1,train\n2,val\n", "path,split\n1,train\n2,test\n", "patient,split\n1,train\n"]
    assert len({one.sha256, *(load(written(other)).sha256 for other in others)}) == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "must have a header with the columns split and path .or patient., and rows below it; found no rows"),
        ("path,split\n", "found no rows"),
        ("name,split\n1,train\n", "found name, split"),
        ("path,fold\n1,train\n", "found path, fold"),
        ("path,split\na,train\nb,fold0\n", "row 3: split must be one of train, val, test.*got 'fold0'"),
        ("path,split\n,train\n", "row 2: path is empty"),
        ("patient,split\n1,train\n1,test\n", "row 3: patient 1 is in test, but also in train"),
        ("path,split\na,\n", "puts nobody in a split"),
        (b"path,split\n\xff,train\n", "is not a CSV file in UTF-8"),
        ('path,split\n"a,train\n', "is not a CSV file in UTF-8"),
    ],
)
def test_a_file_that_will_not_do_is_a_sentence(written, content, words):
    with pytest.raises(SourceError, match=words):
        load(written(content))


def test_a_file_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        load(tmp_path / "absent.csv")
