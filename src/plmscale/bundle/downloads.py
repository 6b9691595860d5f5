"""What a study has downloaded already, for a bundle to take along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from plmscale.corpus.source_config import FileConfig, file_names
from plmscale.errors import PlmscaleError
from plmscale.files import read_json, sha256_file
from plmscale.paper.fetch import read_checksums
from plmscale.study import Study


def downloads(study: Study, project: Path) -> Iterator[Path]:
    """Yield the downloaded files of a study, relative to the checkout `project`, each verified.

    They lie where the workflow looks for them, so that it finds them there in another checkout.
    Raises PlmscaleError for a file that is not there yet or has another checksum, and where
    results lie outside the checkout.
    """
    if Path(study.results).is_absolute() or ".." in Path(study.results).parts:
        raise PlmscaleError(
            f"results: {study.results} lies outside the checkout, so a bundle cannot hold it; copy "
            f"{study.results}/corpora/files by hand"
        )
    found = _logs(study, project) if study.logs else _corpus(study, project)
    for name, expected in found:
        if not (project / name).is_file():
            rules = "fetch_logs points" if study.logs else "fetch_file"
            raise PlmscaleError(
                f"{name}: not downloaded yet; `snakemake --until {rules} --configfile STUDY`, then again"
            )
        if expected and (actual := sha256_file(project / name)) != expected:
            raise PlmscaleError(
                f"{name}: has SHA-256 {actual}, expected {expected}; remove it and download it again"
            )
        yield name


def _corpus(study: Study, project: Path) -> Iterator[tuple[Path, str]]:
    folder = Path(study.results) / "corpora" / "files"
    for source in study.corpus.sources.values():
        for file, name in zip(source.all_files(), file_names(source), strict=True):
            yield folder / name, _checksum(file, project / folder / f"{name}.json")
            yield folder / f"{name}.json", ""


def _checksum(file: FileConfig, record: Path) -> str:
    """Return the SHA-256 of a file: what the study gives, else what its download wrote down."""
    return file.sha256 or (read_json(record)["sha256"] if record.is_file() else "")


def _logs(study: Study, project: Path) -> Iterator[tuple[Path, str]]:
    assert study.logs
    if study.logs.path:
        raise PlmscaleError(f"logs.path: {study.logs.path} is a folder of yours; copy it by hand")
    folder = Path(study.folder) / "logs_released"
    for name, expected in sorted(read_checksums(project / study.logs.checksums).items()):
        yield folder / name, expected
    yield Path(study.folder) / "isoflop_points.csv", study.logs.points_sha256
