"""The autoencoder of Stable Diffusion and its blocks, from diffusers."""

from functools import partial
from typing import Any

from gallery_pairs.pair import Modules, Pair, images, initial, layers, package

_ATTENTION = layers(
    ("group_norm", "group_norm"),
    *((ours, theirs) for ours, theirs in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"))),
    ("proj_attn", "to_out.0"),
)


def autoencoder(
    widths: tuple[int, ...] = (16, 32), groups: int = 8, size: int = 16, depth: int = 1, batch: int = 2
) -> Modules:
    """AutoencoderKL from the image to its reconstruction, which is decoded from the mean."""
    diffusers = package("diffusers")
    settings = {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": depth,
        "norm_num_groups": groups,
        "sample_size": size,
    }
    side, inside = "(encoder|decoder)", r"(encoder|decoder)/(down|up)_blocks_(\d+)"
    middle = "(encoder|decoder)/mid_block"
    mapping = layers(
        (rf"{side}/(conv_in|conv_out|conv_norm_out)", r"\1.\2"),
        (r"(quant_conv|post_quant_conv)", r"\1"),
        (rf"{inside}/resnets_(\d+)/(\w+)", r"\1.\2_blocks.\3.resnets.\4.\5"),
        (rf"{inside}/(down|up)samplers_0/conv", r"\1.\2_blocks.\3.\4samplers.0.conv"),
        (rf"{middle}/resnets_(\d+)/(\w+)", r"\1.mid_block.resnets.\2.\3"),
    )
    mapping += [(f"{middle}/attentions_0/{ours}", rf"\1.mid_block.attentions.0.{name}") for ours, name in _ATTENTION]
    module = package("diffusers.models.vae_flax").FlaxAutoencoderKL(**settings, dtype="float64")
    x = images(batch, 3, size, size)
    torch_module = diffusers.AutoencoderKL(**settings)
    return Modules(module, initial(module, x), torch_module, [x], mapping, {"channels_last": False})


def resnet_block() -> Modules:
    """The block of the autoencoder, with a shortcut since it widens the image."""
    family = package("diffusers.models.resnet")

    class WithoutTime(family.ResnetBlock2D):
        """ResnetBlock2D, which takes None in the place of an embedded time."""

        def forward(self, x: Any) -> Any:
            return super().forward(x, None)

    module = package("diffusers.models.vae_flax").FlaxResnetBlock2D(16, 32, groups=8, dtype="float64")
    torch_module = WithoutTime(in_channels=16, out_channels=32, temb_channels=None, groups=8, eps=1e-6)
    x = images(2, 16, 8, 8)
    return Modules(module, initial(module, x.transpose(0, 2, 3, 1)), torch_module, [x])


def resnet_block_with_time(eps: float) -> Modules:
    """The block of the U-Net, which adds an embedded time."""
    block = package("diffusers.models.resnet").ResnetBlock2D
    torch_module = block(in_channels=32, out_channels=64, temb_channels=24, eps=eps)
    module = package("diffusers.models.resnet_flax").FlaxResnetBlock2D(32, 64, dtype="float64")
    x, time = images(2, 32, 8, 8), images(2, 24)
    return Modules(module, initial(module, x.transpose(0, 2, 3, 1), time), torch_module, [x, time])


def attention_block() -> Modules:
    """Self-attention between the pixels of an image."""
    attention = package("diffusers.models.attention_processor").Attention
    torch_module = attention(32, heads=1, dim_head=32, bias=True, norm_num_groups=8, eps=1e-6, residual_connection=True)
    module = package("diffusers.models.vae_flax").FlaxAttentionBlock(32, num_groups=8, dtype="float64")
    x = images(2, 32, 4, 4)
    return Modules(module, initial(module, x.transpose(0, 2, 3, 1)), torch_module, [x], _ATTENTION)


def cross_attention() -> Modules:
    """Attention of the U-Net from an image's tokens to a text's."""
    attention = package("diffusers.models.attention_processor").Attention
    torch_module = attention(32, cross_attention_dim=24, heads=4, dim_head=8)
    module = package("diffusers.models.attention_flax").FlaxAttention(32, heads=4, dim_head=8, dtype="float64")
    inputs = [images(2, 10, 32), images(2, 6, 24)]
    mapping = layers((r"(to_[qkv])", r"\1"), ("to_out_0", "to_out.0"))
    return Modules(module, initial(module, *inputs), torch_module, inputs, mapping)


def downsample(padding: int) -> Modules:
    """The autoencoder's, which pads an image at its end only, against torch's with this padding (0: at the end)."""
    torch_module = package("diffusers.models.downsampling").Downsample2D(32, use_conv=True, padding=padding)
    module = package("diffusers.models.vae_flax").FlaxDownsample2D(32, dtype="float64")
    x = images(2, 32, 8, 8)
    mapping = layers(("conv", "Conv2d_0"))  # torch names one layer twice, and the first name counts
    return Modules(module, initial(module, x.transpose(0, 2, 3, 1)), torch_module, [x], mapping)


def upsample() -> Modules:
    torch_module = package("diffusers.models.upsampling").Upsample2D(32, use_conv=True)
    module = package("diffusers.models.vae_flax").FlaxUpsample2D(32, dtype="float64")
    x = images(2, 32, 8, 8)
    return Modules(module, initial(module, x.transpose(0, 2, 3, 1)), torch_module, [x])


_DIFFUSERS = ("diffusers",)
PAIRS = (
    Pair("autoencoder-kl", _DIFFUSERS, autoencoder),
    Pair("resnet-block", _DIFFUSERS, resnet_block),
    Pair(
        "resnet-block-eps",
        _DIFFUSERS,
        partial(resnet_block_with_time, 1e-6),
        "differ",
        "The norms' eps is 1e-5 in Flax's block of the U-Net, and 1e-6 is the default of torch's.",
    ),
    Pair("resnet-block-time", _DIFFUSERS, partial(resnet_block_with_time, 1e-5), why="With eps=1e-5 on both sides."),
    Pair("attention-block", _DIFFUSERS, attention_block),
    Pair("cross-attention", _DIFFUSERS, cross_attention),
    Pair(
        "downsample-padding",
        _DIFFUSERS,
        partial(downsample, 1),
        "differ",
        "The autoencoder's layer pads the end in Flax, and torch's default, the U-Net's, pads both ends.",
    ),
    Pair("downsample", _DIFFUSERS, partial(downsample, 0), why="With padding=0, which torch takes for the end alone."),
    Pair("upsample", _DIFFUSERS, upsample),
)
