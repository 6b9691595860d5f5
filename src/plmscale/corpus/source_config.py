"""Typed settings of a corpus source: where its files are, what they must be, how they are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from plmscale.files import fingerprint

Format = Literal["fasta", "parquet", "mmseqs", "tsv", "contigs"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileConfig(_Strict):
    path: str = Field(
        "",
        description="File, relative to the project or absolute; or give `url`.",
    )
    url: str = Field(
        "", description="http(s):// or file:// address to bring it from when `path` is empty."
    )
    mirrors: list[str] = Field(
        [], description="Other addresses of the same file, tried in order after `url`."
    )
    sha256: str = Field(
        "",
        description="Checksum of the file as brought in; what decides the content is pinned by it. "
        "For a `path` it may be left away: it is then computed.",
    )
    md5: str = Field("", description="The same, where a server publishes MD5 only.")
    size: int | None = Field(None, ge=0, description="Bytes of the file, where published.")

    @model_validator(mode="after")
    def _checks(self) -> FileConfig:
        for key, digits in (("sha256", 64), ("md5", 32)):
            value = getattr(self, key)
            if value and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
                raise ValueError(f"{key} must be {digits} lower-case hex digits ({key}sum FILE)")
        if self.path and self.url:
            raise ValueError("give either path or url")
        if self.mirrors and not self.url:
            raise ValueError("mirrors stand beside a url")
        return self

    @property
    def place(self) -> str:
        return self.url or self.path

    @property
    def identity(self) -> list[object]:
        """What decides the content: the checksum where there is one, else what is known."""
        if self.sha256 or self.md5:
            return [self.sha256 or f"md5:{self.md5}"]
        return [self.place, self.size]


class SourceConfig(FileConfig):
    path: str = Field(
        "",
        description="File, relative to the project or absolute; with * or ?, all files that fit, "
        "in sorted order; or give `url` or `files`.",
    )
    files: list[FileConfig] = Field(
        [], description="Many files, read in this order, each with path or url and its checksum."
    )
    metalink: str = Field(
        "",
        description="Address of the RELEASE.metalink that UniProt publishes beside `url`: gives "
        "release, size and MD5.",
    )
    unverified: bool = Field(
        False,
        description="The server publishes no checksum: take what comes and write its SHA-256 down.",
    )
    format: Literal["auto", "fasta", "parquet", "mmseqs", "tsv", "contigs"] = Field(
        "auto",
        description="auto: Parquet for names in .parquet or .pq, else FASTA; fasta, tsv and "
        "contigs may be plain, gzip, zstd or xz. mmseqs: an MMseqs2 database, its path that of its "
        "main file; tsv: lines of key and sequence, as in ColabFold's archives; contigs: "
        "nucleotides, in which pyrodigal finds genes.",
    )
    member: str = Field(
        "",
        description="Which file or database to read, where the file is a tar archive or holds "
        "several databases.",
    )
    column: str = Field("sequence", description="Parquet: column of the sequences.")
    id_column: str = Field("", description="Parquet: column of the names; empty: row numbers.")
    role: Literal["train", "held_out"] = Field(
        "train",
        description="held_out: nothing of it, and nothing near it, is trained on; it is the test "
        "set, binned by identity to what is.",
    )
    weight: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Share in the default mix (normalised over sources).",
    )
    sequences: int | None = Field(None, ge=1, description="As published, for plans.")
    residues: int | None = Field(None, ge=1, description="As published, for plans.")
    release: str = Field("", description="Release of the database, for the record.")
    licence: str = Field("", description="Licence, for the record.")
    citation: str = Field("", description="What to cite, for the record.")

    @field_validator("release", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        if isinstance(value, int | float):
            raise ValueError('write it in quotes, as "2025_04"; YAML reads 2025_04 as a number')
        return value

    @model_validator(mode="after")
    def _one_place(self) -> SourceConfig:
        given = [bool(self.path), bool(self.url), bool(self.files)]
        if sum(given) != 1:
            raise ValueError("give either path or url, or files")
        for file in self.files:
            if bool(file.path) == bool(file.url):
                raise ValueError("files: each has either path or url")
        if self.files and (self.sha256 or self.md5 or self.size is not None):
            raise ValueError("checksums and sizes stand with each of files")
        return self

    @model_validator(mode="after")
    def _content_is_known(self) -> SourceConfig:
        if self.metalink and not self.url:
            raise ValueError("metalink stands beside a url")
        if self.metalink and not self.release:
            raise ValueError("metalink needs release: the one it must be of, such as '2025_04'")
        for file in self.all_files():
            if is_pattern(file.path) and (file.sha256 or file.md5 or file.size is not None):
                raise ValueError(
                    f"{file.path}: a pattern has no checksum; those of its files are computed"
                )
            if file.url and not (file.sha256 or file.md5 or self.metalink or self.unverified):
                raise ValueError(
                    f"{file.url}: needs sha256, md5 or metalink; or unverified: true, where the "
                    "server publishes no checksum"
                )
        return self

    @model_validator(mode="after")
    def _keys_fit(self) -> SourceConfig:
        if self.role == "held_out" and self.weight != 1.0:
            raise ValueError("weight: nothing of a held-out source is trained on; leave it out")
        if self.member and self.reads_as == "parquet":
            raise ValueError("member: Parquet is not read from inside an archive; unpack it first")
        return self

    def all_files(self) -> list[FileConfig]:
        """Return the files of the source, one or many. A pattern is one until it is settled."""
        if self.files:
            return list(self.files)
        return [FileConfig(**{key: getattr(self, key) for key in FileConfig.model_fields})]

    @property
    def reads_as(self) -> Format:
        """The format, with auto decided by the names."""
        if self.format != "auto":
            return self.format
        names = [file.place.lower() for file in self.all_files()]
        return "parquet" if all(n.endswith((".parquet", ".pq")) for n in names) else "fasta"


def is_pattern(path: str) -> bool:
    """Return whether `path` stands for all files that fit it."""
    return "*" in path or "?" in path


def is_extracted(source: SourceConfig) -> bool:
    """Return whether the source is turned into FASTA before it is read, at the cost of its size.

    A table inside an archive is not: it is read as a stream.
    """
    inside = bool(source.member) and source.reads_as == "fasta"
    return inside or source.reads_as in ("mmseqs", "contigs")


def is_plain_fasta(source: SourceConfig) -> bool:
    """Return whether the fetched files are FASTA themselves, which other programs read, too."""
    return source.reads_as == "fasta" and not source.member


def identity(source: SourceConfig) -> list[object]:
    """Return what decides the content of a source: files and how they are read; no places."""
    files = [
        # Without a checksum of our own, the release stands for the content.
        [*file.identity, source.release if not (file.sha256 or file.md5) else ""]
        for file in source.all_files()
    ]
    reading = [source.reads_as, source.member, source.role]
    if source.reads_as == "parquet":
        reading += [source.column, source.id_column]
    return [files, reading]


def file_names(source: SourceConfig) -> list[str]:
    """Return names for the fetched files, functions of their identity: equal files share one."""
    names = []
    for file in source.all_files():
        known = file.sha256 or file.md5
        digest = known[:12] or fingerprint([*file.identity, source.release])[:12]
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(file.place).name.split(".")[0])[:40]
        names.append(f"{stem or 'file'}.{digest}")
    return names
