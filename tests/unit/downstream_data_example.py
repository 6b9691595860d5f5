"""Made-up sources of downstream tasks in the forms of the real ones, small and full."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from plmscale.downstream import registry

SHARED = Path(os.environ.get("PLMSCALE_SHARED") or Path(__file__).parents[2].parent / "shared")
SMALL = SHARED / "downstream"
STANDARD = "ACDEFGHIKLMNPQRSTVWY"


def resources(folder: Path, task: str, source: str, places: Path | None = None, **changes) -> Path:
    """Write the registry's file of a task for made-up data: same forms, other rows, no checksums.

    Files that were downloaded come from `places` instead, under the names they have in the data's
    folder.
    """
    entry = yaml.safe_load((registry.RESOURCES / f"{task}.yaml").read_text())
    chosen = entry["sources"][source]
    for file in chosen["files"].values():
        file.pop("sha256", None)
        file.pop("size", None)
        if file.get("places") and places:
            file["places"] = [(places / file["path"]).as_uri()]
    chosen.update(changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{task}.yaml").write_text(yaml.safe_dump(entry))
    return folder


def read(tmp_path, task, source, **changes):
    """Read the made-up source in tmp_path/source, as if for the first time."""
    for lock in (tmp_path / source).glob("*.lock.json"):
        lock.unlink()
    registry_folder = resources(tmp_path / f"registry-{source}", task, source, **changes)
    return registry.data(task, source, tmp_path / source, resources=registry_folder)


def records(data):
    """Everything of the examples but what they are called, in an order of its own."""
    rows = [
        (
            e.split,
            e.group,
            e.sequence,
            np.asarray(e.target).tolist(),
            {k: np.asarray(v).tolist() for k, v in e.extra.items()},
        )
        for e in data.examples
    ]
    return sorted(rows, key=repr)


def write_parquet(path: Path, columns: dict[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_gzip(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def write_zip(path: Path, members: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in members.items():
            bundle.writestr(name, text)


def protein(rng: np.random.Generator, length: int) -> str:
    return "".join(rng.choice(list(STANDARD), length))


# Fold: (split in the table of domains, name, fold, sequence).
FOLDS = {"a.1": 0, "a.2": 1, "b.1": 2, "g.94": 3}


def domains(n: int = 30) -> list[tuple[str, str, str, str]]:
    rng = np.random.default_rng(1)
    splits = ["training"] * (n - 10) + ["validation"] * 3
    splits += ["test_fold"] * 2 + ["test_superfamily"] * 3 + ["test_family"] * 2
    folds = [list(FOLDS)[i % 3] for i in range(n - 1)] + ["g.94"]
    return [
        (split, f"d{i}", fold, protein(rng, 30 + i))
        for i, (split, fold) in enumerate(zip(splits, folds, strict=True))
    ]


def small_fold(folder: Path, rows: list[tuple[str, str, str, str]]) -> None:
    lines = ["split\tsid\tfold\tlabel\tsequence"]
    lines += [f"{s}\t{n}\t{f}\t{FOLDS.get(f, 9)}\t{seq}" for s, n, f, seq in rows]
    write_gzip(folder / "fold/tape_remote_homology_subset.tsv.gz", "\n".join(lines) + "\n")
    write_classes(folder)


def write_classes(folder: Path) -> None:
    (folder / "fold").mkdir(parents=True, exist_ok=True)
    text = "\n".join(f"{fold}\t{label}" for fold, label in FOLDS.items())
    (folder / "fold/class_map.txt").write_text(text)


def full_fold(folder: Path, rows: list[tuple[str, str, str, str]]) -> None:
    for split, names in (
        ("train", ["training"]),
        ("valid", ["validation"]),
        ("test", ["test_fold", "test_superfamily", "test_family"]),
    ):
        own = [row for name in names for row in rows if row[0] == name]
        columns = {"seq": [row[3] for row in own], "label": [FOLDS[row[2]] for row in own]}
        write_parquet(folder / f"fold/{split}-00000-of-00001.parquet", columns)
    write_classes(folder)
    for level in ("fold", "superfamily", "family"):
        lines = [f"{n}\t{len(seq)}\t{f}\t{f}" for s, n, f, seq in rows if s == f"test_{level}"]
        (folder / f"fold/test_{level}.txt").write_text("\n".join(lines))


def fold_rows(rows: list[tuple[str, str, str, str]], source: str) -> dict[str, int]:
    def count(name: str) -> int:
        return sum(row[0] == name for row in rows)

    counts = {"train": count("training"), "valid": count("validation")}
    levels = {level: count(f"test_{level}") for level in ("fold", "superfamily", "family")}
    return counts | (levels if source == "small" else {"test": sum(levels.values())})


# Contacts: chains with C-alpha places in angstrom, NaN where not resolved.
def chains(n: int = 12) -> list[tuple[str, str, np.ndarray]]:
    rng = np.random.default_rng(2)
    made = []
    for i in range(n):
        steps = rng.normal(size=(40 + i, 3))
        places = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0)
        places[: i % 3] = np.nan
        made.append((f"{i}ABC_A", protein(rng, len(places)), places))
    return made


def small_contacts(
    folder: Path, made: list[tuple[str, str, np.ndarray]], scale: float = 10
) -> None:
    (folder / "contacts").mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "contacts/mmtf_ca_534chains.npz",
        ids=np.array([name for name, _, _ in made]),
        seqs=np.array([sequence for _, sequence, _ in made]),
        lens=np.array([len(sequence) for _, sequence, _ in made]),
        xyz=np.concatenate([scale * places for _, _, places in made]).astype(np.float32),
    )


def full_contacts(
    folder: Path, made: list[tuple[str, str, np.ndarray]], splits: dict[str, str]
) -> None:
    """Pairs as the authors': with the diagonal and neighbours, i <= j."""
    for split in ("train", "valid", "test"):
        own = [chain for chain in made if splits[chain[0]] == split]
        pairs = [
            [
                [i, j]
                for i in range(len(places))
                for j in range(i, len(places))
                if np.linalg.norm(places[i] - places[j]) < 8
            ]
            for _, _, places in own
        ]
        columns = {"seq": [sequence for _, sequence, _ in own], "label": pairs}
        write_parquet(folder / f"contacts/{split}-00000-of-00001.parquet", columns)


