"""The command line: parse, call one function, print. Whatever takes long to import is imported inside the commands."""

from __future__ import annotations

from octprep.terminal import interrupts

if interrupts.is_program("octprep", __name__):
    interrupts.watch("octprep")  # before the imports that take a while

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from octprep import terminal
from octprep.format.config import Balance, Conflicts, Crop, Denoiser, Encoding, Fit, Strategy
from octprep.format.errors import OutputError, SettingError
from octprep.format.manifest import REPORT_NAME

if TYPE_CHECKING:
    from octprep.workers import Progress

app = typer.Typer(
    name="octprep",
    help="Retinal OCT B-scans in, leak-free class-balanced TFRecord shards out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Src = Annotated[
    Path,
    typer.Option(help="Folder of B-scans: CLASS/CLASS-patientID-number.jpeg, or that under train/, val/ and test/."),
]
FollowLinks = Annotated[
    bool,
    typer.Option("--follow-links", help="Take what is behind links in --src too; without it they are an error."),
]
Workers = Annotated[
    int | None, typer.Option(help="Processes to work with; by default one for each core.", show_default=False)
]


@app.command()
def build(
    src: Src,
    out: Annotated[Path, typer.Option(help="New folder for the shards, or one to go on with.")],
    split: Annotated[
        Strategy,
        typer.Option(
            help="auto: repaired if there is a test folder, else grouped. repaired: the test folder stays, none of its "
            "patients in training, val cut anew. official: the folders as they are. grouped: all patients dealt anew. "
            "kfold: test as in repaired, the rest in folds. file: as --splits says."
        ),
    ] = "auto",
    fractions: Annotated[
        str, typer.Option(metavar="TRAIN,VAL,TEST", help="Wanted shares of train, val and test.")
    ] = "0.8,0.1,0.1",
    folds: Annotated[int, typer.Option(help="Number of folds for --split kfold.")] = 5,
    splits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV with the columns split and path or patient, such as an earlier images.csv: who is where.",
            show_default=False,
        ),
    ] = None,
    near_duplicates: Annotated[
        Literal["on", "off"],
        typer.Option(help="on: scans under different ids that show the same pixels count as one patient's. off: not."),
    ] = "on",
    conflicts: Annotated[
        Conflicts,
        typer.Option(
            help="Copies of one scan under different classes: drop all, keep one of each class, or stop with an error."
        ),
    ] = "drop",
    max_per_patient: Annotated[
        int, typer.Option(help="Scans of a patient that training keeps at most, evenly spaced; 0: all.")
    ] = 0,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Build splits as given although patients are on two sides.")
    ] = False,
    balance: Annotated[
        Balance | None,
        typer.Option(help="Of the classes in train: oversample by default, none for folds.", show_default=False),
    ] = None,
    size: Annotated[
        str, typer.Option(metavar="SIDE|HxW", help="Stored image: side of a square, or HxW, in pixels.")
    ] = "224",
    denoise: Annotated[Denoiser, typer.Option(help="Applied after the crop; nlm is slow.")] = "median",
    strength: Annotated[
        float | None,
        typer.Option(
            help="Median's or lee's window (3, 5), bilateral's colour sigma (25), nlm's h (10), wavelet's factor (2).",
            show_default=False,
        ),
    ] = None,
    crop: Annotated[Crop, typer.Option(help="retina: the band around the retina; none: all of it.")] = "retina",
    flatten: Annotated[
        bool, typer.Option("--flatten", help="Straighten the retina along the pigment epithelium.")
    ] = False,
    field: Annotated[
        float, typer.Option(help="Degrees about the middle to cut wider scans to, such as 20; 0: all of the width.")
    ] = 0.0,
    fit: Annotated[Fit, typer.Option(help="stretch: fill the image; pad: keep the shape, bars of black.")] = "stretch",
    encoding: Annotated[Encoding, typer.Option(help="raw: fast to read; png: about half the size.")] = "raw",
    shard_mb: Annotated[float, typer.Option(help="Wanted size of a shard in MB.")] = 128.0,
    follow_links: FollowLinks = False,
    workers: Workers = None,
    seed: Annotated[int, typer.Option(help="Decides who goes to which split, and the order in the shards.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Build anew what was built here with other settings.")
    ] = False,
) -> None:
    """Turn a folder of B-scans into class-balanced shards in which no patient leaks from one split to another.

    The same command goes on with what an interrupted one left.
    """
    from octprep import console as console
    from octprep import pipeline
    from octprep.format.config import BuildConfig, Preprocessing
    from octprep.splits import split_file

    height, width = _parse_size(size)
    if splits is not None and split not in ("auto", "file"):
        raise SettingError(f"--splits {splits} says who is where, so --split {split} cannot too; give one of them")
    assigned = None if splits is None else split_file.load(splits)
    config = BuildConfig(
        recipe=Preprocessing(
            height=height,
            width=width,
            denoise=denoise,
            strength=strength,
            crop=crop,
            flatten=flatten,
            field=field,
            fit=fit,
        ),
        split="file" if assigned else split,
        fractions=_parse_fractions(fractions),
        folds=folds,
        splits_sha256=assigned.sha256 if assigned else "",
        near_duplicates=near_duplicates == "on",
        conflicts=conflicts,
        max_per_patient=max_per_patient,
        allow_leaks=allow_leaks,
        balance=balance or ("none" if split == "kfold" else "oversample"),
        encoding=encoding,
        shard_mb=shard_mb,
        seed=seed,
    )
    with _progress("img") as progress:
        built = pipeline.build(
            src,
            out,
            config,
            split_file=assigned,
            workers=workers,
            overwrite=overwrite,
            follow_links=follow_links,
            progress=progress,
        )
    if not built.built:
        what = f"only {REPORT_NAME} was missing and was written anew" if built.report_written else "nothing was done"
        _say(f"{out} is finished already, from this source and with these settings; {what}.")
    _say(console.built(out, built.manifest, fresh=built.built))


