"""The whole preparation on a small archive: the guarantees, reproducible bytes, and builds that are not possible."""

import dataclasses
import shutil
from collections import Counter

import numpy as np
import pytest

from octprep import preprocessing
from octprep.console import build_summary, build_warning
from octprep.duplicates import search
from octprep.duplicates.exact import NEAR_IDENTICAL, DuplicatePair
from octprep.format import images_csv
from octprep.format.config import BuildConfig
from octprep.format.errors import LeakError, OutputError, SettingError, SourceError
from octprep.format.images_csv import UNDERSAMPLED
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, MANIFEST_NAME, PREPARED_NAME, REPORT_NAME, Manifest
from octprep.pipeline import build
from octprep.shards import cache, tfrecord
from octprep.shards.tfds import TFDS_NAMES
from octprep.source.options import SourceSpec
from octprep.splits import split_file
from octprep.splits.deviations import (
    describe_deviation,
    describe_few_patients,
    deviations_from_table,
    patients_from_rows,
)
from octprep.verification import verify
from tests.worlds.archive import SAMPLE, archive, files_of, write_folder
from tests.worlds.builds import CONFIG, SMALL, cache_of


def records(folder, split):
    for shard in Manifest.load(folder).splits[split]:
        yield from map(tfrecord.decode, tfrecord.read(folder / shard.name))


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        BuildConfig(recipe=SMALL, shard_mb=0.02, balance="undersample", seed=3),
        BuildConfig(recipe=SMALL, shard_mb=0.02, balance="none", encoding="png"),
        BuildConfig(recipe=SMALL, split="by-patient", fractions=(2, 1, 1)),
        BuildConfig(recipe=SMALL, split="kfold", folds=3, balance="none"),
        BuildConfig(recipe=SMALL, max_per_patient=3),
        BuildConfig(
            recipe=dataclasses.replace(SMALL, crop="none", denoise="bilateral", denoise_strength=None, resize="pad")
        ),
    ],
    ids=["oversample", "undersample", "png", "by-patient", "kfold", "capped", "pad"],
)
def test_all_guarantees_hold_and_the_source_stays_as_it_was(source, tmp_path, config):
    before = files_of(source)
    result = build(source, tmp_path / "out", config, workers=0)
    verification = verify(tmp_path / "out", workers=0)
    assert verification.violations == ()
    assert verification.records == sum(map(result.manifest.records, result.manifest.splits)) > 0
    assert files_of(source) == before
    assert not result.manifest.leaks
    table = images_csv.read_checked(tmp_path / "out", result.manifest)
    assert result.counts.files == table.count == len(before)
    assert sum(result.counts.images.values()) == len(table.rows)
    assert sum(result.counts.excluded.values()) == len(table.excluded)
    assert result.counts.patients_per_class == patients_from_rows(table.rows)
    assert list(result.deviations) == deviations_from_table(table, result.manifest.config)


@pytest.mark.slow
def test_tensorflow_reads_every_record_and_would_have_written_the_same_bytes(shards, tmp_path):
    tf = pytest.importorskip("tensorflow", reason="TensorFlow's own reader and writer are compared with ours")
    for path in shards.glob("*/*.tfrecord"):
        theirs = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
        assert theirs == list(tfrecord.read(path))
        with tf.io.TFRecordWriter(str(tmp_path / "again")) as writer:
            for data in theirs:
                message = tf.train.Example.FromString(data)
                assert set(message.features.feature) == set(tfrecord.decode(data))
                writer.write(message.SerializeToString(deterministic=True))
        assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("balance", ["oversample", "undersample"])
def test_images_csv_of_an_earlier_build_makes_the_same_splits_again(source, tmp_path, balance):
    config = dataclasses.replace(CONFIG, balance=balance, seed=5)
    first = build(source, tmp_path / "first", config, workers=0).manifest
    file = split_file.load(tmp_path / "first" / IMAGES_NAME)
    again = dataclasses.replace(config, split="file", split_file_sha256=file.sha256)
    second = build(source, tmp_path / "second", again, split_file=file, workers=0).manifest
    assert second.splits == first.splits
    assert second.config.split_file_sha256 == file.sha256
    assert verify(tmp_path / "second", workers=0).violations == ()
    assert not build(source, tmp_path / "second", again, split_file=file, workers=0).built


