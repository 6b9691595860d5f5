"""Structures: ESMFold's numbers, Foldseek's table, TM-scores of known shapes, and absent tools."""

from __future__ import annotations

import math

import folding_example as example
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from plmscale.downstream import sides
from plmscale.downstream.base import Predictions
from plmscale.downstream.generation import known, structures
from plmscale.downstream.generation.folding import Folder, folded, read
from plmscale.downstream.generation.structures import Options
from plmscale.downstream.tasks import generation
from plmscale.errors import PlmscaleError

torch.set_num_threads(1)
SEQUENCES = ["MKVLAWGHTCEEDRSTYPQN", "ACDEFGHIKLMNPQRSTVWY", "MKV"]
# As Foldseek writes `--format-output query,target,qtmscore`: no header, tabs, a line a hit.
TABLE = [
    "q0\t1tim_A\t0.6123", "q0\t2abc_B\t0.7001", "q1.pdb_A\t1tim_A\t3.100E-01", "q0_A\t9xyz\t0.2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_foldseek(monkeypatch):
    monkeypatch.setattr(known.shutil, "which", lambda name: None)
    monkeypatch.delenv("PLMSCALE_FOLDSEEK", raising=False)


@pytest.fixture(scope="module")
def esmfold(tmp_path_factory):
    return example.esmfold(tmp_path_factory.mktemp("esmfold"))


@pytest.fixture
def predictions(tmp_path):
    """Two sets of four, and a reference; one protein is empty, one is long."""
    sequences = [*SEQUENCES, "", "A" * 60, "WWWWYYYY", SEQUENCES[0], "GGGGAAAA", "MKVM", "MKVA"]
    groups = ["T=1 top-p=1"] * 4 + ["natural"] * 4 + ["reference"] * 2
    splits = ["generated"] * 4 + ["control"] * 4 + ["reference"] * 2
    table = pa.table({
        "id": [f"p{i}" for i in range(10)], "split": splits, "group": groups,
        "sequence": sequences, "terminated": [True] * 10, "max_length": [60] * 10,
        "target": pa.nulls(10, pa.float64()), "prediction": [2.5] * 10,
    })  # fmt: skip
    corpus = {"key": "", "sources": [], "trained_on": "unknown"}
    path = tmp_path / "zero-shot-s1.parquet"
    Predictions(table, {"data": {"source": "small"}, "corpus": corpus}).write(path)
    return path


def options(**changes):
    return generation.Options(structures=Options(**changes), replicates=20, clusters_of=2)


def metrics(path):
    return {(m.group, m.metric): m for m in generation.score(Predictions.read(path), options())}


def test_plddt_is_that_of_the_c_alpha_from_0_to_100(esmfold, tmp_path):
    folder = Folder(str(esmfold), 64, on_cpu=True)
    paths = list(folded(folder, SEQUENCES, tmp_path))
    for path, sequence in zip(paths, SEQUENCES, strict=True):
        with torch.no_grad():
            made = folder._module.infer(sequence)
        letters, xyz, factors = read(path)
        plddt = made["plddt"][0].double().numpy()
        assert made["plddt"].shape == (1, len(sequence), 37) and letters == sequence
        assert factors == pytest.approx(100 * plddt[:, 1], abs=0.006)
        # It is no other atom's, and no mean over atoms.
        assert abs(factors.mean() - 100 * plddt[:, 0].mean()) > 0.05
        assert abs(factors.mean() - 100 * plddt.mean()) > 0.05
        assert xyz == pytest.approx(made["positions"][-1, 0, :, 1].double().numpy(), abs=6e-4)


def test_a_structure_is_made_once(esmfold, tmp_path, monkeypatch):
    first = list(folded(Folder(str(esmfold), 64, True), SEQUENCES, tmp_path))
    monkeypatch.setattr(Folder, "fold", lambda *_: pytest.fail("folded again"))
    assert list(folded(Folder(str(esmfold), 64, True), SEQUENCES, tmp_path)) == first
    assert Folder(str(esmfold), 32, True).key != Folder(str(esmfold), 64, True).key


def test_a_protein_too_large_for_the_memory_is_told_and_the_rest_goes_on(
    esmfold, tmp_path, monkeypatch, predictions
):
    fold = Folder.fold

    def small(self, sequence):
        if len(sequence) == 60:
            raise torch.cuda.OutOfMemoryError
        return fold(self, sequence)

    monkeypatch.setattr(Folder, "fold", small)
    generation.side(predictions, options(esmfold=str(esmfold), on_cpu=True, per_set=2), None)
    rows, _ = sides.read(predictions, structures.NAME)
    assert rows["id"].tolist() == ["p0", "p1", "p4", "p5"]
    assert "does not fit into the GPU's memory" in rows["not_folded"][2]
    assert rows["plddt"].isna().tolist() == [False, False, True, False]
    assert metrics(predictions)["natural", "plddt"].n == 1


def test_the_table_of_foldseek():
    assert known.parse("\n".join(TABLE), 3)[:2] == [0.7001, 0.31]
    assert math.isnan(known.parse("\n".join(TABLE), 3)[2])
    # q1 is not q10.
    found = known.parse("q10\tx\t0.5\n", 11)
    assert found[10] == 0.5 and math.isnan(found[1])
    for wrong in ("q0\tx", "q0\tx\tnone", "q7\tx\t0.5", "p0\tx\t0.5"):
        with pytest.raises(PlmscaleError, match="line 1 of its table is not query,target,qtmscore"):
            known.parse(wrong, 3)


def test_foldseek_is_called_as_documented(tmp_path, monkeypatch):
    program = example.foldseek(tmp_path / "bin", TABLE)
    monkeypatch.setenv("PLMSCALE_FOLDSEEK", str(program))
    database = tmp_path / "pdb"
    database.write_bytes(b"x")
    queries = [
        example.write_pdb(tmp_path / f"{i}.pdb", "A" * 20, example.helix(20)) for i in range(2)
    ]
    found = known.Known(database)
    assert found.how == "Foldseek 10.941cd33, TM-align mode"
    assert found.best(queries, threads=3) == [0.7001, 0.31]
    words = (tmp_path / "bin" / "called.txt").read_text().split("\n")
    assert words[0] == "easy-search" and words[2] == str(database)
    assert words[5:-2] == [
        "--alignment-type", "1", "--format-output", "query,target,qtmscore", "--threads", "3",
        "-v", "1",
    ]  # fmt: skip
    assert words[-2:] == ["q0.pdb", "q1.pdb"]
    before = found.key
    database.write_bytes(b"more")
    assert known.Known(database).key != before
    monkeypatch.setenv("PLMSCALE_FOLDSEEK", str(example.foldseek(tmp_path / "bad", [], code=1)))
    with pytest.raises(PlmscaleError, match=r"easy-search failed \(1\): Input database does not"):
        known.Known(database).best(queries)
    monkeypatch.setenv("PLMSCALE_FOLDSEEK", str(tmp_path / "none"))
    with pytest.raises(PlmscaleError, match="cannot be run"):
        known.Known(database)


def test_tm_scores_of_known_shapes(tmp_path):
    rng = np.random.default_rng(3)
    coil = np.cumsum(rng.normal(0, 2.2, (60, 3)), axis=0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    example.write_pdb(tmp_path / "known" / "a.pdb", "A" * 60, example.helix(60))
    example.write_pdb(tmp_path / "known" / "b.ent", "A" * 40, coil[:40])
    moved = example.write_pdb(tmp_path / "moved.pdb", "L" * 60, example.helix(60) @ turn + 30)
    part = example.write_pdb(tmp_path / "part.pdb", "L" * 60, coil)
    found = known.Known(tmp_path / "known")
    assert found.how.startswith("TM-align (tmtools ") and "2 structures" in found.how
    whole, most = found.best([moved, part])
    assert whole == pytest.approx(1, abs=1e-3)
    # 40 of 60 residues are there; by the length of the generated one.
    assert most == pytest.approx(2 / 3, abs=0.05)


def test_reading_a_pdb_file(tmp_path):
    path = example.write_pdb(tmp_path / "a.pdb", "ACW", example.helix(3), factor=71.25)
    text = path.read_text().replace("TER", "ATOM      9  CA  ALA B   1      1.000   2.000   3.000")
    path.write_text(text)
    letters, xyz, factors = read(path)
    assert letters == "ACW" and factors.tolist() == [71.25] * 3
    assert xyz == pytest.approx(example.helix(3), abs=6e-4)
    path.write_text("nothing")
    with pytest.raises(PlmscaleError, match="holds no C-alpha atom"):
        read(path)


def test_what_is_absent_is_named(predictions, esmfold, tmp_path):
    torch_sees = torch.cuda.is_available()
    generation.side(predictions, options(esmfold=None), None)
    found = metrics(predictions)["all", "plddt"]
    assert math.isnan(found.value) and found.n == 0
    assert found.definition == "not run: ESMFold is switched off (structures.esmfold)"
    assert "no known structures were given" in metrics(predictions)["all", "tm_to_pdb"].definition
    cases = [
        ({"esmfold": str(tmp_path), "on_cpu": True}, "plddt", "config.json: no such file"),
        ({"esmfold": "hf:no/such-model", "on_cpu": True}, "plddt", "not in this machine's cache"),
        (
            {"esmfold": None, "targets": tmp_path / "none"},
            "tm_to_pdb",
            "correct structures.targets",
        ),
        ({"esmfold": None, "targets": predictions}, "tm_to_pdb", "Foldseek is missing; install it"),
    ]
    if not torch_sees:
        cases.append(({"esmfold": str(esmfold)}, "plddt", "torch sees none here"))
    for changes, metric, reason in cases:
        generation.side(predictions, options(**changes), None)
        assert reason in metrics(predictions)["all", metric].definition
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PlmscaleError, match="holds no PDB file"):
        known.Known(empty)


def test_a_tool_that_comes_later_adds_to_the_side_result_alone(predictions, esmfold, tmp_path):
    cache, before = tmp_path / "cache", predictions.read_bytes()
    how = {"esmfold": str(esmfold), "on_cpu": True, "per_set": 3, "length_cap": 20}
    generation.side(predictions, options(**how), None, (), cache)
    first = metrics(predictions)
    # Neither the empty nor the long one; and the first of each set.
    rows, about = sides.read(predictions, structures.NAME)
    assert rows["id"].tolist() == ["p0", "p1", "p2", "p5", "p6", "p7"]
    assert first["natural", "plddt"].n == 3 and set(about["not_run"]) == {"tm"}
    assert "chunk size 64" in first["natural", "plddt"].definition
    assert "at most 20 residues" in first["natural", "plddt"].definition
    assert ("natural", "tm_to_pdb") not in first and ("natural", "confident_and_novel") not in first
    # Known structures: the one that was made of p0, so it is not novel.
    files = sorted((cache / structures.NAME).rglob("*.pdb"))
    assert len(files) == 5
    target = next(p for p in files if read(p)[0] == SEQUENCES[0])
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "a.pdb").write_bytes(target.read_bytes())
    generation.side(predictions, options(**how, targets=tmp_path / "known"), None, (), cache)
    second = metrics(predictions)
    rows, about = sides.read(predictions, structures.NAME)
    assert about["not_run"] == {} and predictions.read_bytes() == before
    tm = rows.set_index("id")["tm"]
    assert tm["p0"] == tm["p6"] == pytest.approx(1, abs=1e-3) and tm["p1"] < 1
    assert second["natural", "plddt"].value == first["natural", "plddt"].value
    assert second["natural", "tm_to_pdb"].value == pytest.approx(rows["tm"][3:].mean())
    # A machine that has less leaves what there is.
    generation.side(predictions, options(**how), None, (), cache)
    assert sides.read(predictions, structures.NAME)[1] == about


def test_confident_and_novel_are_counted_jointly(predictions):
    rows = pd.DataFrame({
        "id": ["p0", "p1", "p2", "p4", "p5"], "plddt": [90.0, 90.0, 60.0, 70.0, 69.9],
        "tm": [0.4, 0.6, 0.3, math.nan, 0.1], "not_folded": [""] * 5,
    })  # fmt: skip
    sides.write(predictions, structures.NAME, rows, {"key": "k", "not_run": {}, "how": "here"})
    found = metrics(predictions)
    group = "T=1 top-p=1"
    assert found[group, "plddt"].value == pytest.approx(80)
    assert found[group, "plddt_70"].value == pytest.approx(2 / 3)
    assert found[group, "confident_and_novel"].value == pytest.approx(1 / 3)
    assert found[group, "confident_and_novel"].n == 3
    # Nothing similar found is novel.
    assert found["natural", "confident_and_novel"].value == 0.5
    assert found["natural", "tm_to_pdb"].value == pytest.approx(0.05)
