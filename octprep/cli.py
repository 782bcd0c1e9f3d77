"""The command line: parse, call one function, print. Whatever takes long to import is imported inside the commands."""

from __future__ import annotations

from octprep.terminal import interrupts

if interrupts.is_program("octprep", __name__):
    interrupts.watch("octprep")  # before the imports that take a while

import gc
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from octprep import terminal
from octprep.cluster import WAIT
from octprep.format.config import BuildConfig, Patients, Preprocessing
from octprep.format.errors import SettingError
from octprep.format.files import STDOUT
from octprep.format.options import make
from octprep.source.options import SourceSpec, parse_sources, source_of
from octprep.storage.remote import Location, location, places
from octprep.terminal.commands import Json, command, version_option

app = typer.Typer(
    name="octprep",
    help="Retinal OCT B-scans in, leak-free class-balanced TFRecord shards out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Src = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]DIR|URL",
        help="Folder or URL of B-scans: CLASS/CLASS-patientID-number.jpeg, or that under train/, val/ and test/, or "
        "another layout (--table, --pattern). Give it again for further sources, each with a name.",
        show_default=False,
    ),
]


def _of_source(value: str, text: str, *names: str) -> Any:
    """An option that may be given for each of several sources."""
    return typer.Option(*names, metavar=f"[NAME=]{value}", help=text, show_default=False, rich_help_panel="Source")


Table = Annotated[
    list[str] | None,
    _of_source("FILE", "CSV, TSV or Excel file that says which class, patient, eye and split each file is of."),
]
Columns = Annotated[
    list[str] | None,
    _of_source(
        "path=COLUMN,...",
        "Columns of --table that are not found by their usual names: of path, class, patient, eye, volume, number, "
        "split, axial_um.",
    ),
]
UnknownCells = Annotated[
    list[str] | None,
    _of_source(
        "TEXT,...",
        "Cells of --table that say nothing, such as 0, besides empty ones, unknown, none and NaN.",
        "--unknown",
    ),
]
Pattern = Annotated[
    list[str] | None,
    _of_source(
        "PATTERN",
        "How the paths are read: a preset such as octdl or srinivasan (docs/sources.md lists them), "
        "'{split}/{class}/{patient}_{number}.{ext}', or a regular expression with such groups.",
    ),
]
SrcArgument = Annotated[Path | None, typer.Argument(metavar="[SRC]", help="The same as --src.", show_default=False)]
FolderOrUrl = Annotated[Path, typer.Argument(metavar="DIR|URL", help="What octprep build has written.")]
FollowLinks = Annotated[
    bool, typer.Option("--follow-links", help="Read what links in --src point to; without it a link is an error.")
]
Workers = Annotated[
    int | None, typer.Option(help="Processes; by default one for each core; 0: this one alone.", show_default=False)
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|FILE",
        help="Use the workers of this Dask cluster: its scheduler's address, tcp://HOST:PORT, or scheduler file.",
        show_default=False,
    ),
]
ClusterWait = Annotated[
    float, typer.Option(metavar="SECONDS", help="How long to wait while the Dask cluster has no worker.")
]


@app.callback()
def program(
    version: version_option("octprep") = False,  # type: ignore[valid-type]
) -> None:
    """Retinal OCT B-scans in, leak-free class-balanced TFRecord shards out."""