def test_a_split_file_and_a_config_must_belong_together(source, tmp_path):
    file = split_file.SplitFile("patient", {"0": "train", "50": "test"})
    other = dataclasses.replace(CONFIG, split="file", split_file_sha256="00" * 32)
    for config, given in ((other, file), (other, None), (CONFIG, file)):
        with pytest.raises(SettingError, match="must be the sha256 of the split file"):
            build(source, tmp_path / "out", config, split_file=given)
    assert not (tmp_path / "out").exists()


# The same bytes, whatever the workers, the order of files and their times


def test_workers_batches_order_and_times_of_files_and_their_place_do_not_change_a_byte(
    source, shards, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache, "BATCH", 8)
    copy = tmp_path / "elsewhere" / "archive"
    for path in sorted((path for path in source.rglob("*") if path.is_file()), reverse=True):
        target = copy / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    build(copy, tmp_path / "out", CONFIG, workers=3)
    assert files_of(tmp_path / "out") == files_of(shards)


def test_the_source_may_be_read_only(src, shards, tmp_path):
    for path in [src, *src.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        build(src, tmp_path / "out", CONFIG, workers=0)
    finally:
        for path in [src, *src.rglob("*")]:
            path.chmod(0o755)
    assert files_of(tmp_path / "out") == files_of(shards)


# The content of a finished folder


def test_a_finished_folder_holds_shards_index_tables_report_and_manifest_and_nothing_else(shards):
    splits = Manifest.load(shards).splits
    names = {shard.name for split in splits.values() for shard in split}
    index = {f"index/{name}.idx" for name in names} | {f"index/{split}.csv" for split in splits}
    tables = {IMAGES_NAME, DUPLICATES_NAME, REPORT_NAME, PREPARED_NAME, MANIFEST_NAME}
    found = {path.relative_to(shards).as_posix() for path in shards.rglob("*") if path.is_file()}
    assert found == {*names, *index, *tables, *TFDS_NAMES}


def test_train_shards_are_balanced_and_test_holds_every_image_of_the_test_folder_once(source, shards):
    manifest = Manifest.load(shards)
    assert len(manifest.splits["train"]) > 1
    assert all(len(set(shard.per_class)) == 1 for shard in manifest.splits["train"])
    test = Counter(example["path"][0].decode() for example in records(shards, "test"))
    assert test == {path.relative_to(source).as_posix(): 1 for path in source.glob("test/*/*.jpeg")}


def test_records_hold_the_pixels_of_the_preprocessing_and_where_they_come_from(source, shards):
    class_names = Manifest.load(shards).class_names
    examples = list(records(shards, "test"))
    assert len(examples) == 8
    for example in examples:
        path = source / example["path"][0].decode()
        gray = preprocessing.decode(path.read_bytes())
        prepared = preprocessing.preprocess(gray, SMALL)
        assert example["image"][0] == prepared.pixels.tobytes()
        assert np.allclose(example["affine"], prepared.geometry.affine)
        assert tuple(example["source_size"]) == gray.shape
        label, patient, number = path.stem.split("-")
        assert class_names[example["label"][0]] == label
        assert (example["patient"], example["number"]) == ([patient.encode()], [int(number)])


def test_allowed_leaks_are_in_the_manifest_and_violate_guarantee_1(source, tmp_path):
    config = dataclasses.replace(CONFIG, split="as-given", allow_leaks=True)
    manifest = build(source, tmp_path / "out", config, workers=0).manifest
    assert manifest.leaks.patients == ("50",)
    violations = verify(tmp_path / "out", workers=0).violations
    assert {violation.check for violation in violations} == {1}
    assert "patient 50 is in test and in train" in violations[0].message


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(CONFIG, balance="none"),
        dataclasses.replace(CONFIG, balance="undersample", split="by-patient"),
        dataclasses.replace(CONFIG, balance="none", split="kfold", folds=3),
    ],
    ids=["keep-test", "by-patient", "kfold"],
)
def test_the_summary_and_the_report_name_the_share_that_is_furthest_from_its_target(source, tmp_path, config):
    out = tmp_path / "out"
    result = build(source, out, config, workers=0)
    [deviation] = result.deviations
    clause = describe_deviation(deviation)
    assert f"\nshares: {clause}\n" in build_summary(out, result)
    assert clause in (out / "report.html").read_text()
    table = images_csv.read_checked(out, result.manifest)
    splits = [row.split for row in table.rows if row.label == deviation.label and row.split in deviation.splits]
    splits += [
        "train" for row in table.excluded if row.exclusion_reason == UNDERSAMPLED and row.scan.label == deviation.label
    ]
    assert deviation.share == splits.count(deviation.split) / len(splits)


