"""The quantizer that transformers runs a checkpoint of fmtc with.

``register`` makes it known; ``AutoModelForCausalLM.from_pretrained(folder)`` then builds the
model without weights, puts `nn.Linear` in the place of every packed layer, and loads the rest.
Everything that is read is checked against ``fmtc.json`` first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils import cached_file
from transformers.utils.quantization_config import QuantizationConfigMixin

from .. import nn
from ..checkpoint import Checkpoint
from ..errors import CorruptFile, UnusableModel
from ..manifest import MANIFEST, read_manifest

METHOD = "fmtc"
_WEIGHT = ".weight"
_OFFLOAD = "packed layers are not offloaded: give every layer a device in device_map"


class FmtcConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What ``config.json`` says of a checkpoint: its kind, and the version that wrote it."""

    def __init__(self, version: str = "", **said: Any) -> None:
        self.quant_method = METHOD
        self.version = version
        self.__dict__.update({k: v for k, v in said.items() if k != "quant_method"})


class _Waiting(torch.nn.Module):
    """Holds the place of a packed layer while transformers loads all that is not packed.

    The layer itself is hidden from transformers, which would take its streams for weights that
    no file holds. ``room`` has the size of them, so that layers are spread over devices well.
    """

    room: torch.Tensor
    bias: torch.nn.Parameter | None

    def __init__(self, packed: nn.Linear, bias: torch.nn.Parameter | None, octets: int) -> None:
        super().__init__()
        self.hidden = (packed,)  # a tuple: modules in it are no submodules
        self.register_parameter("bias", bias)
        room = torch.empty(octets, dtype=torch.uint8, device="meta")
        self.register_buffer("room", room, persistent=False)

    def packed(self) -> nn.Linear:
        """The layer, with the bias that was loaded, where this one was put."""
        (layer,) = self.hidden
        layer.bias = self.bias
        return layer.to(self.room.device).train(self.training)