@command(
    app,
    "octprep build OCT2017 shards --denoise bilateral",
    Preprocessing,
    BuildConfig,
    urls=("paths", "src", "out"),
)
def build(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SRC] [OUT]", help="The same as --src and --out.", show_default=False),
    ] = None,
    src: Src = None,
    table: Table = None,
    columns: Columns = None,
    unknown: UnknownCells = None,
    pattern: Pattern = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New folder or URL for the shards, or an interrupted build to resume.", show_default=False),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder to build in if --out is a URL; it is kept. By default one in the user's cache, removed "
            "when all is uploaded.",
            show_default=False,
        ),
    ] = None,
    split_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV that assigns a split to each path or patient: columns split and path or patient, as an earlier "
            "images.csv has.",
            show_default=False,
            rich_help_panel="Splits",
        ),
    ] = None,
    pseudonyms: Annotated[
        Path | None,
        typer.Option(
            metavar="KEYFILE",
            help="Replace patient ids by keyed hashes in all that is written. A file of 32 random bytes or more, which "
            "you keep: the same key gives the same pseudonyms.",
            show_default=False,
        ),
    ] = None,
    follow_links: FollowLinks = False,
    workers: Workers = None,
    cluster: Cluster = None,
    cluster_wait: ClusterWait = WAIT,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what was built here with other settings.")
    ] = False,
    **values: Any,
) -> None:
    """Turn a folder of B-scans into class-balanced shards in which no patient is in two splits.

    Rerun the same command to resume an interrupted build.
    """
    from octprep import console, pipeline
    from octprep.splits import split_file as split_files

    left = list(paths or [])
    given = list(src or ()) or [str(location(path)) for path in left[:1]]
    left = left if src else left[1:]
    if out is None and left:
        out = left.pop(0)
    if left:
        raise SettingError(f"{location(left[0])} is one folder too many; give --src and --out once each.")
    sources, target = _sources(given, table, columns, unknown, pattern), _place("--out", out)
    if split_file is not None:
        if values["split"] not in ("auto", "file"):
            raise SettingError(
                f"--split-file {split_file} assigns the splits, so --split {values['split']} cannot; give one of them."
            )
        values["split"] = "file"
    assignment = None if split_file is None else split_files.load(split_file)
    config = make(
        BuildConfig,
        values,
        recipe=make(Preprocessing, values),
        split_file_sha256=assignment.sha256 if assignment else "",
    )
    with console.progress_bars("img") as progress:
        result = pipeline.build(
            sources,
            target,
            config,
            work=work,
            split_file=assignment,
            workers=workers,
            cluster=cluster,
            cluster_wait=cluster_wait,
            overwrite=overwrite,
            follow_links=follow_links,
            pseudonyms=pseudonyms,
            progress=progress,
        )
    console.say(console.build_summary(target, result))
    if warning := console.build_warning(result):
        console.warn(warning)


@command(app, "octprep inspect OCT2017 --report inspection.html", urls=("path", "src"))
def inspect(
    path: SrcArgument = None,
    src: Src = None,
    table: Table = None,
    columns: Columns = None,
    unknown: UnknownCells = None,
    pattern: Pattern = None,
    patients: Annotated[
        Patients,
        typer.Option(help="As for octprep build, but images without an id are taken.", rich_help_panel="Source"),
    ] = "auto",
    classes: Annotated[str, typer.Option(help="As for octprep build.", rich_help_panel="Source")] = "",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Only decode the scans: counts, sizes, exclusions, flags, leaks and exact duplicates, without "
            "preprocessing.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the results to this page, with pictures.", show_default=False),
    ] = None,
    json_file: Json = None,
    follow_links: FollowLinks = False,
    workers: Workers = None,
    cluster: Cluster = None,
    cluster_wait: ClusterWait = WAIT,
    seed: Annotated[int, typer.Option(help="Samples the pairs to measure and the folds of the shortcut test.")] = 0,
) -> None:
    """Check a dataset for patient leakage, label conflicts, near-duplicates and shortcut features."""
    from octprep import console, inspection
    from octprep.format.files import check_output_file, write_output_file
    from octprep.inspection import page

    if path is not None and src:
        raise SettingError(f"{location(path)} is one folder too many; give --src for each source.")
    given = list(src or ()) or ([] if path is None else [str(location(path))])
    specs = _sources(given, table, columns, unknown, pattern)
    source = source_of(specs)
    if quick and report is not None:
        raise SettingError(f"--report {report} needs a full inspection, which --quick is not; give one of them.")
    targets = {"--report": report, "--json": None if json_file == STDOUT else json_file}
    files = [file for file in targets.values() if file is not None]
    for option, file in targets.items():
        if file is not None:
            for place in places(source):
                check_output_file(place if isinstance(place, Path) else None, option, file)
    if len({file.resolve() for file in files}) < len(files):
        raise SettingError(f"--report and --json both name {report}; give each a file of its own.")
    with console.progress_bars("img") as progress:
        result = inspection.inspect(
            specs,
            patients=patients,
            classes=classes,
            quick=quick,
            follow_links=follow_links,
            keep_out=files,
            workers=workers,
            cluster=cluster,
            cluster_wait=cluster_wait,
            seed=seed,
            progress=progress,
        )
    if report is not None:
        write_output_file("--report", report, page.render(source, result))
    lines = [console.inspection_summary(source, result), *(f"wrote {console.shown_path(file)}" for file in files)]
    then = console.build_command(specs, result, patients=patients, classes=classes, follow_links=follow_links)
    lines.append(f"next: {then}")
    console.say("\n".join(lines), json_file=json_file, json=result.to_json)


