"""Transformer shapes: exact parameter counts and FLOPs a token, without torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from plmscale.errors import PlmscaleError

Preset = Literal["paper", "modern"]


@dataclass(frozen=True)
class Architecture:
    """One transformer. `n_params` counts what the laws call N: everything but embeddings.

    Presets: `paper` is LayerNorm with bias, GeGLU, biased linears (Cheng et al. 2024);
    `modern` is RMSNorm, SwiGLU, no biases. Both are pre-norm with RoPE and a final norm.

    mup_base_width: 0 for the standard parametrization, else the d_model at which muP equals it
    (Yang et al. 2022; plmscale.model.parametrization).
    """

    name: str
    n_layers: int
    d_model: int
    n_heads: int
    d_ff: int
    preset: Preset = "paper"
    vocab_size: int = 32
    tie_embeddings: bool = True
    rope_theta: float = 10000.0
    init_std: float = 0.02
    norm_eps: float = 1e-5
    mup_base_width: int = 0

    def __post_init__(self) -> None:
        if self.preset not in ("paper", "modern"):
            raise PlmscaleError(
                f"architecture {self.name}: preset {self.preset!r} is unknown; allowed: paper, modern"
            )
        if min(self.n_layers, self.d_model, self.n_heads, self.d_ff, self.vocab_size) < 1:
            raise PlmscaleError(f"architecture {self.name}: all dimensions must be at least 1")
        if self.mup_base_width < 0:
            raise PlmscaleError(
                f"architecture {self.name}: mup_base_width {self.mup_base_width} is negative; "
                "give a d_model, or 0 for the standard parametrization"
            )
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise PlmscaleError(
                f"architecture {self.name}: d_model {self.d_model} must split into {self.n_heads} "
                "heads of even size (RoPE turns pairs)"
            )

    @property
    def n_params(self) -> int:
        """N, the non-embedding parameters (facts: exact for every model of the paper).

        paper:  L (4 d^2 + 3 d f + 9 d + 2 f) + 2 d
        modern: L (4 d^2 + 3 d f + 2 d) + d
        """
        layers, d, f = self.n_layers, self.d_model, self.d_ff
        if self.preset == "paper":
            return layers * (4 * d * d + 3 * d * f + 9 * d + 2 * f) + 2 * d
        return layers * (4 * d * d + 3 * d * f + 2 * d) + d

    @property
    def width_ratio(self) -> float:
        """Base width over width in muP, what hidden matrices' learning rates are multiplied by; 1
        in the standard parametrization."""
        return self.mup_base_width / self.d_model if self.mup_base_width else 1.0

    @property
    def logit_scale(self) -> float:
        """What the product of final hidden states and output matrix is multiplied by."""
        return self.width_ratio

    @property
    def matrix_params(self) -> int:
        """The weights of the layers' matrices, L (4 d^2 + 3 d f): N without norms and biases."""
        return self.n_layers * (4 * self.d_model**2 + 3 * self.d_model * self.d_ff)

    def flops_per_token(self, context: int) -> float:
        """Training FLOPs a token with attention and output head: 6 N + 12 L d s + 6 V d.

        `context` is the row length s. Attention is counted as the full s x s product (no
        causal halving), the convention of Kaplan et al. 2020, section 2.1, and Chowdhery et
        al. 2022, appendix B; the ratio of the second term to 6 N is about s / (6 d).

        Matrix products alone, forward and backward, are 6 M + 12 L d s + 6 V d with `matrix_params`
        M = L (4 d^2 + 3 d f). 6 N stands for what norms, biases and activations take besides:
        paper 6 (L (9 d + 2 f) + 2 d), modern 6 (L 2 d + d), which at f = 8 d / 3 is 1.2 / d and
        0.2 / d of 6 N.
        """
        attention = 12 * self.n_layers * self.d_model * context
        head = 6 * self.vocab_size * self.d_model
        return float(6 * self.n_params + attention + head)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, but mup_base_width only where it is set.

        It came later: recipes and fingerprints of the standard parametrization stay what they were.
        """
        values = dict(vars(self))
        if not self.mup_base_width:
            del values["mup_base_width"]
        return values

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Architecture:
        """Build from a recipe's `architecture`; unknown or missing keys are errors."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise PlmscaleError(f"architecture: unknown keys {', '.join(unknown)}")
        try:
            return cls(**data)
        except TypeError as error:
            raise PlmscaleError(f"architecture: {error}") from None


def _paper(name: str, n_layers: int, d_model: int, d_ff: int | None = None) -> Architecture:
    heads = d_model // 64 if d_model < 4096 else 32
    return Architecture(name, n_layers, d_model, heads, d_ff or 8 * d_model // 3, vocab_size=128)


# The paper's sizes, solved from the released logs (FLOPs axis / tokens = 6 N).
PAPER_SIZES: dict[str, Architecture] = {
    a.name: a
    for a in (
        _paper("3M", 8, 192),
        _paper("6M", 8, 256),
        _paper("10M", 8, 320),
        _paper("13M", 8, 320, 1280),
        _paper("20M", 8, 448),
        _paper("25M", 8, 512),
        _paper("34M", 8, 512, 2048),
        _paper("40M", 10, 576),
        _paper("47M", 12, 576),
        _paper("65M", 10, 640, 2560),
        _paper("85M", 12, 768),
        _paper("106M", 15, 768),
        _paper("127M", 18, 768),
        _paper("154M", 16, 896),
        _paper("170M", 24, 768),
        _paper("200M", 21, 896),
        _paper("230M", 24, 896),
        _paper("280M", 22, 1024),
        _paper("300M", 24, 1024),
        _paper("393M", 20, 1280),
        _paper("470M", 24, 1280),
        _paper("550M", 28, 1280),
        _paper("609M", 31, 1280),
        _paper("650M", 33, 1280, 3424),
        _paper("680M", 24, 1536),
        _paper("736M", 26, 1536),
        _paper("880M", 23, 1792),
        _paper("1.2B", 24, 2048),
        _paper("1.5B", 24, 2304),
        _paper("1.7B", 28, 2304),
        _paper("2B", 26, 2560),
        _paper("2.4B", 30, 2560),
        _paper("2.8B", 36, 2560, 6832),
        _paper("3.4B", 36, 2816),
        _paper("4B", 36, 3072),
        _paper("5B", 40, 3200),
        _paper("6B", 40, 3584),
        _paper("7B", 36, 4096),
        _paper("10B", 47, 4352, 11606),
    )
}
