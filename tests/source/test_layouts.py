"""Paths of other data sets are read by presets, patterns and tables, or the user is told what to give."""

import shutil
import warnings
from pathlib import Path

import pytest

from octprep.format import images_csv
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import Notice, SettingError, SourceError
from octprep.format.names import parse_scan_name
from octprep.inspection import inspect
from octprep.pipeline import build
from octprep.prepare import prepare_scan
from octprep.shards.records import read_records
from octprep.source.layouts import PRESETS, PathFacts, compile_pattern
from octprep.source.listing import list_source, list_sources
from octprep.source.options import Rules, SourceSpec, parse_sources, source_arguments
from octprep.source.pseudonyms import Pseudonyms
from octprep.verification import verify

UNKNOWN = Rules("unknown")


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")
    return folder


def read(folder, **more):
    """Class, patient and number of each file of a source, by path."""
    listing = list_source(SourceSpec(folder, **more), rules=UNKNOWN)
    return {file.path: (file.label, file.patient, file.image_number) for file in listing.scan_files}


# Of each preset: a path, and what it says. The files of the others come from published importers of these sets.
@pytest.mark.parametrize(
    ("preset", "path", "facts"),
    [
        ("octdl", "AMD/amd_1084498_2.jpg", PathFacts("AMD", "1084498", 2)),
        ("srinivasan", "Publication_Dataset/DME7/TIFFs/8bitTIFFs/012.tif", PathFacts("DME", "DME7", 12)),
        ("noor", "AMD/AMD (14)/Image (3).TIFF", PathFacts("AMD", "AMD (14)", 3)),
        (
            "exam-names",
            "test/dme/subject_2_1220121124118848OD1EMDD.jpg",
            PathFacts("DME", "2", 12, "test", "OD", "20121124118848"),
        ),
        ("oct-c8", "val/DRUSEN/drusen_val_1004.jpg", PathFacts("DRUSEN", "", 1004, "val")),
        ("octid", "AMRD15.jpeg", PathFacts("AMRD", "", 15)),
        ("neh", "CNV/38/OS/IMG_0012.jpg", PathFacts("CNV", "38", 12, eye="OS")),
        ("class-names", "train/Wet AMD/Wet AMD-P0012-1.jpeg", PathFacts("WET AMD", "P0012", 1, "train")),
        ("class-names", "CNV/CNV_12_OD_1.jpeg", PathFacts("CNV", "12", 1, eye="OD")),
        ("class-names", "CNV/CNV-1.2.826.0-7-os.JPEG", PathFacts("CNV", "1.2.826.0", 7, eye="OS")),
        ("class-names", "2DME/2DME-12-1.jpeg.jpg", PathFacts("2DME", "12", 1)),
        ("class-patient", "valid/DME/P17/004.png", PathFacts("DME", "P17", 4, "val")),
        ("class-folders", "Training/SRF/input_1492_1.png", PathFacts("SRF", "", 1, "train")),
    ],
)
def test_a_preset_is_recognised_by_the_paths_alone(tmp_path, preset, path, facts):
    other = {"AMD": "DME", "DME": "AMD", "CNV": "DRUSEN", "SRF": "NoSRF", "DRUSEN": "CNV"}.get(facts.label, "")
    second = path.replace(facts.label, other).replace(facts.label.lower(), other.lower()) if other else ""
    touch(tmp_path, path, *filter(None, [second]))
    listing = list_source(tmp_path, rules=UNKNOWN)
    assert listing.layouts[0].startswith(f"{preset}: ")
    file = next(file for file in listing.scan_files if file.path == path)
    held = f"{facts.label}:{facts.patient}" if PRESETS[preset].per_class else facts.patient
    assert (file.label, file.image_number, file.source_split) == (facts.label, facts.number, facts.split)
    assert (file.patient, file.eye, file.volume) == (held or path, facts.eye, facts.volume)