def write_splits(folder: Path, splits: dict[str, str]) -> None:
    lines = [f"{name}\t{split}" for name, split in splits.items()]
    (folder / "contacts-small.tsv").write_text("\n".join(["id\tsplit", *lines]) + "\n")


# Fitness: assay -> (target sequence, variants as in ProteinGym's files).
def assays() -> dict[str, tuple[str, list[tuple[str, str, float, int]]]]:
    rng = np.random.default_rng(3)
    made = {}
    for name, n in (("B2L11_HUMAN_Dutta_2010_binding-Mcl-1", 6), ("BLAT_ECOLX_Stiffler_2015", 9)):
        target = protein(rng, 50)
        variants = []
        for place in rng.choice(50, n, replace=False):
            new = "A" if target[place] != "A" else "C"
            score = round(float(rng.normal()), 6)
            sequence = target[:place] + new + target[place + 1 :]
            variants.append((f"{target[place]}{place + 1}{new}", sequence, score, int(score > 0)))
        made[name] = (target, variants)
    return made


def reference(made: dict[str, tuple[str, list]]) -> str:
    lines = [
        "DMS_id,UniProt_ID,target_seq,DMS_total_number_mutants,DMS_binarization_cutoff,title,"
        "coarse_selection_type"
    ]
    lines += [
        f'{name},{name.rsplit("_", 2)[0]},{target},{len(variants)},0.0,"A, title",Binding'
        for name, (target, variants) in made.items()
    ]
    return "\n".join(lines) + "\n"


def assay_csv(variants: list[tuple[str, str, float, int]]) -> str:
    rows = ["mutant,mutated_sequence,DMS_score,DMS_score_bin"]
    rows += [",".join(map(str, variant)) for variant in variants]
    return "\n".join(rows) + "\n"


def small_fitness(folder: Path, made: dict[str, tuple[str, list]]) -> None:
    write_gzip(folder / "dms/DMS_substitutions_reference.csv.gz", reference(made))
    first, second = made
    (folder / f"dms/{first}.csv").write_text(assay_csv(made[first][1]))
    lines = ["index,mutant,0,2500"]
    lines += [f"{i},{v[0]},0.5,{v[2]}" for i, v in enumerate(made[second][1])]
    name = "dms/BLAT_ECOLX_Ranganathan2015_labeled.csv.gz"
    write_gzip(folder / name, "\n".join(lines) + "\n")


def full_fitness(folder: Path, made: dict[str, tuple[str, list]]) -> None:
    (folder / "fitness").mkdir(parents=True, exist_ok=True)
    (folder / "fitness/DMS_substitutions.csv").write_text(reference(made))
    members = {
        f"DMS_ProteinGym_substitutions/{name}.csv": assay_csv(variants)
        for name, (_, variants) in made.items()
    }
    write_zip(folder / "fitness/DMS_ProteinGym_substitutions.zip", members)


# Secondary structure: FLIP's three members.
def flip(records: list[tuple[str, str, str, str, str]]) -> dict[str, str]:
    """Members of the zip for (name, header, sequence, states, mask)."""
    parts = {name: io.StringIO() for name in ("sequences", "sampled", "mask")}
    for name, header, sequence, states, mask in records:
        parts["sequences"].write(f">{name}\n{sequence}\n")
        parts["sampled"].write(f">{name} {header}\n{states}\n")
        parts["mask"].write(f">{name}\n{mask}\n")
    return {f"splits/{name}.fasta": part.getvalue() for name, part in parts.items()}


FLIP_RECORDS = [
    ("1abc-A", "SET=train VALIDATION=False", "MKVLAUX", "CCHHHEC", "0111111"),
    ("2abc-B", "SET=train VALIDATION=True", "GGS", "CEC", "111"),
    ("3abc-C", "SET=test VALIDATION=False", "mkvw", "HHHC", "1110"),
]


def write_flip(folder: Path, members: dict[str, str]) -> None:
    write_zip(folder / "secondary_structure/secondary_structure_splits.zip", members)
