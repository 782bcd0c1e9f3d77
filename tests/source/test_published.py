"""Published data sets are recognised by their counts."""

from octprep.source.files import ScanFile
from octprep.source.published import KERMANY_CLASSES, PublishedDataset, recognise

TRAIN = (37205, 11348, 8616, 26315)


def scan_files(train, test, val):
    for folder, counts in (("train", train), ("test", test), ("val", val)):
        for label, count in zip(KERMANY_CLASSES, counts, strict=True):
            yield from (ScanFile(f"{folder}{label}{n}", label, "1", n, folder, 1) for n in range(count))


def test_published_counts_are_recognised():
    assert recognise(scan_files(TRAIN, (242,) * 4, (8,) * 4)) == PublishedDataset("Kaggle kermany2018")
    assert recognise(scan_files(TRAIN, (250,) * 4, (0,) * 4)) == PublishedDataset("Mendeley version 2")
    third = recognise(scan_files((37205, 11348, 8616, 51140), (250,) * 4, (0,) * 4))
    assert third == PublishedDataset("Mendeley version 3")


def test_a_nearly_complete_download_is_recognised_with_its_differences():
    nearly = recognise(scan_files((37205, 11347, 8616, 26315), (242,) * 4, (9, 8, 8, 8)))
    assert nearly == PublishedDataset(
        "Kaggle kermany2018", ("train/DME 11,348 there, 11,347 here", "val/CNV 8 there, 9 here")
    )
    assert str(nearly) == "nearly Kaggle kermany2018 (train/DME 11,348 there, 11,347 here; val/CNV 8 there, 9 here)"


def test_other_counts_are_not_recognised():
    assert recognise(scan_files((36000, 11348, 8616, 26315), (242,) * 4, (8,) * 4)) is None
    assert recognise(scan_files((1, 2, 3, 4), (0,) * 4, (0,) * 4)) is None
    assert recognise([]) is None