def test_patterns_and_regular_expressions_read_paths(tmp_path):
    touch(tmp_path, "site/train/amd/12_3.png", "site/test/dme/12_4.png", "site/notes.txt")
    expected = {"site/train/amd/12_3.png": ("AMD", "12", 3), "site/test/dme/12_4.png": ("DME", "12", 4)}
    assert read(tmp_path, pattern="**/{split}/{class}/{patient}_{number}.{ext}") == expected
    assert read(tmp_path, pattern=r".*/(?P<class>\w+)/(?P<patient>\d+)_(?P<number>\d+)\.png") == expected
    listing = list_source(SourceSpec(tmp_path, pattern="**/{split}/{class}/{patient}_{number}.{ext}"))
    assert [file.source_split for file in listing.scan_files] == ["test", "train"]
    assert [(one.path, one.reason) for one in listing.exclusions] == [
        ("site/notes.txt", "path does not match the pattern")
    ]
    with pytest.raises(SourceError, match=r"matches none of 3 files .* such as site/notes.txt"):
        read(tmp_path, pattern="{class}.{ext}")
    for text, message in (
        ("octd", "neither a preset"),
        ("{class}/{pat}.png", r"has \{pat\}"),
        ("{patient}.png", "does not say where the class is"),
        ("{class}/{patient", "has a { alone"),
        ("{class}/patient}.png", "has a } alone"),
        ("(?P<class>[", "is not a regular expression"),
        ("(?P<class>.*)(?P<sex>.)", "has a group sex"),
    ):
        with pytest.raises(SettingError, match=message):
            compile_pattern(text)


def test_split_folders_have_the_names_that_people_give_them(tmp_path):
    folders = {"Training": "train", "valid": "val", "validation": "val", "Test": "test", "testing": "test"}
    paths = touch(tmp_path, *(f"{folder}/CNV/CNV-{i}-1.jpeg" for i, folder in enumerate(folders)))
    assert {file.path.partition("/")[0]: file.source_split for file in list_source(paths).scan_files} == folders


def test_a_folder_for_each_patient_below_the_class_is_allowed(tmp_path):
    listing = list_source(touch(tmp_path / "a", "train/CNV/12/CNV-12-1.jpeg", "train/CNV/13/CNV-12-1.jpeg"))
    assert [(file.path, file.patient) for file in listing.scan_files] == [("train/CNV/12/CNV-12-1.jpeg", "12")]
    assert [one.reason for one in listing.exclusions] == ["not in a class folder"]
    key = Pseudonyms(b"k" * 32)
    hidden = key.listing(listing)
    assert "12" not in hidden.scan_files[0].path.split("/") and hidden.scan_files[0].path.startswith("train/CNV/")


def test_names_within_those_of_annotation_tools_are_read_and_copies_of_one_scan_kept_once(tmp_path):
    touch(
        tmp_path,
        "train/CNV/CNV-7-1_jpeg.rf.0123456789abcdef0123456789abcdef.jpg",
        "train/CNV/CNV-7-1_jpeg.rf.fedcba9876543210fedcba9876543210.jpg",
        "test/CNV/CNV-7-1_jpeg.rf.00000000000000000000000000000000.jpg",
        "train/DME/1a2b3c4d-DME-8-2.jpeg",
        "train/DME/DME-8-2.jpeg",
    )
    listing = list_source(tmp_path)
    kept = {file.path: (file.label, file.patient, file.image_number) for file in listing.scan_files}
    assert kept == {
        "test/CNV/CNV-7-1_jpeg.rf.00000000000000000000000000000000.jpg": ("CNV", "7", 1),
        "train/DME/1a2b3c4d-DME-8-2.jpeg": ("DME", "8", 2),
    }
    assert {one.reason.partition(":")[0] for one in listing.exclusions} == {"copy of one scan by an annotation tool"}


HASHES = [f"{digit:032x}" for digit in range(3)]


