"""Architecture shapes: what of a model's config.json decides memory, and nothing else. No torch.

`from_config` reads any Hugging Face config of a causal language model; `from_catalogue` the offline catalogue
(data/models.json, 237 popular models with sources). What a family does beside its numbers (biases, norms, fused
projections) is in `FAMILIES`, read from the modelling code of transformers 5.23.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).parent / "data"


class Linear(NamedTuple):
    """One nn.Linear (or stacked expert weight) of a decoder layer; `copies` of it a layer."""

    name: str
    n_in: int
    n_out: int
    bias: bool = False
    copies: int = 1

    @property
    def weight(self) -> int:
        return self.n_in * self.n_out * self.copies

    @property
    def params(self) -> int:
        return (self.n_in * self.n_out + (self.n_out if self.bias else 0)) * self.copies


@dataclass(frozen=True)
class Family:
    """Facts of a model_type that its config.json does not say."""

    gated: bool = True  # gate/up/down MLP, else fc1/fc2
    norm: str = "rms"  # rms | layer
    norms_per_layer: int = 2
    norm_bias: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: str = ""  # "" | head (weights of head_dim) | full (weights of heads * head_dim)
    parallel: bool = False  # attention and MLP read the same norm and are added together
    fused_qkv: bool = False
    fused_gate_up: bool = False
    stacked_experts: bool = True  # transformers 5 keeps experts as 3-D parameters, which bitsandbytes leaves alone
    norm_fp32: bool = True  # Llama-style RMSNorm computes in float32
    activation: str = "silu"  # silu | gelu_tanh | gelu (one kernel) | gelu_new (Python arithmetic)
    norm_plus_one: bool = False  # Gemma: x * (1 + weight) in float32
    softcap: bool = False  # Gemma 2: tanh soft cap on the final logits
    embedding_scale: bool = False  # embeddings times a constant: one more tensor
    residual_scale: bool = False  # Granite
    logit_scale: bool = False  # Granite, Cohere
    names: tuple[str, ...] = ()  # leaf names: q, k, v, o, gate, up, down (or qkv, o, up, down)
    exact: bool = True  # modelled op by op; else the generic decoder stands in for it


LLAMA_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_GPT = Family(
    gated=False,
    norm="layer",
    norm_bias=True,
    qkv_bias=True,
    o_bias=True,
    mlp_bias=True,
    norm_fp32=False,
    fused_qkv=True,
)
FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "granite": Family(embedding_scale=True, residual_scale=True, logit_scale=True),
    "baichuan": Family(exact=False),
    "qwen": Family(qkv_bias=True, fused_qkv=True, names=("c_attn", "c_proj", "w2", "w1", "c_proj"), exact=False),
    "chatglm": Family(qkv_bias=True, fused_qkv=True, fused_gate_up=True, exact=False),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm="head"),
    "smollm3": Family(),
    "qwen3_moe": Family(qk_norm="head"),
    "qwen2_moe": Family(qkv_bias=True),
    "mixtral": Family(),
    "olmoe": Family(qk_norm="full"),
    "phi3": Family(fused_qkv=True, fused_gate_up=True, names=("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    "gemma": Family(activation="gelu_tanh", norm_plus_one=True, embedding_scale=True),
    "gemma2": Family(activation="gelu_tanh", norm_plus_one=True, embedding_scale=True, norms_per_layer=4, softcap=True),
    "gemma3_text": Family(
        activation="gelu_tanh", norm_plus_one=True, embedding_scale=True, norms_per_layer=4, qk_norm="head"
    ),
    "gemma3": Family(
        activation="gelu_tanh", norm_plus_one=True, embedding_scale=True, norms_per_layer=4, qk_norm="head"
    ),
    "olmo": Family(norm="layer", norms_per_layer=0, norm_fp32=False),
    "olmo2": Family(qk_norm="full"),
    "olmo3": Family(qk_norm="full"),
    "cohere": Family(norm="layer", norms_per_layer=1, parallel=True, logit_scale=True),
    "phi": Family(
        gated=False,
        norm="layer",
        norms_per_layer=1,
        norm_bias=True,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        head_bias=True,
        norm_fp32=False,
        parallel=True,
        activation="gelu_new",
        names=("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
    ),
    "gpt2": replace(_GPT, activation="gelu_new", names=("c_attn", "c_proj", "c_fc", "c_proj")),
    "gpt_bigcode": replace(_GPT, activation="gelu_tanh", names=("c_attn", "c_proj", "c_fc", "c_proj")),
    "gpt_neox": replace(
        _GPT,
        activation="gelu",
        parallel=True,
        names=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    "gptj": Family(
        gated=False,
        norm="layer",
        norms_per_layer=1,
        norm_bias=True,
        mlp_bias=True,
        head_bias=True,
        norm_fp32=False,
        parallel=True,
        activation="gelu_new",
        names=("q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"),
    ),
    "falcon": Family(
        gated=False,
        norm="layer",
        norms_per_layer=1,
        norm_bias=True,
        norm_fp32=False,
        parallel=True,
        fused_qkv=True,
        activation="gelu",
        names=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    "stablelm": Family(norm="layer", norm_bias=True, norm_fp32=False),
    "starcoder2": Family(
        gated=False,
        norm="layer",
        norm_bias=True,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        norm_fp32=False,
        activation="gelu_tanh",
        names=("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"),
    ),
}
GENERIC = Family(exact=False)


@dataclass(frozen=True)
class Shape:
    """Numbers of one causal language model. Sizes are elements, never bytes."""

    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool = False
    experts: int = 0
    top_k: int = 0
    moe_intermediate: int = 0
    shared_intermediate: int = 0
    dense_layers: int = 0  # leading layers with a dense MLP in an MoE
    sliding_window: int | None = None
    positions: int = 0  # rows of a learned position table
    rotary_fraction: float = 1.0
    tower_params: int = 0  # vision or audio tower: present, frozen, not quantised
    official_params: int | None = None
    overrides: tuple[tuple[str, Any], ...] = ()  # family facts that this config.json states otherwise
    source: str = "config.json"
    family: Family = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        family = FAMILIES.get(self.model_type, GENERIC)
        if self.overrides:
            family = replace(family, **dict(self.overrides))
        object.__setattr__(self, "family", family)

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def moe(self) -> bool:
        return self.experts > 1

    @functools.cached_property
    def attention(self) -> tuple[Linear, ...]:
        """Projections of one attention block, in call order."""
        f = self.family
        if f.fused_qkv:
            names = f.names or ("qkv_proj", "o_proj")
            return (
                Linear(names[0], self.hidden, self.q_width + 2 * self.kv_width, f.qkv_bias),
                Linear(names[1], self.q_width, self.hidden, f.o_bias),
            )
        names = f.names or LLAMA_NAMES
        return (
            Linear(names[0], self.hidden, self.q_width, f.qkv_bias),
            Linear(names[1], self.hidden, self.kv_width, f.qkv_bias),
            Linear(names[2], self.hidden, self.kv_width, f.qkv_bias),
            Linear(names[3], self.q_width, self.hidden, f.o_bias),
        )

    @functools.cached_property
    def mlp(self) -> tuple[Linear, ...]:
        """Linears of one dense MLP block (for an MoE: of the dense layers)."""
        f, names = self.family, self.family.names or LLAMA_NAMES
        if not f.gated:
            up, down = names[-2:]
            return (
                Linear(up, self.hidden, self.intermediate, f.mlp_bias),
                Linear(down, self.intermediate, self.hidden, f.mlp_bias),
            )
        if f.fused_gate_up:
            up, down = (names[2], names[3]) if f.names else ("gate_up_proj", "down_proj")
            return (
                Linear(up, self.hidden, 2 * self.intermediate, f.mlp_bias),
                Linear(down, self.intermediate, self.hidden, f.mlp_bias),
            )
        gate, up, down = names[-3:]
        return (
            Linear(gate, self.hidden, self.intermediate, f.mlp_bias),
            Linear(up, self.hidden, self.intermediate, f.mlp_bias),
            Linear(down, self.intermediate, self.hidden, f.mlp_bias),
        )

    @property
    def expert_params(self) -> int:
        """Weights of all experts of one MoE layer."""
        return 3 * self.hidden * self.moe_intermediate * self.experts if self.moe else 0

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers if self.moe else 0

    @property
    def norm_params(self) -> int:
        """Norm weights of one layer."""
        f = self.family
        width = 2 if f.norm_bias else 1
        extra = {"": 0, "head": 2 * self.head_dim, "full": self.q_width + self.kv_width}[f.qk_norm]
        return f.norms_per_layer * self.hidden * width + extra

    @functools.cached_property
    def layer_linear(self) -> int:
        """Elements of quantisable nn.Linear weights in all layers (experts that are nn.Linear included)."""
        attention = sum(x.weight for x in self.attention) * self.layers
        dense = sum(x.weight for x in self.mlp) * (self.dense_layers if self.moe else self.layers)
        shared = 3 * self.hidden * self.shared_intermediate * self.moe_layers
        experts = 0 if self.family.stacked_experts else self.expert_params * self.moe_layers
        return attention + dense + shared + experts

    @functools.cached_property
    def layer_other(self) -> int:
        """Elements of everything else in the layers: biases, norms, routers, stacked experts."""
        attention = sum(x.params - x.weight for x in self.attention) * self.layers
        mlp_bias = sum(x.params - x.weight for x in self.mlp) * (self.dense_layers if self.moe else self.layers)
        router = self.hidden * self.experts * self.moe_layers if self.moe else 0
        experts = self.expert_params * self.moe_layers if self.family.stacked_experts else 0
        return attention + mlp_bias + router + experts + self.norm_params * self.layers

    @property
    def embedding(self) -> int:
        return self.vocab * self.hidden

    @property
    def head(self) -> int:
        """Elements of lm_head that are not the embedding's."""
        return (0 if self.tied else self.embedding) + (self.vocab if self.family.head_bias else 0)

    @property
    def final_norm(self) -> int:
        f = self.family
        return self.hidden * (2 if f.norm_bias else 1) if f.norms_per_layer else 0

    @functools.cached_property
    def computed_params(self) -> int:
        learned = self.positions * self.hidden
        return self.layer_linear + self.layer_other + self.embedding + self.head + self.final_norm + learned

    @property
    def params(self) -> int:
        """Unique parameters of the text model: the catalogue's exact count where there is one."""
        return self.official_params or self.computed_params

    @property
    def unexplained(self) -> int:
        """Parameters the exact count has beyond the shape (MLA, linear attention, towers): counted as linears."""
        return self.params - self.computed_params


