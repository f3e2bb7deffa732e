"""Transformers of text: BERT, RoBERTa, DistilBERT, GPT-2, T5, LLaMA, BART, in the configurations of transformers."""

from functools import partial
from types import SimpleNamespace
from typing import Any

from gallery_pairs.pair import Modules, Pair, initial, layers, package, tokens

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
WORDS = 64
"""Size of the vocabulary."""


def bert(dtype: str = "float64", large: bool = False, **settings: Any) -> Modules:
    """BertModel with padding in one text and two segments; `large` is BERT-base, 110 million parameters."""
    import numpy as np

    transformers = package("transformers")
    sizes = {} if large else {**SMALL, "vocab_size": WORDS, "max_position_embeddings": 16}
    config = transformers.BertConfig(**sizes, **settings)
    inputs = [tokens(2, 12, config.vocab_size), np.ones((2, 12), np.int32), np.zeros((2, 12), np.int32)]
    inputs[1][1, 9:], inputs[2][:, 6:] = 0, 1
    flax = package("transformers.models.bert.modeling_flax_bert").FlaxBertModule(config, dtype=dtype)
    return Modules(flax, initial(flax, *inputs), transformers.BertModel(config), inputs)


def bert_outputs() -> Modules:
    """BertModel as it is, in a configuration that also returns the hidden states of every layer."""
    return bert(output_hidden_states=True)


def bert_tanh() -> Modules:
    """BertModel whose Flax side has the tanh form of GELU."""
    modules = bert()
    transformers = package("transformers")
    config = transformers.BertConfig(**{**modules.torch_module.config.to_dict(), "hidden_act": "gelu_new"})
    flax = package("transformers.models.bert.modeling_flax_bert").FlaxBertModule(config, dtype="float64")
    return modules._replace(jax_model=flax)


def roberta() -> Modules:
    import numpy as np

    transformers = package("transformers")
    config = transformers.RobertaConfig(**SMALL, vocab_size=WORDS, max_position_embeddings=20)
    ids, ones, zeros = tokens(2, 12, WORDS), np.ones((2, 12), np.int32), np.zeros((2, 12), np.int32)
    positions = np.broadcast_to(np.arange(2, 14, dtype=np.int32), (2, 12))
    inputs = [ids, ones, zeros, positions]
    module = package("transformers.models.roberta.modeling_flax_roberta").FlaxRobertaModule(config, dtype="float64")
    return Modules(module, initial(module, *inputs), transformers.RobertaModel(config), inputs)


def distilbert() -> Modules:
    import numpy as np

    transformers = package("transformers")
    config = transformers.DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=48, vocab_size=WORDS, max_position_embeddings=16
    )
    inputs = [tokens(2, 12, WORDS), np.ones((2, 12), np.int32)]
    family = package("transformers.models.distilbert.modeling_flax_distilbert")
    module = family.FlaxDistilBertModule(config, dtype="float64")
    return Modules(module, initial(module, *inputs), transformers.DistilBertModel(config), inputs)


def gpt2(as_it_is: bool = False) -> Modules:
    """GPT2Model. Both sides have a layer Conv1D; its kernel is [inputs, outputs] in torch, the transpose in Flax.

    Args:
        as_it_is: Whether a mapping says that the kernels lie alike.
    """
    import numpy as np

    from parity_tests.harness.modules.mapping import as_is

    transformers = package("transformers")
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=16, vocab_size=WORDS, n_inner=32, use_cache=False
    )

    class InFlaxOrder(transformers.GPT2Model):
        """GPT2Model, whose second argument is a cache in torch and the mask in Flax."""

        def forward(self, ids: Any, mask: Any, positions: Any) -> Any:
            return super().forward(ids, attention_mask=mask, position_ids=positions)

    module = package("transformers.models.gpt2.modeling_flax_gpt2").FlaxGPT2Module(config, dtype="float64")
    positions = np.broadcast_to(np.arange(12, dtype=np.int32), (2, 12))
    inputs = [tokens(2, 12, WORDS), np.ones((2, 12), np.int32), positions]
    mapping = [
        (r"h/(\d+)/(attn|mlp)/(c_\w+)/kernel", r"h.\1.\2.\3.weight", as_is),
        *layers((r"h/(\d+)/(attn|mlp)/(c_\w+)", r"h.\1.\2.\3"), (r"h/(\d+)/(ln_\d)", r"h.\1.\2")),
        *layers((r"(wte|wpe|ln_f)", r"\1")),
    ]
    return Modules(module, initial(module, *inputs), InFlaxOrder(config), inputs, mapping if as_it_is else None)