@pytest.mark.parametrize("how", ["recognised", "pattern", "table"])
def test_copies_that_a_tool_made_of_one_scan_are_kept_once_however_their_names_are_read(tmp_path, how):
    scans = touch(
        tmp_path / "scans",
        *(
            f"train/{label}/IMG_{n}_png.rf.{code}.jpg"
            for label in ("CNV", "DME")
            for n in "1234"
            for code in HASHES[:2]
        ),
        *(f"test/{label}/IMG_1_png.rf.{HASHES[2]}.jpg" for label in ("CNV", "DME")),
    )
    names = [f"{label}-{n}" for label in ("CNV", "DME") for n in "1234"]
    table = tmp_path / "labels.csv"
    table.write_text("".join(["path,class\n", *(f"{name[:3]}/IMG_{name[-1]}.png,{name[:3]}\n" for name in names)]))
    spec = {
        "recognised": SourceSpec(scans),
        "pattern": SourceSpec(scans, pattern="{split}/{class}/IMG_{patient}.{ext}"),
        "table": SourceSpec(scans, table=table),
    }[how]
    listing = list_source(spec, rules=UNKNOWN)
    kept = [f"{file.label}-{Path(file.path).name[4]}" for file in listing.scan_files]
    assert sorted(kept) == names
    if how != "table":
        assert sum(file.source_split == "test" for file in listing.scan_files) == 2  # before those of train
    if how == "pattern":
        assert {file.patient for file in listing.scan_files} == set("1234")
    assert {one.reason.partition(":")[0] for one in listing.exclusions} == {"copy of one scan by an annotation tool"}


def test_a_name_like_those_of_kermany_does_not_make_exclusions_of_all_others(tmp_path):
    octdl = [f"{label}/{label.lower()}_{patient}_1.jpg" for label in ("AMD", "DME", "NO") for patient in range(10, 20)]
    listing = list_source(touch(tmp_path / "octdl", *octdl, "AMD/AMD-7-1.jpeg"))
    assert listing.layouts[0].startswith("octdl: ") and len(listing.scan_files) == len(octdl)
    both = [f"CNV/CNV-{patient}-1.jpeg" for patient in range(5)] + [f"CNV/cnv_{patient}_1.jpeg" for patient in range(9)]
    listing = list_source(touch(tmp_path / "both", *both))
    assert listing.layouts[0].startswith("class-names: ") and len(listing.scan_files) == len(both)
    # A layout without patients is no better: those that have one are taken.
    some = [f"CNV/CNV-{patient}-1.jpeg" for patient in range(5)] + ["DME/DME-1-1.jpeg", "CNV/x.jpeg", "DME/y.jpeg"]
    listing = list_source(touch(tmp_path / "some", *some))
    assert len(listing.scan_files) == 6 and "Kermany" in listing.layouts[0]


@pytest.mark.parametrize(
    ("lost", "patient"),
    [
        ("train/NORMAL/123456-{}.jpeg", "123456"),  # no class before the id
        ("train/NORMAL/HEALTHY-123456-{}.dcm", "123456"),  # another class than the folder
        ("test/CNV/CNV (test) 123456-{}.jpeg", "123456"),
        ("test/123456-{}.jpeg", None),  # a test set without class folders
    ],
)
def test_a_class_or_a_test_set_of_other_names_is_an_error_and_not_left_out(tmp_path, lost, patient):
    scans = touch(tmp_path, *(f"train/{label}/{label}-{n}-1.jpeg" for label in ("CNV", "DME") for n in range(1, 10)))
    touch(scans, *(lost.format(n) for n in (1, 2)))
    assert len(list_source(scans).scan_files) == 18  # two strays are exclusions
    touch(scans, lost.format(3))
    with pytest.raises(SourceError, match="no image of 1 folder is called so, such as ") as error:
        list_source(scans)
    assert lost.format(1) in str(error.value) and "leave it out by --pattern kermany" in str(error.value)
    if patient:
        advised = str(error.value).split("--pattern '")[1].split("'")[0]
        read_so = list_source(SourceSpec(scans, pattern=advised)).scan_files
        assert {file.patient for file in read_so} == {patient, *map(str, range(1, 10))} and len(read_so) == 21
    assert len(list_source(SourceSpec(scans, pattern="kermany")).scan_files) == 18
    assert inspect(scans, quick=True, workers=0).file_count == 21  # an inspection shows it