def _first(config: Mapping[str, Any], *keys: str, default: Any = None) -> Any:
    for key in keys:
        if config.get(key) is not None:
            return config[key]
    return default


def from_config(config: Mapping[str, Any], *, params: int | None = None, source: str = "config.json") -> Shape:
    """Shape from a config.json as a mapping. Multimodal configs: the text part counts.

    Raises:
        KeyError: a number that every decoder has (layers, hidden size, heads, vocabulary) is missing.
    """
    outer = config
    if isinstance(config.get("text_config"), Mapping):
        config = {**{k: v for k, v in outer.items() if k == "tie_word_embeddings"}, **config["text_config"]}
    kind = str(config.get("model_type") or outer.get("model_type") or "")
    hidden = int(_need(config, "hidden_size", "n_embd", "d_model"))
    heads = int(_need(config, "num_attention_heads", "n_head", "num_heads"))
    layers = int(_need(config, "num_hidden_layers", "n_layer", "num_layers"))
    kv_heads = _first(config, "num_key_value_heads", "num_kv_heads", "multi_query_group_num")
    if kv_heads is None or (kind == "falcon" and not config.get("new_decoder_architecture")):
        kv_heads = 1 if config.get("multi_query") else heads
    inner = _first(config, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "ffn_dim")
    experts = int(_first(config, "num_local_experts", "num_experts", "n_routed_experts", default=0) or 0)
    moe_inner = int(_first(config, "moe_intermediate_size", default=0) or (inner or 0)) if experts else 0
    shared = int(_first(config, "shared_expert_intermediate_size", default=0) or 0)
    if experts and config.get("n_shared_experts"):
        shared = int(config["n_shared_experts"]) * moe_inner
    overrides: dict[str, Any] = {}
    if config.get("attention_bias"):
        overrides.update(qkv_bias=True, o_bias=True)
    if config.get("mlp_bias"):
        overrides["mlp_bias"] = True
    family = FAMILIES.get(kind, GENERIC)
    # Families whose default is tied embeddings in transformers' configuration classes.
    tied_default = kind in ("gemma", "gemma2", "gemma3", "gemma3_text", "cohere", "gpt2", "gpt_bigcode", "falcon")
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return Shape(
        model_type=kind,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=int(kv_heads),
        head_dim=int(_first(config, "head_dim", "kv_channels") or hidden // heads),
        intermediate=int(inner or 4 * hidden),
        vocab=int(_need(config, "vocab_size", "padded_vocab_size")),
        tied=bool(config.get("tie_word_embeddings", tied_default)),
        experts=experts,
        top_k=int(_first(config, "num_experts_per_tok", "moe_topk", default=0) or 0),
        moe_intermediate=moe_inner,
        shared_intermediate=shared,
        dense_layers=int(config.get("first_k_dense_replace") or 0) if experts else 0,
        sliding_window=int(window) if window else None,
        positions=int(_first(config, "n_positions", "max_position_embeddings", default=0))
        if kind in ("gpt2", "gpt_bigcode", "opt")
        else 0,
        rotary_fraction=float(_first(config, "partial_rotary_factor", "rotary_pct", default=1.0)),
        official_params=params,
        overrides=tuple(sorted((k, v) for k, v in overrides.items() if getattr(family, k) != v)),
        source=source,
    )


def _need(config: Mapping[str, Any], *keys: str) -> Any:
    value = _first(config, *keys)
    if value is None:
        raise KeyError(f"config.json has none of {', '.join(keys)}")
    return value


@functools.cache
def catalogue() -> dict[str, dict[str, Any]]:
    """Models of the offline catalogue by hub id."""
    return json.loads((DATA / "models.json").read_text(encoding="utf-8"))["models"]


@functools.cache
def _by_name() -> dict[str, str]:
    names: dict[str, str] = {}
    for key in catalogue():
        names.setdefault(key.lower(), key)
        names.setdefault(key.lower().split("/")[-1], key)
    return names


def from_catalogue(model: str) -> Shape | None:
    """Shape of a hub id (or its name without the owner) in the catalogue; None when it is not there."""
    key = _by_name().get(model.lower()) or _by_name().get(model.lower().split("/")[-1])
    if key is None:
        return None
    row = catalogue()[key]
    kind = row["model_type"]
    rotary = {"phi": 0.5 if "phi-1" in key else 0.4, "gpt_neox": 0.25, "stablelm": 0.25}.get(kind, 1.0)
    return Shape(
        model_type=kind,
        layers=row["layers"],
        hidden=row["hidden"],
        heads=row["heads"],
        kv_heads=row["kv_heads"],
        head_dim=row["head_dim"],
        intermediate=row["intermediate"] or row.get("moe_intermediate") or 4 * row["hidden"],
        vocab=row["vocab"],
        tied=row["tie"],
        experts=row.get("experts") or 0,
        top_k=row.get("top_k") or 0,
        moe_intermediate=(row.get("moe_intermediate") or row["intermediate"] or 0) if row.get("experts") else 0,
        sliding_window=row.get("sliding_window"),
        positions={"gpt2": 1024, "gpt_bigcode": 2048}.get(kind, 0),
        rotary_fraction=rotary,
        official_params=None if kind == "gpt_bigcode" else row["params"],  # its source leaves out positions
        source=row["source"],
    )