def test_the_summary_names_splits_with_few_patients_and_the_next_commands(source, out):
    result = build(source, out, CONFIG, workers=0)
    summary = build_summary(out, result)
    sentences = describe_few_patients(result.counts.patients_per_class)
    assert sentences
    assert all(sentence in summary for sentence in sentences)
    assert summary.endswith(f"\nnext: octprep verify {out}, then octtrain fit {out}")


# Builds that are not possible


def test_other_settings_or_another_source_need_overwrite(source, src, shards, out):
    assert not build(source, out, CONFIG, workers=0).built
    other = dataclasses.replace(CONFIG, seed=9)
    with pytest.raises(OutputError, match=r"finished, but with other settings: seed 0 there, 9 now.*--overwrite"):
        build(source, out, other, workers=0)
    (src / "train" / "CNV" / "CNV-1-1.jpeg").unlink()
    with pytest.raises(OutputError, match="another list of source files"):
        build(src, out, CONFIG, workers=0)
    assert files_of(out) == files_of(shards)
    (out / "my notes.txt").write_text("keep me")
    assert build(source, out, other, workers=0, overwrite=True).built
    assert verify(out, workers=0).violations == ()
    assert (out / "my notes.txt").exists()


def test_an_out_inside_the_source_or_around_it_is_an_error(source):
    before = files_of(source)
    for out in (source / "shards", source, source.parent):
        with pytest.raises(OutputError, match="one inside the other"):
            build(source, out, CONFIG)
    assert files_of(source) == before


