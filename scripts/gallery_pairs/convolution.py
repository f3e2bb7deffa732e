"""Convolutional networks of timm, whose Flax side is written here after the published architectures."""

import itertools
from functools import partial
from typing import Any, NamedTuple

from gallery_pairs.pair import Modules, Pair, images, package
from gallery_pairs.recurrent import drawn


class Stage(NamedTuple):
    """A stage of EfficientNet: repeated blocks, of which the first strides and changes the number of channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


SMALL = (Stage(1, 3, 1, 1, 8), Stage(2, 5, 2, 4, 16))
B0 = (
    *(Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80)),
    *(Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320)),
)
"""EfficientNet-b0: Tan and Le, 2019, table 1."""


def _efficientnet(stages: tuple[Stage, ...], stem: int, features: int, classes: int, epsilon: float) -> Any:
    """EfficientNet in Flax, under timm's names: depthwise convolutions between two of size one, gated by channel."""
    import jax
    from flax import nnx

    rngs = nnx.Rngs(0)

    def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, bias: bool = False) -> nnx.Conv:
        return nnx.Conv(
            inputs,
            outputs,
            (size, size),
            stride,
            padding=size // 2,
            feature_group_count=groups,
            use_bias=bias,
            rngs=rngs,
        )

    def norm(channels: int) -> nnx.BatchNorm:
        return nnx.BatchNorm(channels, epsilon=epsilon, rngs=rngs)

    class Gate(nnx.Module):
        """Squeeze and excite: each channel is multiplied by a number between 0 and 1."""

        def __init__(self, channels: int, reduced: int):
            self.conv_reduce = conv(channels, reduced, 1, bias=True)
            self.conv_expand = conv(reduced, channels, 1, bias=True)

        def __call__(self, x: Any) -> Any:
            y = jax.nn.silu(self.conv_reduce(x.mean((1, 2), keepdims=True)))
            return x * jax.nn.sigmoid(self.conv_expand(y))

    class Block(nnx.Module):
        def __init__(self, inputs: int, stage: Stage, stride: int):
            wide = inputs * stage.expansion
            self.added, self.expands = stride == 1 and inputs == stage.channels, stage.expansion > 1
            if self.expands:
                self.conv_pw, self.bn1 = conv(inputs, wide, 1), norm(wide)
                self.conv_dw, self.bn2 = conv(wide, wide, stage.kernel, stride, wide), norm(wide)
                self.conv_pwl, self.bn3 = conv(wide, stage.channels, 1), norm(stage.channels)
            else:
                self.conv_dw, self.bn1 = conv(wide, wide, stage.kernel, stride, wide), norm(wide)
                self.conv_pw, self.bn2 = conv(wide, stage.channels, 1), norm(stage.channels)
            self.se = Gate(wide, inputs // 4)

        def __call__(self, x: Any) -> Any:
            if self.expands:
                y = jax.nn.silu(self.bn1(self.conv_pw(x)))
                y = self.se(jax.nn.silu(self.bn2(self.conv_dw(y))))
                y = self.bn3(self.conv_pwl(y))
            else:
                y = self.se(jax.nn.silu(self.bn1(self.conv_dw(x))))
                y = self.bn2(self.conv_pw(y))
            return x + y if self.added else y

    class EfficientNet(nnx.Module):
        def __init__(self) -> None:
            self.conv_stem, self.bn1 = conv(3, stem, 3, 2), norm(stem)
            blocks, inputs = [], stem
            for stage in stages:
                row = [Block(inputs, stage, stage.stride)]
                row += [Block(stage.channels, stage, 1) for _ in range(stage.repeats - 1)]
                blocks.append(nnx.List(row))
                inputs = stage.channels
            self.blocks = nnx.List(blocks)
            self.conv_head, self.bn2 = conv(inputs, features, 1), norm(features)
            self.classifier = nnx.Linear(features, classes, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = jax.nn.silu(self.bn1(self.conv_stem(x)))
            for row in self.blocks:
                for block in row:
                    x = block(x)
            x = jax.nn.silu(self.bn2(self.conv_head(x)))
            return self.classifier(x.mean((1, 2)))

    return EfficientNet()


def efficientnet(large: bool = False, epsilon: float = 1e-5) -> Modules:
    """EfficientNet of two stages, or b0 with images of 224 pixels."""
    from torch import nn

    timm = package("timm")
    if large:
        torch_module, x = timm.create_model("efficientnet_b0"), images(4, 3, 224, 224)
        return Modules(drawn(_efficientnet(B0, 32, 1280, 1000, epsilon)), None, torch_module, [x])
    rows = [[f"{'ir' if e > 1 else 'ds'}_r{r}_k{k}_s{s}_e{e}_c{c}_se0.25"] for r, k, s, e, c in SMALL]
    arguments = package("timm.models._efficientnet_builder").decode_arch_def(rows)
    torch_module = package("timm.models.efficientnet").EfficientNet(
        arguments, num_classes=5, num_features=32, stem_size=8, act_layer=nn.SiLU
    )
    return Modules(drawn(_efficientnet(SMALL, 8, 32, 5, epsilon)), None, torch_module, [images(2, 3, 32, 32)])


def convnext(tanh: bool = False) -> Modules:
    """ConvNeXt of four stages of one block: Liu et al., 2022, figure 4."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    rngs, widths, classes = nnx.Rngs(0), (8, 16, 24, 32), 5

    def norm(width: int) -> nnx.LayerNorm:
        return nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)

    def patches(inputs: int, outputs: int, size: int) -> nnx.Conv:
        return nnx.Conv(inputs, outputs, (size, size), size, padding="VALID", rngs=rngs)

    class Mlp(nnx.Module):
        def __init__(self, width: int):
            self.fc1, self.fc2 = (nnx.Linear(a, b, rngs=rngs) for a, b in ((width, 4 * width), (4 * width, width)))

        def __call__(self, x: Any) -> Any:
            return self.fc2(jax.nn.gelu(self.fc1(x), approximate=tanh))

    class Block(nnx.Module):
        def __init__(self, width: int):
            self.conv_dw = nnx.Conv(width, width, (7, 7), padding=3, feature_group_count=width, rngs=rngs)
            self.norm, self.mlp = norm(width), Mlp(width)
            self.gamma = nnx.Param(jnp.full(width, 1e-6))

        def __call__(self, x: Any) -> Any:
            return x + self.gamma * self.mlp(self.norm(self.conv_dw(x)))

    class Stage(nnx.Module):
        def __init__(self, inputs: int, width: int):
            self.downsample = nnx.List([norm(inputs), patches(inputs, width, 2)] if inputs != width else [])
            self.blocks = nnx.List([Block(width)])

        def __call__(self, x: Any) -> Any:
            for layer in (*self.downsample, *self.blocks):
                x = layer(x)
            return x

    class Head(nnx.Module):
        def __init__(self) -> None:
            self.norm, self.fc = norm(widths[-1]), nnx.Linear(widths[-1], classes, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.fc(self.norm(x.mean((1, 2))))

    class ConvNeXt(nnx.Module):
        def __init__(self) -> None:
            self.stem = nnx.List([patches(3, widths[0], 4), norm(widths[0])])
            self.stages = nnx.List([Stage(a, b) for a, b in zip((widths[0], *widths), widths, strict=False)])
            self.head = Head()

        def __call__(self, x: Any) -> Any:
            for layer in (*self.stem, *self.stages):
                x = layer(x)
            return self.head(x)

    family = package("timm.models.convnext")
    torch_module = family.ConvNeXt(depths=(1, 1, 1, 1), dims=widths, num_classes=classes)
    return Modules(drawn(ConvNeXt()), None, torch_module, [images(2, 3, 64, 64)])


def resnet() -> Modules:
    """ResNet of four basic blocks: He et al., 2016, figure 5, left."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    rngs, stem, widths, classes = nnx.Rngs(0), 64, (8, 16, 24, 32), 5

    def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nnx.Conv:
        return nnx.Conv(inputs, outputs, (size, size), stride, padding=size // 2, use_bias=False, rngs=rngs)

    def norm(width: int) -> nnx.BatchNorm:
        return nnx.BatchNorm(width, rngs=rngs)

    class Block(nnx.Module):
        def __init__(self, inputs: int, width: int, stride: int):
            self.conv1, self.bn1 = conv(inputs, width, 3, stride), norm(width)
            self.conv2, self.bn2 = conv(width, width, 3), norm(width)
            self.downsample = nnx.List([conv(inputs, width, 1, stride), norm(width)] if inputs != width else [])

        def __call__(self, x: Any) -> Any:
            y = self.bn2(self.conv2(jax.nn.relu(self.bn1(self.conv1(x)))))
            for layer in self.downsample:
                x = layer(x)
            return jax.nn.relu(x + y)

    class ResNet(nnx.Module):
        def __init__(self) -> None:
            self.conv1, self.bn1 = conv(3, stem, 7, 2), norm(stem)
            self.layer1 = nnx.List([Block(stem, widths[0], 1)])
            self.layer2, self.layer3, self.layer4 = (nnx.List([Block(a, b, 2)]) for a, b in itertools.pairwise(widths))
            self.fc = nnx.Linear(widths[-1], classes, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = jax.nn.relu(self.bn1(self.conv1(x)))
            x = nnx.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))  # of numbers >= 0
            for layer in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
                x = layer(x)
            return self.fc(x.mean((1, 2)))

    family = package("timm.models.resnet")
    torch_module = family.ResNet(family.BasicBlock, (1, 1, 1, 1), num_classes=classes, channels=widths)
    return Modules(drawn(ResNet()), None, torch_module, [images(2, 3, 64, 64)])


_TIMM = ("timm", "flax")
PAIRS = (
    Pair("resnet-timm", _TIMM, resnet),
    Pair(
        "convnext-gelu-tanh",
        _TIMM,
        partial(convnext, tanh=True),
        "differ",
        "jax.nn.gelu is the tanh form unless told otherwise, and ConvNeXt has the erf form.",
    ),
    Pair("convnext", _TIMM, convnext, why="With approximate=False."),
    Pair(
        "efficientnet-eps",
        _TIMM,
        partial(efficientnet, epsilon=1e-3),
        "differ",
        "The first EfficientNet, and so many a port, has eps=1e-3 in its norms; timm's has torch's 1e-5.",
    ),
    Pair("efficientnet", _TIMM, efficientnet, why="With eps=1e-5 on both sides."),
    Pair("efficientnet-b0", _TIMM, partial(efficientnet, large=True), large=True),
)
