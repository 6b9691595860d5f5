"""A network of Hugging Face's transformers: which class, its weights, or random ones."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError

from plmscale.downstream.models import progen
from plmscale.downstream.models.fetch import Place, weight_files
from plmscale.errors import PlmscaleError

# What a checkpoint may lack: tables that the class computes, and a head that is not used here.
_OPTIONAL = re.compile(r"position_ids|inv_freq|contact_head|attn\.(masked_)?bias|embed_positions")
_LOADING = (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError,
            SafetensorError, TypeError, ValueError)  # fmt: skip


@dataclass(frozen=True)
class Network:
    """What is known of a model before it is built.

    kind: clm or mlm. config: transformers' config object. remote: whether its class comes as Python
    files of the model. load, make: build it in fp32 on the CPU, with its weights or with random ones.
    """

    kind: str
    config: Any
    remote: bool
    load: Callable[[], Any]
    make: Callable[[], Any]


def network(place: Place, use: str | None, remote_code: bool) -> Network:
    """Choose the class of a model; PlmscaleError where none fits or its code may not run."""
    with quiet(place):
        if place.config.get("model_type") == progen.MODEL_TYPE:
            _check_use(place, {"clm"}, use)
            return _progen(place)
        remote = _is_remote(place)
        if remote and not remote_code:
            raise PlmscaleError(
                f"{place.label}: comes with Python code of its own, which runs only if you say so "
                "(remote_code); read it first"
            )
        return _auto(place, use, remote)


@contextmanager
def quiet(place: Place) -> Iterator[None]:
    """No progress bars and warnings of transformers; PlmscaleError where it is not installed."""
    if not torch.cuda.is_available():
        # transformers imports DeepSpeed, which otherwise tells on standard output that it looks for one.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        from transformers.utils import logging
    except ImportError:
        raise PlmscaleError(
            f"{place.label}: needs transformers; install it (pip install 'transformers>=5')"
        ) from None
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _readable(place: Place) -> Iterator[None]:
    """What transformers, or a model's own code, cannot read is told in one line."""
    try:
        yield
    except _LOADING as error:
        raise PlmscaleError(
            f"{place.label}: transformers cannot load it ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]})"
        ) from error


@contextmanager
def drawn(seed: int) -> Iterator[None]:
    """Random numbers of `seed` on the CPU; the generator is as before after the block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _is_remote(place: Place) -> bool:
    from transformers import CONFIG_MAPPING

    config = place.config
    return "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING


def _progen(place: Place) -> Network:
    from transformers import CodeGenForCausalLM

    config = progen.codegen_config(place)
    return Network(
        "clm",
        config,
        remote=False,
        load=lambda: progen.load(place, copy.deepcopy(config)),
        make=lambda: CodeGenForCausalLM(copy.deepcopy(config)),
    )


def _auto(place: Place, use: str | None, remote: bool) -> Network:
    import transformers

    kind = _check_use(place, _kinds(place), use)
    trust: dict[str, Any] = {"trust_remote_code": remote, "local_files_only": True}
    with _readable(place):
        config = transformers.AutoConfig.from_pretrained(str(place.folder), **trust)
    cls = {"clm": transformers.AutoModelForCausalLM, "mlm": transformers.AutoModelForMaskedLM}[kind]

    def load() -> Any:
        weight_files(place)
        with _readable(place):
            model, info = cls.from_pretrained(
                str(place.folder),
                config=copy.deepcopy(config),
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **trust,
            )
        _check_loaded(place, info)
        return model

    def make() -> Any:
        with _readable(place):
            return cls.from_config(
                copy.deepcopy(config), trust_remote_code=remote, dtype=torch.float32
            )

    return Network(kind, config, remote, load, make)


def _check_loaded(place: Place, info: dict[str, Any]) -> None:
    """Refuse a model of which some weights were not in the files and so are random."""
    for key in ("missing_keys", "mismatched_keys"):
        names = [str(name) for name in info.get(key) or ()]
        if names := sorted(name for name in names if not _OPTIONAL.search(name)):
            raise PlmscaleError(
                f"{place.label}: {len(names)} tensors of the network are not in the weights "
                f"({', '.join(names[:3])}); was it saved without its language-model head?"
            )


def _kinds(place: Place) -> set[str]:
    """Return what a model can be used as, by its classes' names."""
    from transformers.models.auto import modeling_auto as auto

    config = place.config
    names = [str(name) for name in config.get("architectures") or ()]
    names += [str(name) for name in config.get("auto_map") or () if not config.get("architectures")]
    found = set()
    for name in names:
        if "MaskedLM" in name:
            found.add("mlm")
        # "Casual" is how ProteinGLM spells it.
        if re.search(r"Ca(us|su)alLM|LMHead", name):
            found.add("clm")
    if not names:
        kind = config.get("model_type")
        found |= {"mlm"} if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES else set()
        found |= {"clm"} if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not found else set()
    if not found:
        what = ", ".join(names) or str(config.get("model_type"))
        raise PlmscaleError(
            f"{place.label}: {what} is neither a masked nor a causal language model"
        )
    return found


def _check_use(place: Place, possible: set[str], use: str | None) -> str:
    if use is not None and use not in possible:
        raise PlmscaleError(
            f"{place.label}: is a {' or '.join(sorted(possible))}, it cannot be used as {use}"
        )
    return use or ("mlm" if "mlm" in possible else "clm")