def test_an_impossible_split_leaves_no_files_or_the_cache_if_scans_were_read(source, src, tmp_path):
    with pytest.raises(LeakError, match=r"1 patient \(50\) is in more"):
        build(source, tmp_path / "out", dataclasses.replace(CONFIG, split="as-given"))
    lonely = write_folder(tmp_path / "lonely", [f"CNV-{n}-1" for n in range(5)] + ["DME-9-1", "DME-9-2"])
    with pytest.raises(SourceError, match="class DME has 1 patient"):
        build(lonely, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()
    for path in (src / "train" / "DME").iterdir():  # possible by their names, not by their content
        path.write_bytes(b"")
    with pytest.raises(SourceError, match="DME"):
        build(src, tmp_path / "out", CONFIG, workers=0)
    assert (cache_of(tmp_path / "out") / "000000.bin").stat().st_size


def test_scans_without_a_patient_id_are_counted_in_the_error_and_after_the_build(tmp_path):
    names = archive(6, {"CNV": 1, "DME": 1, "DRUSEN": 1, "NORMAL": 1})
    source = write_folder(tmp_path / "src", names)
    files = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*.jpeg"))]

    def table(known):
        rows = [f"{path},{path.split('/')[1]},{path.split('-')[1] if path in known else '-'}" for path in files]
        (tmp_path / "t.csv").write_text("\n".join(["path,class,patient", *rows]))
        return SourceSpec(source, table=tmp_path / "t.csv", unknown=("-",))

    few = f"{len(files) - 2} of {len(files)} files have no patient id and are left out; --patients unknown takes each"
    with pytest.raises(SourceError, match=f"to share among train, val and test.* {few}"):
        build(table(files[:2]), tmp_path / "out", BuildConfig(recipe=SMALL), workers=0)
    result = build(table(files[1:]), tmp_path / "out", BuildConfig(recipe=SMALL), workers=0)
    assert build_warning(result).startswith(
        f"1 of {len(files)} files has no patient id and is left out; --patients unk"
    )
    assert build_warning(build(source, tmp_path / "all", BuildConfig(recipe=SMALL), workers=0)) == ""


@pytest.mark.parametrize("reason", ["name", "content"])
def test_an_impossible_split_of_a_source_of_which_most_is_excluded_says_so(tmp_path, reason):
    source = write_folder(tmp_path / "my src", ["CNV-0-1", "CNV-1-1", "DME-2-1", "DME-3-1", "DME-4-1"])
    for number in range(6):
        name = f"CNV-{number + 7}-1.jpeg" if reason == "content" else f"notes {number}.txt"
        (source / "CNV" / name).write_bytes(b"x")
    for number in range(20):
        (source / "CNV" / f"._{number}").write_bytes(b"x")
    counted = rf"class CNV .*6 of 11 files are excluded: 6 .*; `octprep inspect --quick --src '{source}'` says why"
    with pytest.raises(SourceError, match=counted):
        build(source, tmp_path / "out", BuildConfig(recipe=SMALL), workers=0)
    (source / "CNV" / name).unlink()
    with pytest.raises(SourceError, match=r"leave the class out by --classes\.$"):
        build(source, tmp_path / "out", BuildConfig(recipe=SMALL), workers=0)


def test_a_source_without_a_readable_scan_is_an_error(tmp_path):
    src = write_folder(tmp_path / "src", archive())
    for path in src.rglob("*.jpeg"):
        path.write_bytes(b"")
    with pytest.raises(SourceError, match="has no readable scan"):
        build(src, tmp_path / "out", dataclasses.replace(CONFIG, split="by-patient"), workers=0)
    assert not (tmp_path / "out").exists()


# Comparison and split are repeated until no pair among the scans in the shards is in two splits


@pytest.mark.parametrize("balance", ["oversample", "undersample"])
def test_the_last_comparison_is_of_just_the_scans_in_the_shards(source, tmp_path, monkeypatch, balance):
    compared = []
    find = search.near_duplicate_pairs
    monkeypatch.setattr(
        search,
        "near_duplicate_pairs",
        lambda scans, *arguments, **options: (compared.append(scans), find(scans, *arguments, **options))[1],
    )
    config = dataclasses.replace(CONFIG, balance=balance, max_per_patient=3)
    manifest = build(source, tmp_path / "out", config, workers=0).manifest
    rows = images_csv.read_checked(tmp_path / "out", manifest).rows
    assert {scan.path for scan in compared[-1]} == {row.path for row in rows}
    assert len(compared[-1]) < len(compared[0])


def test_a_pair_found_only_among_the_scans_in_the_shards_groups_its_patients(source, tmp_path, monkeypatch):
    pair = DuplicatePair("test/CNV/CNV-50-1.jpeg", "train/CNV/CNV-1-1.jpeg", NEAR_IDENTICAL, 0.99)
    results = iter([[]])  # of the first comparison, which is of all scans
    monkeypatch.setattr(search, "near_duplicate_pairs", lambda *_, **__: next(results, [pair]))
    config = dataclasses.replace(CONFIG, balance="undersample")
    manifest = build(source, tmp_path / "out", config, workers=0).manifest
    table = images_csv.read_checked(tmp_path / "out", manifest)
    assert {row.patient_group for row in table.scans if row.path in (pair.first, pair.second)} == {"1"}
    assert {row.split for row in table.rows if row.path in (pair.first, pair.second)} == {"test"}


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is missing")
def test_the_sample_of_real_scans_is_built_with_the_defaults(tmp_path):
    manifest = build(SAMPLE, tmp_path / "out", BuildConfig()).manifest
    assert verify(tmp_path / "out").violations == ()
    assert manifest.config.split == "keep-test"
    assert manifest.records("test") == 8
    with pytest.raises(LeakError, match=r"3 patients \(53018, 732516 and 6294785\)"):
        build(SAMPLE, tmp_path / "as-given", BuildConfig(split="as-given"))
    shutil.rmtree(tmp_path / "out")
    manifest = build(SAMPLE, tmp_path / "out", BuildConfig(split="as-given", allow_leaks=True)).manifest
    assert manifest.leaks.patients == ("53018", "732516", "6294785")


def test_a_dataset_of_a_test_split_alone_is_whole_and_verifies(source, tmp_path):
    config = BuildConfig(recipe=SMALL, shard_mb=0.02, fractions=(0, 0, 1))
    result = build(source, tmp_path / "out", config, workers=0)
    table = images_csv.decode((tmp_path / "out" / IMAGES_NAME).read_bytes())
    assert {row.split for row in table.rows} == {"test"} and set(result.manifest.splits) == {"test"}
    assert not [row for row in table.excluded if row.scan and "patient" in row.exclusion_reason]
    assert (result.manifest.config.split, result.manifest.config.balance) == ("by-patient", "none")
    assert not verify(tmp_path / "out", workers=0).violations
    assert "octtrain evaluate RUN --dataset" in build_summary(tmp_path / "out", result)
    assert (tmp_path / "out" / REPORT_NAME).stat().st_size > 10_000
    assert not build(source, tmp_path / "out", config, workers=0).built