def gpt2_with_cache() -> Modules:
    """GPT2Model as it comes, which also returns its cache of keys and values."""
    modules = gpt2()
    modules.torch_module.config.use_cache = True
    return modules


def t5(rounded: bool = True) -> Modules:
    """T5Model, which computes the mean square of its norms in float32 on both sides, and its softmax in torch.

    Args:
        rounded: Whether they do; else all is in the dtype of the inputs.
    """
    import numpy as np

    transformers = package("transformers")
    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=WORDS, use_cache=False
    )
    family = package("transformers.models.t5.modeling_flax_t5")
    family.jnp = _with_former_clip()
    if not rounded:
        _t5_in_full(family)
    torch_module = transformers.T5Model(config)
    module = family.FlaxT5Module(config, dtype="float64")
    inputs = [tokens(2, 12, WORDS), np.ones((2, 12), np.int32), tokens(2, 7, WORDS), np.ones((2, 7), np.int32)]
    return Modules(module, initial(module, *inputs), torch_module, inputs)


def _with_former_clip() -> Any:
    """Return jax.numpy with `clip(x, a_max=)`, the former name of `max`, by which T5's Flax side still calls it."""
    import jax.numpy as jnp

    def clip(x: Any, *limits: Any, a_max: Any = None, **named: Any) -> Any:
        return jnp.clip(x, *limits, **({} if a_max is None else {"max": a_max}), **named)

    return SimpleNamespace(**{**vars(jnp), "clip": clip})


def _t5_in_full(family: Any) -> None:
    """Replace T5LayerNorm on both sides, and torch's softmax, by those in the dtype of their inputs.

    The replacement is of the packages' modules, for the rest of this process."""
    import jax.numpy as jnp
    import torch

    torch_family = package("transformers.models.t5.modeling_t5")

    class FlaxNorm(family.FlaxT5LayerNorm):
        def __call__(self, x: Any) -> Any:
            return self.weight * (x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps))

    class TorchNorm(torch_family.T5LayerNorm):
        def forward(self, x: Any) -> Any:
            return self.weight * (x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt())

    family.FlaxT5LayerNorm, torch_family.T5LayerNorm = FlaxNorm, TorchNorm
    torch.Tensor.float = lambda x: x  # type: ignore[method-assign]  # softmax(scores.float())


_TRANSFORMERS = ("transformers",)
PAIRS = (
    Pair("bert", _TRANSFORMERS, bert),
    Pair(
        "bert-hidden-states",
        _TRANSFORMERS,
        bert_outputs,
        "refused",
        "output_hidden_states is a setting of torch's BertModel, and an argument of FlaxBertModule that is False.",
    ),
    Pair(
        "bert-in-float32",
        _TRANSFORMERS,
        partial(bert, dtype="float32"),
        "differ",
        "A Flax module of transformers computes in float32 unless its dtype says otherwise; bert passes float64.",
    ),
    Pair(
        "bert-gelu-tanh",
        _TRANSFORMERS,
        bert_tanh,
        "differ",
        "hidden_act is gelu_new, GELU's tanh form, in JAX and gelu, the erf form, in torch; bert has gelu in both.",
    ),
    Pair("roberta", _TRANSFORMERS, roberta),
    Pair("distilbert", _TRANSFORMERS, distilbert),
    Pair(
        "gpt2-untransposed",
        _TRANSFORMERS,
        partial(gpt2, as_it_is=True),
        "refused",
        "Flax's Conv1D of transformers holds the transpose of torch's kernel, and the mapping says that it lies alike.",
    ),
    Pair("gpt2", _TRANSFORMERS, gpt2, why="Without a mapping: the kernels that aren't square tell how all lie."),
    Pair(
        "gpt2-cache",
        _TRANSFORMERS,
        gpt2_with_cache,
        "refused",
        "GPT2Model also returns its cache, an object that is no array; gpt2 passes use_cache=False.",
    ),
    Pair(
        "t5-float32-norm",
        _TRANSFORMERS,
        t5,
        "differ",
        "T5LayerNorm computes its mean square in float32 on both sides, and torch's side its softmax too.",
    ),
    Pair("t5", _TRANSFORMERS, partial(t5, rounded=False), why="With both in the dtype of their inputs."),
    Pair("bert-base", _TRANSFORMERS, partial(bert, large=True), large=True),
)
