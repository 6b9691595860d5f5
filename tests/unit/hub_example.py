"""Folders in Hugging Face's format with small random models of the real classes."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

ESM_TOKENS = [
    "<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO", ".", "-", "<null_1>", "<mask>",
]  # fmt: skip
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def keep_below(folder: Path, monkeypatch: Any) -> Iterator[None]:
    """Let transformers and the hub keep files in `folder`; for a fixture to yield from.

    Otherwise copies of remote code would land in the user's cache, and a later test would find the
    package of this one.
    """
    from huggingface_hub import constants
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder / "modules"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    _forget_remote_code()
    yield
    _forget_remote_code()


def _forget_remote_code() -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


def shake(model: Any, seed: int = 0, amount: float = 0.1) -> Any:
    """Move all parameters from where the initialisation left them, so that a mistake shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def esm2(folder: Path, **changes: Any) -> Path:
    """EsmForMaskedLM as ESM-2 is configured, with its tokenizer."""
    from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer

    shape = {
        **SMALL, "vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "token_dropout": True,
        "position_embedding_type": "rotary", "emb_layer_norm_before": False,
        "max_position_embeddings": 1026, **changes,
    }  # fmt: skip
    torch.manual_seed(1)
    shake(EsmForMaskedLM(EsmConfig(**shape))).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(ESM_TOKENS))
    EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def esmc(folder: Path) -> Path:
    """EsmcForMaskedLM (ESM C) with its tokenizer."""
    from transformers import EsmcConfig, EsmcForMaskedLM, EsmcTokenizer

    torch.manual_seed(2)
    shake(EsmcForMaskedLM(EsmcConfig(vocab_size=64, **SMALL))).save_pretrained(folder)
    EsmcTokenizer().save_pretrained(folder)
    return folder


def protgpt2(folder: Path, positions: int = 64) -> Path:
    """GPT2LMHeadModel with a byte-pair tokenizer trained on proteins, as ProtGPT2 has one."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    rng = np.random.default_rng(4)
    proteins = ["".join(rng.choice(list("ACDEFGHIKL"), 50)) for _ in range(60)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(proteins, trainer)
    fast = GPT2TokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    torch.manual_seed(3)
    end = fast.eos_token_id
    config = GPT2Config(
        vocab_size=len(fast), n_embd=32, n_layer=3, n_head=4, n_positions=positions,
        bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    shake(GPT2LMHeadModel(config)).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


PROGEN_TOKENS = ["<|pad|>", "<|bos|>", "<|eos|>", "1", "2", *"ABCDEFGHIKLMNOPQRSTUVWXYZ"]


def progen2(folder: Path, **changes: Any) -> tuple[Path, dict[str, torch.Tensor]]:
    """ProGen2's files as the hub has them, random; returns the folder and the tensors in it."""
    from safetensors.torch import save_file

    config = {
        "architectures": ["ProGenForCausalLM"], "model_type": "progen", "n_layer": 2, "n_head": 8,
        "embed_dim": 64, "n_positions": 48, "rotary_dim": 4, "vocab_size_emb": 32,
        "vocab_size_lm_head": 32, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "bos_token_id": 1, "eos_token_id": 2, "n_inner": None,
        "auto_map": {"AutoModelForCausalLM": "modeling_progen.ProGenForCausalLM"}, **changes,
    }  # fmt: skip
    d = config["embed_dim"]
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (config["vocab_size_emb"], d)}
    for n in range(config["n_layer"]):
        layer = f"transformer.h.{n}"
        shapes |= {
            f"{layer}.ln_1.weight": (d,), f"{layer}.ln_1.bias": (d,),
            f"{layer}.attn.qkv_proj.weight": (3 * d, d), f"{layer}.attn.out_proj.weight": (d, d),
            f"{layer}.mlp.fc_in.weight": (4 * d, d), f"{layer}.mlp.fc_in.bias": (4 * d,),
            f"{layer}.mlp.fc_out.weight": (d, 4 * d), f"{layer}.mlp.fc_out.bias": (d,),
        }  # fmt: skip
    shapes |= {
        "transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,),
        "lm_head.weight": (config["vocab_size_lm_head"], d),
        "lm_head.bias": (config["vocab_size_lm_head"],),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 0.5)
        + float(name.endswith(("ln_1.weight", "ln_f.weight")))
        for name, shape in shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {name: number for number, name in enumerate(PROGEN_TOKENS)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, tensors


# A model that comes with its own code, in the habits of ProteinGLM: states are (s, b, d), the head is
# in the stack, `hidden_states` end before the final norm, nothing stands before the residues.
GLM_CODE = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput


class StandInGlmConfig(PretrainedConfig):
    model_type = "StandInGLM"

    def __init__(self, vocab_size=33, hidden_size=24, num_layers=2, num_attention_heads=2,
                 seq_length=64, **more):
        self.vocab_size, self.hidden_size, self.num_layers = vocab_size, hidden_size, num_layers
        self.num_attention_heads, self.seq_length = num_attention_heads, seq_length
        super().__init__(**more)


class Stack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            nn.MultiheadAttention(config.hidden_size, config.num_attention_heads)
            for _ in range(config.num_layers)
        )
        self.final = nn.LayerNorm(config.hidden_size)
        self.output_layer = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


class StandInGlmForMaskedLM(PreTrainedModel):
    config_class = StandInGlmConfig
    base_model_prefix = "transformer"

    def __init__(self, config):
        super().__init__(config)
        self.transformer = Stack(config)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(0.0, 0.3)

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False,
                return_dict=True, **more):
        x = self.transformer.embedding(input_ids).transpose(0, 1)
        hide = None if attention_mask is None else attention_mask == 0
        states = [x]
        for layer in self.transformer.layers:
            x = x + layer(x, x, x, key_padding_mask=hide, need_weights=False)[0]
            states.append(x)
        logits = self.transformer.output_layer(self.transformer.final(x)).transpose(0, 1)
        return MaskedLMOutput(
            logits=logits.contiguous(), hidden_states=tuple(states) if output_hidden_states else None
        )
"""


def glm(folder: Path) -> Path:
    """A folder whose class comes as Python code."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "modeling_stand_in.py"
    path.write_text(GLM_CODE)
    spec = importlib.util.spec_from_file_location("_stand_in_glm", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        torch.manual_seed(6)
        model = shake(module.StandInGlmForMaskedLM(module.StandInGlmConfig()))
        model.save_pretrained(folder)
    finally:
        del sys.modules[spec.name]
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["StandInGlmForMaskedLM"]
    config["auto_map"] = {
        "AutoConfig": "modeling_stand_in.StandInGlmConfig",
        "AutoModelForMaskedLM": "modeling_stand_in.StandInGlmForMaskedLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(
        models.WordLevel({name: n for n, name in enumerate(ESM_TOKENS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 2)]
    )
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        mask_token="<mask>",
    ).save_pretrained(folder)  # fmt: skip
    return folder
