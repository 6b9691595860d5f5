"""Shape of a protein language model trained with plmscale."""
# ruff: noqa: ANN001

from transformers import PretrainedConfig


class PlmscaleConfig(PretrainedConfig):
    """preset: `paper` (LayerNorm, GeGLU, biases) or `modern` (RMSNorm, SwiGLU, no biases).

    causal: what `PlmscaleModel` alone does; the classes with a head know it by themselves.
    """

    model_type = "plmscale"

    def __init__(
        self,
        vocab_size=32,
        hidden_size=320,
        intermediate_size=853,
        num_hidden_layers=8,
        num_attention_heads=5,
        max_position_embeddings=1024,
        preset="paper",
        causal=True,
        norm_eps=1e-5,
        rotary_base=10000.0,
        initializer_range=0.02,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.preset = preset
        self.causal = causal
        self.norm_eps = norm_eps
        self.rotary_base = rotary_base
        self.initializer_range = initializer_range
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