@app.command()
def scan(
    src: Src,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything found to this file as well.", show_default=False)
    ] = None,
    follow_links: FollowLinks = False,
    workers: Workers = None,
) -> None:
    """Say what is in a folder of B-scans: counts, sizes, what is unusable and why, patients on two sides of a split."""
    from octprep import console as console
    from octprep.format import outputs
    from octprep.inspection import inspect

    if json_file is not None:
        outputs.check(src, "--json", json_file)
    with _progress("img") as progress:
        keep_out = [] if json_file is None else [json_file]
        found = inspect(
            src, quick=True, follow_links=follow_links, keep_out=keep_out, workers=workers, progress=progress
        )
    if json_file is not None:
        outputs.write("--json", json_file, found.to_json())
    _say(console.surveyed(src, found))


@app.command()
def audit(
    src: Src,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write everything to this page as well, with pictures.", show_default=False),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write everything found to this file as well.", show_default=False),
    ] = None,
    follow_links: FollowLinks = False,
    workers: Workers = None,
    seed: Annotated[int, typer.Option(help="Draws the pairs that are measured and the shortcut test's folds.")] = 0,
) -> None:
    """Say what is wrong with a folder of B-scans as it is: leaks, label conflicts, numbers that give the class away."""
    from octprep import console as console
    from octprep.format import outputs
    from octprep.inspection import inspect, page

    targets = {option: path for option, path in (("--report", report), ("--json", json_file)) if path is not None}
    for option, path in targets.items():
        outputs.check(src, option, path)
    if len({path.resolve() for path in targets.values()}) < len(targets):
        raise SettingError(f"--report and --json both name {report}; give each a file of its own.")
    with _progress("img") as progress:
        found = inspect(
            src,
            follow_links=follow_links,
            keep_out=list(targets.values()),
            workers=workers,
            seed=seed,
            progress=progress,
        )
    for option, path in targets.items():
        outputs.write(option, path, page.render(src, found) if option == "--report" else found.to_json())
    _say(console.audited(src, found))
    for path in targets.values():
        _say(f"wrote {path}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that octprep build has written.")],
    workers: Workers = None,
) -> None:
    """Re-read every record and prove the laws; exit code 1 if one is broken."""
    from octprep import console as console
    from octprep.verification import verify as prove

    with _progress("rec") as progress:
        verdict = prove(folder, workers=workers, progress=progress)
    _say(console.verified(folder, verdict))
    if verdict.violations:
        raise typer.Exit(1)


