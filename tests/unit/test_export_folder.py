"""`plmscale export`: what it writes, what it refuses, and that nothing half-done stays."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from export_example import make_run, random_model
from safetensors.torch import load_file

import plmscale
from plmscale.architecture import Architecture
from plmscale.cli import main
from plmscale.errors import PlmscaleError
from plmscale.export import folder as export_folder
from plmscale.export import mapping
from plmscale.export.folder import export_run
from plmscale.export.shards import write_shards
from plmscale.files import read_json, sha256_file, write_json

transformers = pytest.importorskip("transformers")


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", "paper", "mlm")


def left(folder):
    """Names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_and_what_the_command_prints(run, tmp_path, capsys):
    out = tmp_path / "deep" / "hf"
    assert main(["export", str(run), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "EuroBertForMaskedLM" in printed
    found = re.search(r"largest difference of logits to the run's own: (\S+) ", printed)
    assert found and 0 < float(found[1]) < 1e-4
    assert left(out.parent) == ["hf"]
    assert left(out) == [
        "README.md", "config.json", "model.safetensors", "provenance.json",
        "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    kept = read_json(out / "provenance.json")
    assert kept["source_weights_sha256"] == sha256_file(run / "model.safetensors")
    assert kept["plmscale"] == plmscale.__version__
    assert kept["fingerprint"] == read_json(run / "config.json")["fingerprint"]
    assert kept["files"] == {
        name: sha256_file(out / name) for name in left(out) if name != "provenance.json"
    }


def test_json_for_machines(run, tmp_path, capsys):
    out = tmp_path / "hf"
    assert main(["export", str(run), "--out", str(out), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["class"] == "EuroBertForMaskedLM"
    assert done["files"] == left(out)
    assert done["sha256"] == {name: sha256_file(out / name) for name in left(out)}
    assert 0 < done["max_difference"] < 1e-4


def test_the_card_tells_what_the_model_is(run, tmp_path):
    export_run(run, tmp_path / "hf", verify=False)
    card = (tmp_path / "hf" / "README.md").read_text()
    n_params = Architecture.from_dict(read_json(run / "config.json")["architecture"]).n_params
    for told in (f"{n_params:,}", "1,228,800", "1e+11 FLOPs", "2.5000", "3f2a9c", "curated 0.3"):
        assert told in card, told
    assert "license:" not in card.split("---")[1]


@pytest.mark.parametrize(
    ("preset", "objective", "remote"), [("paper", "clm", False), ("modern", "mlm", True)]
)
def test_the_example_on_the_card_runs(tmp_path, monkeypatch, capsys, preset, objective, remote):
    monkeypatch.setattr(
        transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    made = make_run(tmp_path / "run", preset, objective)
    export_run(made, tmp_path / "hf", remote_code=remote, verify=False)
    code = (tmp_path / "hf" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code.replace("PATH", str(tmp_path / "hf")), {})
    assert re.fullmatch(r"[ACDEFGHIKLMNPQRSTVWYXBUZO]+\n", capsys.readouterr().out)


def test_equal_runs_give_equal_folders(run, tmp_path):
    first = export_run(run, tmp_path / "a", verify=False)
    second = export_run(run, tmp_path / "b", verify=False)
    assert first.sha256 == second.sha256


def test_bf16(run, tmp_path, capsys):
    assert main(["export", str(run), "--out", str(tmp_path / "hf"), "--dtype", "bf16"]) == 0
    assert "logits differ" in capsys.readouterr().out
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert read_json(tmp_path / "hf" / "config.json")["dtype"] == "bfloat16"


@pytest.mark.parametrize("remote", [False, True])
def test_large_models_are_sharded(run, tmp_path, remote):
    whole = export_run(run, tmp_path / "whole", remote_code=remote)
    parts = export_run(run, tmp_path / "parts", shard_bytes=60_000, remote_code=remote)
    assert parts.compared.difference == whole.compared.difference
    index = read_json(tmp_path / "parts" / "model.safetensors.index.json")
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert set(files) < set(parts.files)
    joined = {}
    for file in files:
        tensors = load_file(tmp_path / "parts" / file)
        assert sum(t.nbytes for t in tensors.values()) <= 60_000
        joined |= tensors
    plain = load_file(tmp_path / "whole" / "model.safetensors")
    assert joined.keys() == plain.keys() == index["weight_map"].keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in plain.values())
    assert all(torch.equal(joined[name], plain[name]) for name in plain)


def test_a_tensor_above_the_limit_has_its_own_file(tmp_path):
    tensors = [("a", torch.zeros(2)), ("b", torch.ones(100)), ("c", torch.zeros(2))]
    files = write_shards(tmp_path, iter(tensors), torch.float32, limit=64)
    assert len(files) == 4 and left(tmp_path) == sorted(files)


def test_tensors_are_made_one_after_another(run):
    """Only so does a large model stay in memory once, not twice."""
    arch = Architecture.from_dict(read_json(run / "config.json")["architecture"])
    weights = dict(random_model(arch).state_dict())
    target = mapping.choose_target("paper", "mlm")
    named = mapping.hf_tensors(target, weights, arch)
    assert next(named)[0] == "model.embed_tokens.weight"
    weights["final_norm.weight"] = torch.full_like(weights["final_norm.weight"], 7.0)
    assert float(dict(named)["model.norm.weight"].mean()) == 7.0


def test_a_full_folder_is_kept_unless_forced(run, tmp_path, capsys):
    out = tmp_path / "hf"
    out.mkdir()
    export_run(run, out, verify=False)
    (out / "mine.txt").write_text("mine")
    before = left(out)
    assert main(["export", str(run), "--out", str(out), "--no-verify"]) == 2
    assert capsys.readouterr().err == (
        f"plmscale: error: --out {out}: the folder is not empty; give another, or --force to "
        "replace it\n"
    )
    assert left(out) == before
    export_run(run, out, verify=False, force=True)
    assert left(out) == [name for name in before if name != "mine.txt"]
    assert left(tmp_path) == ["hf", "run"]


def test_a_wrong_mapping_is_found_and_leaves_what_was_there(run, tmp_path, monkeypatch):
    out = tmp_path / "hf"
    export_run(run, out)
    before = {name: sha256_file(out / name) for name in left(out)}
    monkeypatch.setattr(mapping, "_centred", lambda tensor, dim: tensor.double())
    with pytest.raises(PlmscaleError, match=r"logits .* differ by .* nothing was written"):
        export_run(run, out, force=True)
    assert {name: sha256_file(out / name) for name in left(out)} == before
    assert left(tmp_path) == ["hf", "run"]


def test_weights_that_the_class_does_not_take_are_found(run, tmp_path, monkeypatch):
    def without_bias(*args):
        yield from (pair for pair in mapping.hf_tensors(*args) if pair[0] != "lm_head.bias")

    monkeypatch.setattr(export_folder, "hf_tensors", without_bias)
    with pytest.raises(PlmscaleError, match=r"missing_keys: lm_head.bias"):
        export_run(run, tmp_path / "hf")
    assert left(tmp_path) == ["run"]


def test_a_class_that_fails_to_load_is_one_line(run, tmp_path, monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise ValueError("no such\nthing")

    monkeypatch.setattr(transformers.EuroBertForMaskedLM, "from_pretrained", fails)
    assert main(["export", str(run), "--out", str(tmp_path / "hf")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "does not load what was written (no such thing)" in told
    assert left(tmp_path) == ["run"]


def test_without_transformers_the_folder_is_written_unverified(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["export", str(run), "--out", str(tmp_path / "hf")]) == 0
    assert "not verified: transformers is not installed" in capsys.readouterr().out
    assert (tmp_path / "hf" / "model.safetensors").exists()


def test_a_diverged_run_is_exported_with_a_warning(tmp_path, capsys):
    lost = make_run(tmp_path / "run", "modern", "clm", status="diverged")
    assert main(["export", str(lost), "--out", str(tmp_path / "hf")]) == 0
    printed = capsys.readouterr()
    assert "warning" in printed.err and "diverged" in printed.err
    assert "not verified: the run's own logits are not finite" in printed.out
    assert "diverged" in (tmp_path / "hf" / "README.md").read_text()


def _cut(run):
    data = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(data[: len(data) // 2])


def _cut_unknown(run):
    _cut(run)
    write_json(run / "metrics.json", {"status": "done"})


def _other_shape(run):
    config = read_json(run / "config.json")
    config["architecture"]["d_ff"] += 2
    write_json(run / "config.json", config)


def _another_status(run):
    write_json(run / "metrics.json", {"status": "parent_failed"})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda run: (run / "metrics.json").unlink(), "no finished run, metrics.json is missing"),
        (lambda run: (run / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda run: (run / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda run: write_json(run / "config.json", {"a": 1}), "not the config of a run"),
        (lambda run: write_json(run / "config.json", [1]), "not the config of a run"),
        (_cut, "damaged, its SHA-256 is not the one in metrics.json"),
        (_cut_unknown, "not a readable safetensors file"),
        (_other_shape, r"gate_up.bias has shape \(200,\), the architecture .* needs \(204,\)"),
        (_another_status, "status is 'parent_failed'"),
    ],
)
def test_what_is_no_finished_run_is_one_line(run, tmp_path, capsys, damage, told):
    damage(run)
    assert main(["export", str(run), "--out", str(tmp_path / "hf")]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and str(run) in printed.err
    assert re.search(told, printed.err)
    assert left(tmp_path) == ["run"]


def test_an_objective_that_was_not_trained_is_refused(run, tmp_path):
    with pytest.raises(PlmscaleError, match="trained as mlm, so --as clm would be a model"):
        export_run(run, tmp_path / "hf", objective="clm")


def test_the_run_itself_is_never_replaced(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    for out in (run, tmp_path, tmp_path / "link"):
        with pytest.raises(PlmscaleError, match="the run itself lies there"):
            export_run(run, out, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(PlmscaleError, match="a file of this name"):
        export_run(run, tmp_path / "file", force=True)
