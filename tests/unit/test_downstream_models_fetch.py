"""Models that cannot be had, or should not be run, are told in one line that says what to do."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hub_example import esm2, glm, keep_below, progen2, protgpt2
from safetensors.torch import load_file, save_file

from plmscale.downstream import models
from plmscale.downstream.models.letters import Letters
from plmscale.errors import PlmscaleError

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch):
    yield from keep_below(tmp_path, monkeypatch)


def told(where, **how):
    with pytest.raises(PlmscaleError) as caught:
        models.open(where, **how)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(str(where))
    return text


def test_hub_model_that_is_not_in_the_cache(tmp_path):
    text = told("hf:facebook/esm2_t6_8M_UR50D")
    assert "not in this machine's cache; allow the download" in text
    assert "hf download facebook/esm2_t6_8M_UR50D" in text


def test_hub_model_in_the_cache_needs_no_internet(tmp_path):
    commit = "0" * 40
    place = tmp_path / "cache" / "models--facebook--esm2_t6_8M_UR50D"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    esm2(place / "snapshots" / commit)
    adapter = models.open("hf:facebook/esm2_t6_8M_UR50D")
    assert (adapter.info.name, adapter.info.origin) == ("esm2_t6_8M_UR50D", "hub")
    again = models.open(f"hf:facebook/esm2_t6_8M_UR50D@{commit}")
    assert again.info.digest == adapter.info.digest
    assert again.info.name == f"esm2_t6_8M_UR50D@{commit}"
    copy = models.open(place / "snapshots" / commit, name="esm2_t6_8M_UR50D").info
    assert (copy.origin, copy.digest) == ("folder", adapter.info.digest)


@pytest.mark.parametrize(
    "error, wanted",
    [
        (
            "GatedRepoError",
            "is gated; accept its terms at https://huggingface.co/owner/model and log",
        ),
        ("RepositoryNotFoundError", "is not on the hub, or private; check the name, or log in"),
        ("RevisionNotFoundError", "has no revision 'refs/pr/9'; look at"),
        ("LocalEntryNotFoundError", "the hub cannot be reached; fetch it where there is internet"),
        ("OfflineModeIsEnabled", "the hub cannot be reached"),
        ("HfHubHTTPError", r"cannot be fetched \(too many requests\); try again later"),
        (ConnectionError, r"cannot be fetched \(no route\); try again later"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, error, wanted):
    import huggingface_hub
    from huggingface_hub import errors

    asked = {}

    def refuse(*args, **how):
        asked.update(how)
        if error is ConnectionError:
            raise ConnectionError("no route")
        kind = getattr(errors, error)
        if issubclass(kind, errors.HfHubHTTPError):
            response = SimpleNamespace(headers={}, request=None)
            raise kind("too many requests", response=response)
        raise kind("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    text = told("hf:owner/model@refs/pr/9", download=True)
    assert re.search(wanted, text)
    assert asked["local_files_only"] is False and asked["revision"] == "refs/pr/9"
    assert "*.py" not in asked["allow_patterns"] and not any(
        "bin" in p for p in asked["allow_patterns"]
    )


def test_names_of_hub_models():
    for name in ("hf:", "hf:a/b/c"):
        assert "write a hub model as hf:OWNER/NAME" in told(name)
    assert "no name of a hub model" in told("hf:owner/a model")


def test_pickled_weights_are_never_opened(tmp_path):
    folder = esm2(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    text = told(folder)
    assert "has only pytorch_model.bin, and pickled weights are never opened" in text
    assert "refs/pr/N" in text


def test_weights_that_are_not_all_there(tmp_path):
    folder = esm2(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    shutil.copytree(folder, tmp_path / "parts")
    index = {"weight_map": dict.fromkeys(weights, "model-00001-of-00002.safetensors")}
    (tmp_path / "parts" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors is missing" in told(tmp_path / "parts")
    (tmp_path / "parts" / "model.safetensors.index.json").write_text("{}")
    assert "index.json is damaged" in told(tmp_path / "parts")
    del weights["lm_head.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "1 tensors of the network are not in the weights (lm_head.dense.weight)" in told(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert "cannot load it" in told(folder)
    (folder / "model.safetensors").unlink()
    assert "no weights (model.safetensors); is it a model's folder?" in told(folder)


def test_code_of_a_model_runs_only_when_told(tmp_path):
    folder = glm(tmp_path / "model")
    marker = tmp_path / "ran"
    code = (folder / "modeling_stand_in.py").read_text()
    code += f"\nopen({str(marker)!r}, 'w').close()\n"
    (folder / "modeling_stand_in.py").write_text(code)
    assert "runs only if you say so (remote_code); read it first" in told(folder)
    assert not marker.exists()
    adapter = models.open(folder, remote_code=True)
    assert marker.exists()
    # Its code is part of what decides the numbers.
    (folder / "modeling_stand_in.py").write_text(code + "\n# changed\n")
    assert models.open(folder, remote_code=True).info.digest != adapter.info.digest


def test_code_that_does_not_run_here(tmp_path):
    folder = glm(tmp_path / "model")
    (folder / "modeling_stand_in.py").write_text("from transformers import NoSuchThing")
    assert "transformers cannot load it (ImportError" in told(folder, remote_code=True)


def test_models_that_are_no_language_models(tmp_path):
    folder = esm2(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for change, wanted in (
        ({"architectures": ["EsmForTokenClassification"]}, "is neither a masked nor a causal"),
        ({"model_type": "unheard-of"}, "cannot load it"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        assert wanted in told(folder)
    (folder / "config.json").write_text(json.dumps(config))
    assert "is a mlm, it cannot be used as clm" in told(folder, use="clm")
    (folder / "config.json").write_text("[]")
    assert "config.json is no object" in told(folder)


def test_tokenizers_that_are_not_for_residues(tmp_path):
    folder = esm2(tmp_path / "model")
    (folder / "vocab.txt").write_text(
        "\n".join(["<cls>", "<pad>", "<eos>", "<unk>", "the", "<mask>"])
    )
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        (folder / name).unlink(missing_ok=True)
    assert "its tokenizer has no token a residue" in told(folder)
    (folder / "vocab.txt").unlink()
    assert "no tokenizer that can be read" in told(folder)


def test_progen2_that_is_none(tmp_path):
    folder, _ = progen2(tmp_path / "a", n_head=4)
    assert "4 heads do not split into 8 groups" in told(folder)
    folder, tensors = progen2(tmp_path / "b")
    del tensors["transformer.ln_f.bias"]
    save_file(tensors, folder / "model.safetensors")
    assert "weights are not those of ProGen2" in told(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["n_layer"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "config.json has no 'n_layer'" in told(folder)


def test_what_a_model_cannot_do(tmp_path):
    from plmscale.downstream import scoring

    pieces = models.open(protgpt2(tmp_path / "pieces"))
    letters = models.open(esm2(tmp_path / "esm", position_embedding_type="absolute"))
    rows = pieces.encode(["MKV"])
    for call, wanted in (
        (lambda: pieces.attentions(rows), "its attention maps are not of residues"),
        (lambda: scoring.marginals(pieces, "MKV", [0], "wt"), "single positions have no prob"),
        (
            lambda: scoring.residue_nats(pieces, ["MKV"], reverse=True),
            "not trained on proteins read",
        ),
        (lambda: pieces.encode(["W" * 80]), "the model takes 64; cut it into windows"),
        (lambda: letters.encode(["W" * 1100]), "its table of positions has 1024; cut the protein"),
    ):
        with pytest.raises(PlmscaleError, match=wanted):
            call()
    assert letters.info.context == 1022 and letters.encode(["W" * 1022]).tokens.shape[1] == 1024


def test_opening_a_model_prints_nothing(tmp_path):
    folder = esm2(tmp_path / "model")
    code = f"from plmscale.downstream import models; models.open({str(folder)!r})"
    environment = {k: v for k, v in os.environ.items() if k != "DS_ACCELERATOR"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_letters_without_any_token():
    code = Letters({"A": 5, "C": 6}, -1, (1,), (2,), 0)
    assert code.encode(["AC"], torch.device("cpu")).tokens.tolist() == [[1, 5, 6, 2]]
    with pytest.raises(PlmscaleError, match="has no token for W, X, nor one for unknown residues"):
        code.encode(["AC", "XAW"], torch.device("cpu"))


def test_gpu_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PlmscaleError, match="torch sees no GPU here"):
        models.open(esm2(tmp_path / "model"), device="cuda")


def test_bf16_leaves_the_angles_of_positions_exact(tmp_path):
    exact, coarse = (models.open(esm2(tmp_path / "model"), dtype=d) for d in ("fp32", "bf16"))
    assert coarse.module.esm.rotary_embeddings.inv_freq.dtype == torch.float32
    assert coarse.module.lm_head.dense.weight.dtype == torch.bfloat16
    assert exact.info.digest != coarse.info.digest
    protein = "ACDEFGHIKLMNPQRSTVWY" * 30
    with torch.no_grad():
        a, b = (m.hidden(m.encode([protein])).float()[0, -50:] for m in (exact, coarse))
    assert torch.nn.functional.cosine_similarity(a, b).min() > 0.99


def test_another_dtype_is_refused(tmp_path):
    with pytest.raises(PlmscaleError, match="dtype 'fp16'"):
        models.open(esm2(tmp_path / "model"), dtype="fp16")
