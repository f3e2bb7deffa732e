"""The public functions that convert models of other programs, from the few that need a framework."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from jaxvae.shared.backend import File, Tensor
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import adopt, name_mapping, name_table, readers
from jaxvae.shared.interop.given import Given
from jaxvae.shared.interop.name_mapping import Rule

W = TypeVar("W")


@dataclass(frozen=True)
class Foreign(Generic[W]):
    """The functions of a package's foreign.py, for weights of the type `W`."""

    from_arrays: Callable[[Spec, Mapping[str, np.ndarray]], W]
    to_arrays: Callable[[Spec, W], dict[str, np.ndarray]]
    to_numpy: Callable[[Any], np.ndarray]
    """Converts an array of NumPy or of the framework; bfloat16 becomes float32."""
    unpickle: readers.Unpickle
    """Reads the tensors of a PyTorch pickle, or raises InputError."""
    pickle: Callable[[tuple[Tensor, ...]], bytes]
    """Packs tensors as a PyTorch pickle, or raises InputError."""

    def load_foreign(
        self,
        path: Path | str,
        preset: str | None = None,
        image: tuple[int, int, int] | None = None,
        table: Path | str | None = None,
        **given: Any,
    ) -> tuple[Spec, W]:
        """Load a known program's checkpoint, or that of your own by a table of names, as the command `import` does.

        Args:
            path: The file: safetensors, Flax's msgpack, NumPy's .npz, a PyTorch pickle or Orbax's folder.
            preset: The preset whose loss the model was trained for, where the tensors leave that open.
            image: Height, width and channels of an image, where the tensors leave that open.
            table: A file with a table of names, as `import --table` takes it.
            given: What else the tensors leave open, named as the flags of `import`, such as `range="unit"`.

        Returns:
            The configuration and the weights.

        Raises:
            InputError: If no known program writes such tensors, or the table doesn't fit them; the message lists them.
        """
        names = [field.name for field in fields(Given)]
        if unknown := [name for name in given if name not in names]:
            raise InputError(f"load_foreign has no argument {', '.join(unknown)}; it may have {', '.join(names)}.")
        names_of = None if table is None else name_table.read(Path(table))
        adopted = adopt.adopt(Path(path), self.read_foreign(path), Given(preset, image, **given), names_of)
        return adopted.spec, self.from_arrays(adopted.spec, adopted.arrays)

    def from_foreign(self, spec: Spec, rules: Sequence[Rule], arrays: Mapping[str, Any]) -> W:
        """Convert the arrays of your own model to weights, by a table of rules.

        Args:
            spec: The configuration of the same model here.
            rules: The table: where each array goes.
            arrays: NumPy's arrays or the framework's by name: a state_dict, or in Flax
                `flax.traverse_util.flatten_dict(params, sep=".")`.

        Returns:
            The weights.

        Raises:
            InputError: If an array is missing, unexpected or misshapen; the message names each.

        >>> import numpy as np
        >>> from jaxvae.shared.config.parts import ModelSpec
        >>> from jaxvae.shared.config.spec import Spec
        >>> from jaxvae.shared.interop.name_mapping import Rule
        >>> spec = Spec(model=ModelSpec(image=(2, 2, 1), hidden=(3,), latent=1))
        >>> rules = [
        ...     Rule("enc.{2i}.*", "encoder.hidden.{i}.*"),
        ...     Rule("enc.{2n}.*", "encoder.mean.* + encoder.logvar.*"),
        ...     Rule("dec.{2i}.*", "decoder.hidden.{i}.*"),
        ...     Rule("dec.{2n}.*", "decoder.logits.*"),
        ... ]
        >>> shapes = {"enc.0": (3, 4), "enc.2": (2, 3), "dec.0": (3, 1), "dec.2": (4, 3)}
        >>> arrays = {f"{name}.weight": np.ones(shape) for name, shape in shapes.items()}
        >>> arrays |= {f"{name}.bias": np.zeros(shape[0]) for name, shape in shapes.items()}
        >>> back = to_foreign(spec, rules, from_foreign(spec, rules, arrays))
        >>> [(name, array.shape) for name, array in back.items()][:4]
        [('enc.0.weight', (3, 4)), ('enc.0.bias', (3,)), ('enc.2.weight', (2, 3)), ('enc.2.bias', (2,))]
        """
        values = {name: self.to_numpy(array) for name, array in arrays.items()}
        return self.from_arrays(spec, name_mapping.from_source(spec, rules, values, "The source"))

    def to_foreign(self, spec: Spec, rules: Sequence[Rule], weights: W) -> dict[str, np.ndarray]:
        """Convert weights to the arrays that `from_foreign` takes.

        Args:
            spec: The configuration of the run.
            rules: The table: where each array goes.
            weights: jaxvae's params or torchvae's model.

        Returns:
            The arrays by name, in the order of the rules.
        """
        return name_mapping.to_source(spec, rules, self.to_arrays(spec, weights))

    def read_foreign(self, path: Path | str, prefix: str | None = None) -> File:
        """Read the model's tensors from another program's file.

        Args:
            path: The file. A pickle is opened by torch with `weights_only`, for jaxvae in a process apart.
            prefix: What the tensors' names begin with, such as `ema_model`, where the file has several models.

        Returns:
            The tensors, in the file's order.

        Raises:
            InputError: If the file is of another kind, incomplete or contains code.
        """
        return readers.read(Path(path), self.unpickle, prefix)

    def pack_foreign(self, file: File) -> bytes:
        """Pack tensors into the content of a file of their kind.

        Args:
            file: The tensors, as `read_foreign` returns them.

        Returns:
            The content of the file.

        Raises:
            InputError: In jaxvae, if the file is a pickle.
        """
        return readers.pack(file, self.pickle)