@app.command()
def certify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that octprep build has written.")],
    workers: Workers = None,
) -> None:
    """Prove the laws from the shards alone, and print one line for a paper; exit code 1 if a law is broken."""
    from octprep import console as console
    from octprep.verification import verify as prove

    with _progress("rec") as progress:
        verdict = prove(folder, workers=workers, progress=progress)
    if verdict.violations:
        _say(console.verified(folder, verdict))
        raise typer.Exit(1)
    _say(console.certificate(verdict))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that octprep build has written.")],
    src: Annotated[
        Path | None,
        typer.Option(help="What it was built from; without it, only stored pixels are shown.", show_default=False),
    ] = None,
    without_source: Annotated[
        bool, typer.Option("--without-source", help="Replace a page that shows the source by one that does not.")
    ] = False,
) -> None:
    """Write DIR/report.html anew: the verdict, counts, pictures and worst cases on one page.

    The exit code is 1 if images.csv or duplicates.json could not be read; the page then says so.
    """
    from octprep.report import write

    if src is not None and without_source:
        raise SettingError(f"--src {src} and --without-source exclude each other; give one of them.")
    written = write(folder, src, without_source=without_source)
    _say(f"wrote {written.path} ({written.bytes / 1e6:.1f} MB)")
    if written.strange:
        _say(
            f"octprep: {written.strange:,} of the {written.sources:,} source files to show are not in {src}, or are "
            f"not those that {folder} was built from; the page says so in their places.",
            err=True,
        )
    for what in written.lost:
        typer.echo(
            f"octprep: {what}, so the page holds nothing from it. `octprep verify {folder}` says what is left; copy "
            "the file again, or rebuild the folder.",
            err=True,
        )
    if written.lost:
        raise typer.Exit(1)


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the synthetic B-scans.")],
    patients: Annotated[int, typer.Option(help="How many patients to draw.")] = 150,
    seed: Annotated[int, typer.Option(help="Another seed draws other patients.")] = 0,
    faults: Annotated[
        bool, typer.Option("--faults/--no-faults", help="With the real archive's faults, or a clean folder.")
    ] = True,
    truth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write where layers and fill truly are: one JSON object a scan.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Draw an OCT2017-shaped folder of synthetic B-scans."""
    from octprep.synthetic import draw

    with _progress("img") as progress:
        drawn = draw(
            out,
            patients=patients,
            seed=seed,
            faults=faults,
            truth=truth,
            workers=workers,
            progress=_counting("drawing phantoms", progress),
        )
    _say(f"{out}: {drawn.images:,} B-scans of {drawn.patients:,} synthetic patients")
    for kind, number in drawn.faults.items():
        _say(f"  {number:>3}  {kind}")
    _say(f"next: octprep build --src {shlex.quote(str(out))} --out DIR")


def main() -> None:
    """The program `octprep`: an error that the user can fix ends it with one sentence and an exit code."""
    interrupts.advise(f"run the same command {'to resume' if 'build' in sys.argv[1:2] else 'again'}")
    terminal.run_program("octprep", app, memory_advice="close other programs, or use fewer --workers, and try again")


def _say(text: str, *, err: bool = False) -> None:
    """A result on standard output; where nobody reads on, as with `| head`, the work is no less done."""
    try:
        typer.echo(text, err=err)
    except BrokenPipeError:
        terminal.discard_stdout()
    except OSError as error:
        terminal.discard_stdout()
        raise OutputError(f"standard output cannot be written: {error.strerror or error}.") from None


def _parse_size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdecimal() for part in parts):
        raise SettingError(
            f"--size must be a side such as 224, or HEIGHTxWIDTH such as 224x448, in pixels; got {text!r}"
        )
    return int(parts[0]), int(parts[-1])


def _parse_fractions(text: str) -> tuple[float, float, float]:
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise SettingError(
            f"--fractions must be three numbers for train, val and test such as 0.8,0.1,0.1; got {text!r}"
        ) from None
    return train, val, test


@contextmanager
def _progress(unit: str) -> Iterator[Progress]:
    """A bar on standard error for each stage, with the rate and the time left; quiet when that is not a terminal."""
    from tqdm import tqdm

    bars: dict[str, tqdm[NoReturn]] = {}

    def advance(what: str, done: int, total: int) -> None:
        if what not in bars:
            for bar in bars.values():
                bar.close()
            bars[what] = tqdm(total=total, desc=what, unit=unit, disable=None, smoothing=0.05)
        bars[what].update(done)

    try:
        yield advance
    finally:
        for bar in bars.values():
            bar.close()


def _counting(what: str, progress: Progress) -> Callable[[int, int], None]:
    """For work that tells how much is done in all."""
    before = 0

    def tell(done: int, total: int) -> None:
        nonlocal before
        progress(what, done - before, total)
        before = done

    return tell


if __name__ == "__main__":
    main()