@command(app, "octprep verify shards --certificate certificate.txt", urls=("folder",))
def verify(
    folder: FolderOrUrl,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one line for a paper to this file, if all guarantees hold; - is stdout.",
            show_default=False,
        ),
    ] = None,
    json_file: Json = None,
    workers: Workers = None,
    cluster: Cluster = None,
    cluster_wait: ClusterWait = WAIT,
) -> None:
    """Read every record again and check every guarantee; the exit code is 1 if one is violated."""
    from octprep import console, verification
    from octprep.format.files import write_output_file

    if certificate == json_file == STDOUT:
        raise SettingError("--certificate - and --json - both ask for standard output; give one of them a file.")
    place = location(folder)
    with console.progress_bars("rec") as progress:
        result = verification.verify(
            place, workers=workers, cluster=cluster, cluster_wait=cluster_wait, progress=progress
        )
    failed = bool(result.violations)
    lines = [console.verification_summary(place, result)]
    if not failed:
        if certificate == STDOUT:
            lines = [console.certificate(result)]
        else:
            if certificate is not None:
                write_output_file("--certificate", certificate, f"{console.certificate(result)}\n".encode())
                lines.append(f"wrote {console.shown_path(certificate)}")
            lines.append(f"next: {console.next_of_octtrain(place, result.manifest)}")
    always = failed or certificate == STDOUT
    console.say("\n".join(lines), always=always, json_file=json_file, json=result.to_json)
    if failed:
        if certificate is not None:
            console.warn(
                f"no certificate was written to {console.shown_path(certificate)}, as not all guarantees hold."
            )
        raise typer.Exit(1)


@command(app, "octprep index shards", urls=("folder",))
def index(folder: FolderOrUrl) -> None:
    """Write DIR/index again: where each record and its image begin, for readers that take records by number."""
    from octprep import console
    from octprep.format.record_index import INDEX_NAME
    from octprep.shards.indexing import index_folder
    from octprep.shards.remote_index import index_url
    from octprep.wording import number

    place = location(folder)
    files = index_folder(place) if isinstance(place, Path) else index_url(place)
    records = sum(content.count(b"\n") for name, content in files.items() if name.endswith(".idx"))
    written = f"wrote {console.shown_path(place / INDEX_NAME)} ({number(records, 'record')})"
    console.say(f"{written}\nnext: octtrain fit {console.quoted(place)}")


@command(app, "octprep export shards --to webdataset --out tars", urls=("folder",))
def export(
    folder: FolderOrUrl,
    to: Annotated[
        Literal["webdataset", "parquet"],
        typer.Option(help="webdataset: tar files; parquet: as Hugging Face's datasets reads images and classes."),
    ],
    out: Annotated[Path, typer.Option(help="New or empty folder for the files.")],
    repeats: Annotated[
        bool,
        typer.Option("--repeats", help="Write images that were repeated to balance the classes as often as stored."),
    ] = False,
    json_file: Json = None,
    workers: Workers = None,
) -> None:
    """Write the images, with labels and patient ids, in a format of other libraries: each image once, as a PNG."""
    from octprep import console, interchange

    with console.progress_bars("rec") as progress:
        result = interchange.export(location(folder), out, to, repeats=repeats, workers=workers, progress=progress)
    console.say(console.export_summary(out, result), json_file=json_file, json=result.to_json)


@command(app, "octprep report shards --src OCT2017", urls=("folder", "src"))
def report(
    folder: FolderOrUrl,
    src: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR|URL",
            help="Folder that it was built from, or each of several; without it, only stored pixels are shown.",
            show_default=False,
        ),
    ] = None,
    without_source: Annotated[
        bool, typer.Option("--without-source", help="Replace a page that shows source files by one that does not.")
    ] = False,
) -> None:
    """Write DIR/report.html again: checks, counts, pictures and worst cases on one page.

    The exit code is 1 if images.csv or duplicates.json could not be read; the page then says so.
    """
    from octprep import console
    from octprep.report import write_report

    if src and without_source:
        raise SettingError(f"--src {src[0]} and --without-source exclude each other; give one of them.")
    source, place = source_of(parse_sources(src)) if src else None, location(folder)
    written = write_report(place, source, without_source=without_source)
    console.say(f"wrote {console.shown_path(written.path)} ({written.bytes / 1e6:.1f} MB)\nnext: open it in a browser")
    if written.mismatched:
        console.warn(
            f"{written.mismatched:,} of the {written.sources:,} source files to show are not in {source}, or are "
            f"not those that {place} was built from; the page says so in their places."
        )
    for problem in written.missing:
        console.warn(
            f"{problem}, so the page holds nothing from it. `octprep verify {place}` says what is left; copy "
            "the file again, or rebuild the folder."
        )
    if written.missing:
        raise typer.Exit(1)