def test_pictures_beside_the_scans_are_exclusions_and_no_error(tmp_path):
    paths = [f"{label}/{label}-{n}-1.jpeg" for label in ("CNV", "DME", "DRUSEN") for n in range(100)]
    scans = touch(tmp_path, *paths, "docs/figure 1.png", "docs/figure 2.png", *(f"train/preview {n}.png" for n in "12"))
    assert len(list_source(scans).scan_files) == 300
    odd = touch(tmp_path / "odd", *paths[:200], *(f"DRUSEN/{n}.jpeg" for n in range(100)))
    assert len(list_source(odd, rules=Rules(classes="CNV,DME")).scan_files) == 200  # they are left out anyway
    with pytest.raises(SourceError, match=r"is called so, such as DRUSEN/0\.jpeg"):
        list_source(odd)


def test_files_without_an_ending_beside_images_do_not_hide_their_layout(tmp_path):
    scans = touch(tmp_path, *(f"data/{label}/p{n}/1.png" for label in "AB" for n in range(5)), "LICENSE", "SHA256SUMS")
    assert list_source(scans).layouts[0].startswith("class-patient: ")


def test_several_data_sets_are_not_read_as_classes_of_one(tmp_path):
    scans = touch(tmp_path, *(f"{site}/DR{n}/DR{n}-1001-1.jpeg" for site in ("siteA", "siteB") for n in range(3)))
    with pytest.raises(SourceError, match="holds 2 data sets"):
        list_source(scans)