class FmtcQuantizer(HfQuantizer):  # type: ignore[misc]
    """Runs checkpoints that fmtc wrote; it quantizes nothing itself."""

    requires_calibration = True  # to transformers: cannot quantize while it loads
    quantization_config: FmtcConfig
    _checkpoint: Checkpoint | None = None

    def update_attn_implementation(self, config: Any) -> Any:
        """Check the folder, as early as it is known: before any other file of it is read."""
        folder = Path(str(getattr(config, "name_or_path", "") or ""))
        if (folder / MANIFEST).is_file():
            self._checkpoint = _checked(folder)
        return config

    def update_device_map(self, device_map: Any) -> Any:
        """Refuse to offload."""
        places = device_map.values() if isinstance(device_map, dict) else [device_map]
        if "disk" in {str(place) for place in places}:
            raise UnusableModel(_OFFLOAD)
        return device_map

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """A model whose every file begins with bytes is of float32."""
        return dtype if dtype is None or dtype.is_floating_point else torch.float32

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Any = None, **_: Any
    ) -> None:
        checkpoint = self._checkpoint or _checked(_find_folder(model, checkpoint_files))
        self._checkpoint = checkpoint
        for name in checkpoint.names:
            if name not in set(checkpoint.quantized_names):
                checkpoint.tensor(name)  # its hash; transformers reads it again by itself
        with torch.device("cpu"):
            for name in checkpoint.quantized_names:
                _hold_place(model, checkpoint, name)
        told = set(model._keys_to_ignore_on_load_unexpected or ())
        model._keys_to_ignore_on_load_unexpected = told | {_patterns(checkpoint.quantized_names)}

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        del model._keys_to_ignore_on_load_unexpected  # that of the class shows again
        for name, module in list(model.named_modules()):
            if isinstance(module, _Waiting):
                layer = module.packed()
                hook = getattr(module, "_hf_hook", None)
                if getattr(hook, "offload", False):
                    raise UnusableModel(f"{name}: {_OFFLOAD}")
                if hook is not None:
                    import_module("accelerate.hooks").add_hook_to_module(layer, hook)
                model.set_submodule(name, layer)
        return model

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear):
                model.set_submodule(name, dense(module, dtype or torch.float32))
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Refuse to save: what would be written is not what was measured.

        Raises:
            UnusableModel: always.
        """
        where = self._checkpoint.folder if self._checkpoint is not None else "its folder"
        raise UnusableModel(
            f"a packed model is saved by copying '{where}', whose bytes it is; 'fmtc export' "
            "writes it in other formats, and model.dequantize() makes it dense, which can be saved"
        )

    @property
    def is_trainable(self) -> bool:
        """Packed weights have no gradient."""
        return False

    @property
    def is_compileable(self) -> bool:
        """The layers are operators that ``torch.compile`` knows."""
        return True


def register() -> None:
    """Make transformers know checkpoints of fmtc; calling it again changes nothing."""
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(FmtcConfig)
        register_quantizer(METHOD)(FmtcQuantizer)


def dense(layer: nn.Linear, dtype: torch.dtype) -> torch.nn.Linear:
    """The layer with its weight decoded, rounded once to ``dtype``, on the same device."""
    weight = torch.from_numpy(layer.quantized().to_float32()).to(layer.weight_level.device, dtype)
    rows, length = weight.shape
    linear = torch.nn.Linear(length, rows, bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    linear.register_parameter("bias", layer.bias)
    return linear.train(layer.training)


def find_linear(model: Any, name: str) -> tuple[str, torch.nn.Linear] | None:
    """The module name and linear layer of a weight's name, or None where the model has none.

    As in transformers, a checkpoint may be of the model with or without its head, so the base
    model's prefix may be there or not.
    """
    plain, prefix = name.removesuffix(_WEIGHT), f"{model.base_model_prefix}."
    for place in (plain, prefix + plain, plain.removeprefix(prefix)):
        try:
            module = model.get_submodule(place)
        except AttributeError:
            continue
        if type(module) is torch.nn.Linear:
            return place, module
    return None


def _hold_place(model: Any, checkpoint: Checkpoint, name: str) -> None:
    """Put a waiting layer where a packed weight belongs."""
    found = find_linear(model, name)
    where, kind = f"'{checkpoint.folder}': {name}", type(model).__name__
    if found is None:
        raise UnusableModel(
            f"{where} is no linear layer of transformers' {kind}, which packed weights run in: "
            "load the model with fmtc.load_model(folder, run='dequantized')"
        )
    place, linear = found
    shape = checkpoint.shape(name)
    if shape != tuple(linear.weight.shape):
        raise CorruptFile(f"{where} is {shape}, config.json says {tuple(linear.weight.shape)}")
    packed = nn.Linear.from_quantized(checkpoint.quantized(name))
    model.set_submodule(place, _Waiting(packed, linear.bias, checkpoint.octets(name)))


def _patterns(names: Iterable[str]) -> str:
    """A regular expression for the keys of packed weights, with any prefix of a base model."""
    return rf"(^|\.)({'|'.join(map(re.escape, names))})\."


def _checked(folder: Path) -> Checkpoint:
    """The checkpoint, its companions and index checked against their hashes."""
    checkpoint = Checkpoint(folder)
    checkpoint.check_files()
    return checkpoint


def _find_folder(model: Any, files: Any) -> Path:
    """The folder of the files that transformers found; what it does not know of is fetched.

    A repository on a hub is a folder of a cache, where only what was asked for lies.
    """
    if not files:
        raise UnusableModel(
            "a packed model is loaded from its folder, not from a state_dict: "
            "from_pretrained(folder)"
        )
    folder = Path(files[0]).parent
    if not Path(str(model.config.name_or_path)).is_dir():
        _fetch(folder, model.config)
    if not (folder / MANIFEST).is_file():
        raise UnusableModel(
            f"'{folder}' says that it is of fmtc, but has no {MANIFEST}: copy the whole folder "
            "that fmtc wrote"
        )
    return folder


def _fetch(folder: Path, config: Any) -> None:
    """Fetch what fmtc.json names beside the tensors into the folder of a hub's cache."""
    # Such a folder is <cache>/models--<repository>/snapshots/<commit>.
    said = {"cache_dir": folder.parents[2], "revision": folder.name}
    name = str(config.name_or_path)
    if not (folder / MANIFEST).is_file():
        cached_file(name, MANIFEST, **said, _raise_exceptions_for_missing_entries=False)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        wanted = {*manifest["files"], *(text["file"] for text in manifest["formats"].values())}
        for file in sorted(wanted):
            if not (folder / file).is_file():
                cached_file(name, file, **said)