@command(app, "octprep synthesize scans --patients 150")
def synthesize(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the synthetic B-scans.")],
    patients: Annotated[int, typer.Option(help="How many patients to draw.")] = 150,
    seed: Annotated[int, typer.Option(help="Another seed draws other patients.")] = 0,
    faults: Annotated[
        bool, typer.Option("--faults/--no-faults", help="With the real archive's faults, or a clean folder.")
    ] = True,
    difficulty: Annotated[
        Literal["easy", "default", "hard"],
        typer.Option(help="easy: severe disease, clear scans; hard: subtle disease, healthy eyes that resemble it."),
    ] = "default",
    class_mix: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS=SHARE,...",
            help="Share of each class among the patients, in proportion; by default about that of the archive. val and "
            "test hold as many scans of each.",
            show_default=False,
        ),
    ] = None,
    max_scans: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Training scans of one patient, at most; by default as in the archive, with a median of five. "
            "A network learns more from few scans of many patients.",
            show_default=False,
        ),
    ] = None,
    fill_rate: Annotated[
        float, typer.Option(metavar="FACTOR", help="On how many scans have fill: 1 is 45 %, 0 none, at most 2.")
    ] = 1.0,
    label_noise: Annotated[
        float,
        typer.Option(
            metavar="FRACTION",
            help="Put this fraction of the training scans, at most 0.5, under another class's folder and name; --truth "
            "has their true label.",
        ),
    ] = 0.0,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write where layers, fill and lesions truly are: one JSON object for each scan."
        ),
    ] = None,
    workers: Workers = None,
) -> None:
    """Draw a folder of synthetic B-scans in the layout of OCT2017."""
    from octprep import console
    from octprep.synthetic import draw
    from octprep.synthetic.dataset import parse_class_mix

    mix = {} if class_mix is None else {"class_mix": parse_class_mix(class_mix)}
    with console.progress_bars("img") as progress:
        drawn = draw(
            out,
            patients=patients,
            seed=seed,
            faults=faults,
            difficulty=difficulty,
            max_scans=max_scans,
            fill_rate=fill_rate,
            label_noise=label_noise,
            **mix,
            truth=truth,
            workers=workers,
            progress=progress,
        )
    lines = [f"{console.shown_path(out)}: {drawn.images:,} B-scans of {drawn.patients:,} synthetic patients"]
    lines += [f"  {number:>3}  {kind}" for kind, number in drawn.faults.items()]
    lines.append(f"next: octprep build --src {console.quoted(out)} --out shards")
    console.say("\n".join(lines))


def _sources(
    given: list[str],
    tables: list[str] | None,
    columns: list[str] | None,
    unknown: list[str] | None,
    patterns: list[str] | None,
) -> list[SourceSpec]:
    """The sources of a command line."""
    if not given:
        raise SettingError(f"--src is missing: name a folder, such as --src {_EXAMPLES['--src']}.")
    return parse_sources(given, tables or (), columns or (), unknown or (), patterns or ())


def _place(option: str, path: Path | None) -> Location:
    if path is None:
        raise SettingError(f"{option} is missing: name a folder, such as {option} {_EXAMPLES[option]}.")
    return location(path)


_EXAMPLES = {"--src": "OCT2017", "--out": "shards"}


_RENAMED = {  # commands of version 0.1.0
    "scan": "octprep inspect --quick",
    "audit": "octprep inspect",
    "phantom": "octprep synthesize",
    "certify": "octprep verify DIR --certificate -",
}


def run_command() -> None:
    """Run the command on the command line; a command of an earlier version is answered by its new name."""
    given = "".join(sys.argv[1:2])
    if given in _RENAMED:
        raise SettingError(f"octprep {given} is now `{_RENAMED[given]}`; `octprep --help` lists all commands.")
    app()


def main() -> None:
    """The program `octprep`: an error that the user can fix ends it with one sentence and an exit code."""
    # Millions of objects are made and kept, and hardly any in cycles: looking for these took a tenth of a build's time.
    gc.set_threshold(100_000)
    interrupts.advise(f"run the same command {'to resume' if 'build' in sys.argv[1:2] else 'again'}")
    terminal.run_program(
        "octprep", run_command, memory_advice="close other programs, or use fewer --workers, and try again"
    )


if __name__ == "__main__":
    main()