def test_parts_of_one_data_set_are_not_advised_to_be_sources_of_their_own(tmp_path):
    scans = touch(
        tmp_path, "a/train/CNV/CNV-1234567-1.jpeg", "a/train/DME/DME-2-1.jpeg", "b/test/CNV/CNV-1234567-2.jpeg"
    )
    with pytest.raises(SourceError, match="parts of one data set, say how") as error:
        list_source(scans)
    pattern = str(error.value).split("--pattern '")[1].split("'")[0]
    assert {file.patient for file in list_source(SourceSpec(scans, pattern=pattern)).scan_files} == {"1234567", "2"}
    with pytest.warns(Notice, match="1 patient id in several sources, such as 1234567 in a and b"):
        list_sources([SourceSpec(scans / "a", "a"), SourceSpec(scans / "b", "b")])
    touch(tmp_path / "c", *(f"{place}/{label}/patient{n}/1.png" for place in "xy" for label in "AB" for n in "12"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # short ids are equal by chance
        list_sources([SourceSpec(tmp_path / "c/x", "x"), SourceSpec(tmp_path / "c/y", "y")])


TABLE = """file_name;disease;patient_id;eye;fold
C:\\Users\\x\\Scans\\AMD\\amd_5_1;AMD;5;OD;
./scans/no/NO_6_1.PNG;NO;0;left;
gone_1;AMD;7;0;
"""


def test_a_table_finds_its_files_by_the_ends_of_their_paths(tmp_path):
    scans = touch(tmp_path / "scans", "AMD/amd_5_1.jpg", "other/amd_5_1.jpg", "no/no_6_1.png", "no/extra.png")
    table = tmp_path / "labels.csv"
    table.write_bytes(b"\xef\xbb\xbf" + TABLE.encode())
    listing = list_source(SourceSpec(scans, table=table, unknown=("0",)), rules=UNKNOWN)
    assert [(file.path, file.label, file.patient, file.eye) for file in listing.scan_files] == [
        ("AMD/amd_5_1.jpg", "AMD", "5", "OD"),
        ("no/no_6_1.png", "NO", "no/no_6_1.png", "OS"),
    ]
    assert {one.path: one.reason for one in listing.exclusions} == {
        "gone_1": "in the table, but there is no such file",
        "no/extra.png": "not in the table",
        "other/amd_5_1.jpg": "not in the table",
    }
    # Without --patients unknown only the image of a known patient is taken.
    known = list_source(SourceSpec(scans, table=table, unknown=("0",)))
    assert [file.path for file in known.scan_files] == ["AMD/amd_5_1.jpg"]
    assert next(one.reason for one in known.exclusions if one.path == "no/no_6_1.png") == "patient is not known"


def test_a_table_that_does_not_fit_is_refused_with_what_it_has(tmp_path):
    scans = touch(tmp_path / "scans", "AMD/a.jpg", "AMD/b.jpg")
    table = tmp_path / "labels.csv"

    def reading(text, **columns):
        table.write_text(text)
        return read(scans, table=table, columns=columns)

    with pytest.raises(SettingError, match=r"no column that is known to hold the class.*It has name and kind"):
        reading("name,kind\na,AMD\n", path="name")
    with pytest.raises(SettingError, match="has no such column; it has name and kind"):
        reading("name,kind\na,AMD\n", path="file")
    with pytest.raises(SourceError, match="names no file of the source: column path has x"):
        reading("path,class,patient\nx,AMD,1\n")
    with pytest.raises(SourceError, match="has no rows"):
        reading("path,class,patient\n")
    with pytest.raises(SourceError, match="is not a CSV file in UTF-8"):
        table.write_bytes(b"path,class\n\xff,AMD\n")
        read(scans, table=table)
    with pytest.raises(SettingError, match="has 2 columns class; rename one"):
        reading("path,class,patient,class\na,AMD,1,DME\n")
    assert reading("path,class,patient\na,AMD,1\na.jpg,DME,1\nb,AMD,2\n") == {"AMD/b.jpg": ("AMD", "2", 0)}
    table.rename(scans / "labels.csv")
    (scans / "labels.csv").write_text("path,class,patient\na,AMD,1\na.jpg,DME,1\nb,AMD,2\n,CNV,3\n")
    listing = list_source(SourceSpec(scans, table=scans / "labels.csv"))
    assert {one.path: one.reason for one in listing.exclusions} == {
        "AMD/a.jpg": "rows of the table disagree: class AMD and DME",
        "labels.csv": "the table itself",
        "labels.csv, row 5": "names no file",
    }


def test_rows_name_scans_within_those_of_annotation_tools_but_not_within_dates_and_ids(tmp_path):
    hashed, dated, prefixed = f"1_png.rf.{HASHES[0]}.jpg", "20230101-scan1.png", "1a2b3c4d-scan2.png"
    scans = touch(tmp_path / "scans", hashed, dated, prefixed)
    (tmp_path / "labels.csv").write_text("path,class,patient\n1.png,AMD,1\nscan1.png,AMD,2\nscan2.png,AMD,3\n")
    listing = list_source(SourceSpec(scans, table=tmp_path / "labels.csv"))
    assert {file.path: file.patient for file in listing.scan_files} == {hashed: "1", prefixed: "3"}


@pytest.mark.parametrize(
    "data",
    [
        b"path,class,patient\na,AMD,12.0\nb,DME,\n",  # as pandas writes whole numbers where one is missing
        b"sep=;\r\npath;class;patient\r\na;AMD;12\r\nb;DME;\r\n",
        "path\tclass\tpatient\na\tAMD\t12\nb\tDME\t\n".encode("utf-16"),  # Excel's 'Unicode text'
    ],
)
def test_tables_of_spreadsheets_and_pandas_are_read(tmp_path, data):
    scans = touch(tmp_path / "scans", "a.jpg", "b.jpg")
    (tmp_path / "labels.csv").write_bytes(data)
    assert read(scans, table=tmp_path / "labels.csv") == {"a.jpg": ("AMD", "12", 0), "b.jpg": ("DME", "b.jpg", 0)}


def test_a_pattern_says_what_a_table_does_not(tmp_path):
    scans = touch(tmp_path / "scans", "oct_images/12-OD-1.jpg", "oct_images/12-L-2.jpg", "oct_images/stray.jpg")
    table = tmp_path / "oct_labels.csv"
    table.write_text("name,label,eye\n12-OD-1.jpg,AMD,\n12-L-2.jpg,CNV,right\nstray,DME,\n")
    for pattern in ("topcon-mm", "oct_images/{patient}-{eye}-{number}.{ext}"):
        spec = SourceSpec(scans, table=table, columns={"path": "name"}, pattern=pattern)
        listing = list_source(spec)
        assert [(file.path, file.label, file.patient, file.image_number, file.eye) for file in listing.scan_files] == [
            ("oct_images/12-L-2.jpg", "CNV", "12", 2, "OD"),  # the table's eye
            ("oct_images/12-OD-1.jpg", "AMD", "12", 1, "OD"),
        ]
        assert [(one.path, one.reason) for one in listing.exclusions] == [
            ("oct_images/stray.jpg", "path does not match the pattern")
        ]
    with pytest.raises(SettingError, match="topcon-mm does not name the class; give the table"):
        list_source(SourceSpec(scans, pattern="topcon-mm"))
    with pytest.raises(SettingError, match="kermany names the class"):
        list_source(SourceSpec(scans, table=table, pattern="kermany"))


def test_an_excel_sheet_is_read_as_a_table(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (("image", "label", "patient"), ("a.jpg", "AMD", 12), ("b.jpg", "DME", 13.0)):
        book.active.append(row)
    book.save(tmp_path / "labels.xlsx")
    scans = touch(tmp_path / "scans", "a.jpg", "b.jpg")
    assert read(scans, table=tmp_path / "labels.xlsx") == {"a.jpg": ("AMD", "12", 0), "b.jpg": ("DME", "13", 0)}


def test_classes_are_merged_or_dropped_and_ids_may_hold_within_a_class(tmp_path):
    touch(tmp_path, *(f"{label}/{label}-7-1.jpeg" for label in ("CNV", "DRUSEN", "DME", "NORMAL")))
    listing = list_source(tmp_path, rules=Rules("per-class", "AMD=CNV+DRUSEN,normal"))
    assert [(file.label, file.patient) for file in listing.scan_files] == [
        ("AMD", "CNV:7"),
        ("AMD", "DRUSEN:7"),
        ("NORMAL", "NORMAL:7"),
    ]
    assert [one.reason for one in listing.exclusions] == ["class is not among --classes: DME"]


def test_a_class_that_no_source_has_is_an_error_that_lists_those_that_are_there(tmp_path):
    first = touch(tmp_path / "a", *(f"{label}/{label}-7-1.jpeg" for label in ("CNV", "DRUSEN", "NORMAL")))
    specs = parse_sources([str(first), str(touch(tmp_path / "b", "AMD/AMD-1-1.jpeg"))])
    list_sources(specs, rules=Rules(classes="wet=amd+Cnv,NORMAL"))  # one of them has it
    there = r"of which --src has no file; its classes are CNV, DRUSEN and NORMAL\."
    with pytest.raises(SettingError, match=f"names DRUSNE, {there}"):
        list_sources(specs[:1], rules=Rules(classes="AMD=CNV+DRUSNE,NORMAL"))
    with pytest.raises(SettingError, match=f"names AMD and CNVV, {there}"):
        list_sources(specs[:1], rules=Rules(classes="AMD,CNVV"))  # no scan is left
    with pytest.raises(SettingError, match=r"names DME, .* its classes are AMD, CNV, DRUSEN and NORMAL"):
        list_sources(specs, rules=Rules(classes="AMD,CNV,DME"))
    for call in (
        lambda **more: inspect(first, **more),
        lambda classes, **more: build(first, tmp_path / "out", BuildConfig(classes=classes), **more),
    ):
        with pytest.raises(SettingError, match=f"names DRUSNE, {there}"):
            call(classes="AMD=CNV+DRUSNE,NORMAL", workers=0)


def test_sources_of_a_command_line_have_names(tmp_path):
    for name in ("a", "b"):
        touch(tmp_path / name, "CNV/CNV-1-1.jpeg")
    specs = parse_sources([str(tmp_path / "a"), f"second={tmp_path / 'b'}"], patterns=["second=kermany"])
    assert [(spec.name, spec.pattern) for spec in specs] == [("a", ""), ("second", "kermany")]
    listing = list_sources(specs)
    assert [(file.path, file.patient, file.source) for file in listing.scan_files] == [
        ("a/CNV/CNV-1-1.jpeg", "a:1", "a"),
        ("second/CNV/CNV-1-1.jpeg", "second:1", "second"),
    ]
    with pytest.raises(SettingError, match="must say of which source it is, as --table a="):
        parse_sources([str(tmp_path / "a"), str(tmp_path / "b")], tables=["labels.csv"])
    with pytest.raises(SettingError, match="two sources are called a"):
        parse_sources([str(tmp_path / "a"), f"A={tmp_path / 'b'}"])


@pytest.mark.parametrize(
    "given",
    [
        {"sources": ["in/a b"], "tables": ["my labels.csv"], "columns": ["path=file name,class=x"], "unknown": ["0,-"]},
        {"sources": ["a=in/b"], "patterns": [r"a=(?P<class>\w+)/(?P<patient>\d+)\.png"]},
        {"sources": ["s3://bucket/in"], "patterns": ["octdl"]},
        {
            "sources": ["in/a", "second=in/b", "in/a set"],
            "tables": ["a=t.csv", "second=u.csv"],
            "columns": ["second=patient=id"],
            "unknown": ["a=0"],
            "patterns": ["a_set=kermany"],
        },
    ],
)
def test_the_arguments_of_sources_are_read_back_as_the_same_sources(given):
    specs = parse_sources(*(given.get(name, ()) for name in ("sources", "tables", "columns", "unknown", "patterns")))
    words = source_arguments(specs, patients="unknown", classes="A=B+C", follow_links=True)
    assert words[-5:] == ["--patients", "unknown", "--classes", "A=B+C", "--follow-links"]
    options = list(zip(words[:-5:2], words[1:-5:2], strict=True))
    names = ("--src", "--table", "--columns", "--unknown", "--pattern")
    assert parse_sources(*([value for option, value in options if option == name] for name in names)) == specs


@pytest.mark.parametrize("source", ["in/class", "class=in/scans"])
def test_options_may_name_the_only_source(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    named = {"tables": ["class=t.csv"], "columns": ["class=class=x,path=y"], "unknown": ["class=0"]}
    plain = {"tables": ["t.csv"], "columns": ["class=x,path=y"], "unknown": ["0"]}
    expected = parse_sources([source], **plain)
    assert parse_sources([source], **named) == expected
    assert (expected[0].table, expected[0].columns) == (Path("t.csv"), {"class": "x", "path": "y"})
    assert parse_sources([source], patterns=["class=octdl"]) == parse_sources([source], patterns=["octdl"])
    assert parse_sources([source], tables=["other=t.csv"])[0].table == Path("other=t.csv")
    touch(tmp_path, "class=t.csv")
    assert parse_sources([source], **named)[0].table == Path("class=t.csv")


def test_what_is_not_known_is_asked_for_and_an_inspection_shows_it_all_the_same(tmp_path):
    numbered = touch(tmp_path / "numbered", "P1/1.tif", "P1/2.tif", "P2/1.tif")  # patients rather than classes
    with pytest.raises(SourceError, match=r"no class folders.*--table FILE.csv or --pattern"):
        list_source(numbered)
    without_ids = touch(tmp_path / "ids", "CNV/a.png", "DME/b.png")
    with pytest.raises(SourceError, match="--patients unknown, which takes each image for a patient of its own"):
        list_source(without_ids)
    with pytest.raises(SettingError, match="needs near-duplicates"):
        BuildConfig(patients="unknown", near_duplicates=False)
    assert inspect(numbered, quick=True, workers=0).layouts == ("no layout that is known: no class and no patient",)


@pytest.fixture(scope="module")
def two_sources(synthetic_source, tmp_path_factory):
    """Scans named as by Kermany et al., and some of others named as in OCTDL, of which one is a scan of the first."""
    folder = tmp_path_factory.mktemp("sources")
    first, second = folder / "first", folder / "second"
    scans = sorted(Path(synthetic_source).rglob("*.jpeg"))
    labels = {"CNV": "AMD", "DME": "DME", "DRUSEN": "AMD", "NORMAL": "NO"}
    rows = ["file_name,disease,patient_id,eye"]
    for scan in scans:
        name = parse_scan_name(scan.name)
        if name is None or scan.parent.name != name.label or scan.stat().st_size < 5000:
            continue
        label, patient, number = name.label, name.patient, name.number
        if int(patient) % 2:
            (first / label).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(scan, first / label / scan.name)
        else:
            name = f"{labels[label]}_{patient}_{number}".lower()
            (second / labels[label]).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(scan, second / labels[label] / f"{name}.jpg")
            rows.append(f"{name},{labels[label]},{patient},OS")
    # Of one person the first source has some scans, the second one of these and another one, under another id.
    patients = [scan.name.split("-")[1] for scan in sorted((first / "NORMAL").iterdir())]
    patient = max(patients, key=patients.count)
    shared, other, *_ = sorted((first / "NORMAL").glob(f"NORMAL-{patient}-*"))
    shutil.copyfile(shared, second / "NO" / "no_999_1.jpg")
    shutil.move(other, second / "NO" / "no_999_2.jpg")
    rows += ["no_999_1,NO,999,OD", "no_999_2,NO,999,OD"]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder, patient


@pytest.mark.slow
def test_one_person_in_two_sources_stays_in_one_split(two_sources, tmp_path):
    folder, patient = two_sources
    specs = [
        SourceSpec(folder / "first", "first"),
        SourceSpec(folder / "second", "second", table=folder / "labels.csv"),
    ]
    config = BuildConfig(classes="AMD=CNV+DRUSEN+AMD,DME,NORMAL=NORMAL+NO", split="by-patient", seed=1)
    result = build(specs, tmp_path / "shards", config, workers=1)
    assert result.manifest.class_names == ("AMD", "DME", "NORMAL")
    assert result.manifest.stated == ("source", "eye")
    splits = {
        record.patient: split for split in result.manifest.splits for record in read_records(tmp_path / "shards", split)
    }
    assert splits[f"first:{patient}"] == splits["second:999"]
    table = images_csv.decode((tmp_path / "shards" / "images.csv").read_bytes())
    assert {row.patient_group for row in table.scans if row.patient == "second:999"} == {f"first:{patient}"}
    first = next(read_records(tmp_path / "shards", "train"))
    assert first.source in ("first", "second") and first.eye in ("OS", "OD", "")
    checked = verify(tmp_path / "shards", workers=0)
    assert not checked.violations
    (tmp_path / "key").write_bytes(b"k" * 32)
    build(specs, tmp_path / "hidden", config, workers=1, pseudonyms=tmp_path / "key")
    assert not verify(tmp_path / "hidden", workers=0).violations
    ids = {row.patient.rpartition(":")[2] for row in table.scans}
    names = {"images.csv", "duplicates.json", "manifest.json"}
    published = b"".join((tmp_path / "hidden" / name).read_bytes() for name in names)
    assert not [patient for patient in ids if len(patient) > 4 and patient.encode() in published]
    again = build(specs, tmp_path / "shards", config, workers=1)
    assert not again.built and again.manifest.digest == result.manifest.digest


@pytest.mark.slow
def test_images_without_patients_are_built_as_asked_and_all_that_is_written_says_so(two_sources, tmp_path):
    from octprep import console

    src = tmp_path / "src"
    for scan in sorted((two_sources[0] / "first").rglob("*.jpeg"))[::2]:
        (src / scan.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(scan, src / scan.parent.name / f"{scan.parent.name}{len(list(src.rglob('*.jpeg')))}.jpeg")
    shards = tmp_path / "shards"
    result = build(src, shards, BuildConfig(patients="unknown"), workers=1)
    checked = verify(shards, workers=0)
    assert not checked.violations
    for text in (console.build_summary(shards, result), console.verification_summary(shards, checked),
                 console.certificate(checked), (shards / "report.html").read_text()):  # fmt: skip
        assert "atient ids are not known" in text


def test_a_stated_distance_of_rows_makes_bands_of_the_same_depth(two_sources, tmp_path):
    scan = min((two_sources[0] / "first" / "NORMAL").iterdir())
    for name in ("a.jpeg", "b.jpeg"):
        shutil.copyfile(scan, touch(tmp_path / "scans", name) / name)
    table = tmp_path / "labels.csv"
    table.write_text("path,class,patient,axial_um\na,NORMAL,1,\nb,NORMAL,1,7.74\n")
    files = list_source(SourceSpec(tmp_path / "scans", table=table)).scan_files
    recipe = Preprocessing(crop="band", band_rows=320)
    crops = [prepare_scan(tmp_path / "scans", file, recipe).measurements.crop for file in files]
    assert [bottom - top for top, bottom, *_ in crops] == [320, 160]
    table.write_text("path,class,patient,axial_um\na,NORMAL,1,400\nb,NORMAL,1,3.87\n")
    listing = list_source(SourceSpec(tmp_path / "scans", table=table))
    assert listing.exclusions[0].reason.startswith("axial_um is not a number of micrometres")
