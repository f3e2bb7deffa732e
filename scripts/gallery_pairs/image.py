"""Image models of transformers that have a Flax side: ViT, CLIP, ResNet, RegNet."""

from typing import Any

from gallery_pairs.pair import Modules, Pair, images, initial, package, tokens

_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def vit() -> Modules:
    transformers = package("transformers")
    config = transformers.ViTConfig(**_LAYERS, image_size=16, patch_size=4)
    module = package("transformers.models.vit.modeling_flax_vit").FlaxViTModule(config, dtype="float64")
    x = images(2, 3, 16, 16)
    return Modules(module, initial(module, x.transpose(0, 2, 3, 1)), transformers.ViTModel(config), [x])


def clip() -> Modules:
    """CLIPModel: a text and an image encoder, and the logits between them."""
    import numpy as np
    import torch

    transformers = package("transformers")
    config = transformers.CLIPConfig(
        text_config={**_LAYERS, "vocab_size": 64, "max_position_embeddings": 12, "projection_dim": 16},
        vision_config={**_LAYERS, "image_size": 16, "patch_size": 4, "projection_dim": 16},
        projection_dim=16,
    )

    class AllInOneDtype(transformers.CLIPModel):
        """CLIPModel, whose causal mask is made in torch's default dtype, which can't hold the least float64."""

        def forward(self, *inputs: Any) -> Any:
            before = torch.get_default_dtype()
            torch.set_default_dtype(self.dtype)
            try:
                return super().forward(*inputs)
            finally:
                torch.set_default_dtype(before)

    module = package("transformers.models.clip.modeling_flax_clip").FlaxCLIPModule(config, dtype="float64")
    positions = np.broadcast_to(np.arange(9, dtype=np.int32), (2, 9))
    inputs = [tokens(2, 9, 64), images(2, 3, 16, 16), np.ones((2, 9), np.int32), positions]
    ours = [inputs[0], inputs[1].transpose(0, 2, 3, 1), *inputs[2:]]
    return Modules(module, initial(module, *ours), AllInOneDtype(config), inputs)


def _convolutional(name: str, **settings: Any) -> Modules:
    """ResNet or RegNet, whose Flax module takes N,H,W,C and returns N,C,H,W."""
    transformers = package("transformers")
    config = getattr(transformers, f"{name}Config")(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 2], **settings)
    kind = getattr(package(f"transformers.models.{name.lower()}.modeling_flax_{name.lower()}"), f"Flax{name}Module")

    class ChannelsFirst(kind):
        """The Flax module, for inputs in the layout of its outputs."""

        def __call__(self, x: Any, deterministic: bool = True) -> Any:
            return super().__call__(x.transpose(0, 2, 3, 1), deterministic=deterministic)

    module, x = ChannelsFirst(config, dtype="float64"), images(2, 3, 32, 32)
    torch_module = getattr(transformers, f"{name}Model")(config)
    return Modules(module, initial(module, x), torch_module, [x], options={"channels_last": False})


def resnet() -> Modules:
    return _convolutional("ResNet")


def regnet() -> Modules:
    return _convolutional("RegNet", groups_width=8, layer_type="y")


_TRANSFORMERS = ("transformers",)
PAIRS = (
    Pair("vit", _TRANSFORMERS, vit),
    Pair("clip", _TRANSFORMERS, clip),
    Pair("resnet", _TRANSFORMERS, resnet),
    Pair("regnet", _TRANSFORMERS, regnet),
)
