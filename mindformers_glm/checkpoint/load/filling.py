"""Weights into what holds them: every name and shape is checked before the first number changes. No MindSpore here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from mindformers_glm.checkpoint.formats.dtypes import FLOATS, convert_bits, is_finite, name_of
from mindformers_glm.checkpoint.formats.tensor_file import give_back
from mindformers_glm.checkpoint.load.names import PREFIX_NAME, is_adapter
from mindformers_glm.checkpoint.load.source import WeightSource, check_adapter_kinds
from mindformers_glm.errors import CheckpointError, listed
from mindformers_glm.log import logger
from mindformers_glm.models.rounding import Rounding
from mindformers_glm.ops.quantized import SCALE

_CACHE_SUFFIXES = ("key_past", "value_past", "key_cache", "value_cache")


class LoadReport(NamedTuple):
    """What was loaded, by our names; `ignored` are entries of the file that no network needs."""

    loaded: list[str]
    missing: list[str]
    surplus: list[str]
    ignored: list[str]


class Slot(Protocol):
    """A tensor of a network that may have no value yet."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def dtype(self) -> Any:
        """Its type, whose text is a type's name."""
        ...

    @property
    def has_init(self) -> bool:
        """True while it has no value."""
        ...


class Fillable(Protocol):
    """What weights are put into: a network, with MindSpore or without."""

    @property
    def tied(self) -> Mapping[str, str]:
        """Weights that are the same as another: name -> the one that stands in files."""
        ...

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Our name -> tensor."""
        ...

    @property
    def rounded(self) -> Mapping[str, Rounding]:
        """The layers of integers, by the names of their weights."""
        ...

    @property
    def whole(self) -> Collection[str]:
        """The W8A8 layers, whose numbers are there already, by their names without `.weight`."""
        ...

    @property
    def is_mapped(self) -> bool:
        """Whether tensors may stay in their files."""
        ...

    @property
    def may_be_panels(self) -> Collection[str]:
        """Integers and scales that may have the order of the kernels (ops/panels.py)."""
        ...

    def put(self, name: str, bits: np.ndarray, *, is_in_panels: bool = False) -> None:
        """Sets a tensor to these bits of its own type; `is_in_panels` says that they have the order of the kernels."""
        ...


def fill_from(
    network: Fillable,
    source: WeightSource | Mapping[str, np.ndarray],
    *,
    partial: bool = False,
    new_adapter: bool = False,
) -> LoadReport:
    """Sets the tensors of `network` from `source` (or from arrays under our names), in their own types.

    An adapter alone (LoRA or prefix) must fill all of the network's adapter parameters and nothing else, and the
    network must have its weights already: random ones never stand in for them. With `new_adapter` a network's adapter
    may be absent from the file and keeps its initial values. `partial` accepts missing and surplus names and reports
    them; a shape that does not fit is an error always.

    Raises:
        CheckpointError: missing, surplus or misshapen tensors, by name, or numbers that are not finite. Names and
            shapes are checked before anything is changed.
    """
    weights = _Weights(source, network.tied, is_mapped=network.is_mapped)
    weights.leave_out({f"{layer}.{leaf}" for layer in network.whole for leaf in ("weight", "bias")})
    slots = {name: slot for name, slot in network.slots.items() if _is_weight(name)}
    if not partial:
        check_adapter_kinds(weights.place, weights.unknown)
    wanted = set(slots)
    if weights.only_adapter:
        wanted = {name for name in wanted if is_adapter(name)}
    elif new_adapter and not any(is_adapter(name) for name in weights.names):
        wanted = {name for name in wanted if not is_adapter(name)}
    layers = weights.to_quantize(network.rounded)
    wanted -= {name + SCALE for name in layers}
    missing = [name for name in slots if name in wanted and name not in weights.names]
    surplus = [name for name in weights.names if name not in slots and name not in weights.tied] + weights.unknown
    fitting = [name for name in weights.names if name in slots]
    if weights.only_adapter and any(slots[name].has_init for name in slots if not is_adapter(name)):
        raise adapter_alone(weights.place)
    shapes = {name: tuple(slot.shape) for name, slot in slots.items()}
    shapes.update({name: (layer.out_channels, layer.in_channels) for name, layer in layers.items()})
    _check(weights, shapes, fitting, [] if partial else missing, [] if partial else surplus)
    for name in fitting:
        if name in layers:
            _take(layers[name], weights, name)
        elif name in network.may_be_panels and (panels := _panels(weights, name)) is not None:
            network.put(name, panels, is_in_panels=True)
        else:
            network.put(name, _read(weights, name, str(slots[name].dtype).lower()))
    _tell(weights, layers)
    if partial and (missing or surplus):
        logger.warning(
            "%s: loaded in part; %d parameters keep their values (%s), %d tensors were not used (%s)",
            *(weights.place, len(missing), listed(missing), len(surplus), listed(surplus)),
        )
    return LoadReport(fitting, missing, surplus, weights.ignored)


def _take(layer: Rounding, weights: _Weights, name: str) -> None:
    """Gives a layer of integers what the file has: its own integers where the layer can hold them."""
    scales, integers = weights.scales(name), weights.integers(name, layer.bits)
    if scales is None or integers is None or not layer.take_integers(integers[0], scales, is_held_so=integers[1]):
        layer.take_rows(partial_rows(weights, name), scales)


def _panels(weights: _Weights, name: str) -> np.ndarray | None:
    """What the file has in the order of the kernels, weight and scales together; None for others."""
    if not isinstance(weights.source, WeightSource):
        return None
    weight = name.removesuffix(SCALE)
    found = [weights.source.panels(one) for one in (weight, weight + SCALE)]
    if any(one is None for one in found):
        return None
    wanted = found[name != weight]
    assert wanted is not None
    check_values(weights.place, name, wanted, weights.source.dtype(name), weights.source.dtype(name))
    return wanted


def _tell(weights: _Weights, layers: Mapping[str, Rounding]) -> None:
    """Says of packed files how many layers kept their integers."""
    packing = getattr(weights.source, "packing", "")
    if packing and layers:
        kept = sum(layer.error == 0 for layer in layers.values())
        told = "keep the integers of the file exactly, the others are rounded anew"
        logger.info("%s: %d of %d layers (%s) %s", weights.place, kept, len(layers), packing, told)


def adapter_alone(place: object, base: str | None = None) -> CheckpointError:
    """The error of an adapter that was given where a model is needed; `base` is what it says it was trained on."""
    told = f" (it was trained on {base})" if base else ""
    fix = (
        "Name the base model, and this as its adapter: adapter= or --adapter, or model_config.checkpoint_name_or_path "
        "for the base beside load_checkpoint."
    )
    return CheckpointError(str(place), f"it holds an adapter and no network{told}", fix)


def partial_rows(weights: _Weights, name: str) -> Callable[[int, int], np.ndarray]:
    """Rows of a matrix as float32, a few at a time where the file is read so."""
    source, stored = weights.source, weights.stored(name)
    if not isinstance(source, WeightSource):
        whole = _read(weights, name, "float32").reshape(weights.shape(name))
        return lambda start, stop: whole[start:stop]
    return lambda start, stop: float_rows(source, stored, start, stop)


def float_rows(source: WeightSource, name: str, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a matrix of a source as float32.

    Raises:
        CheckpointError: some are not finite, or no floats.
    """
    dtype, columns = source.dtype(name), source.shape(name)[1]
    values = np.empty((stop - start) * columns, np.float32)
    place = 0
    for block in source.blocks(name, start, stop):
        check_values(source.path, name, block, dtype, "float32")
        values[place : place + block.size] = convert_bits(block, dtype, "float32").view(np.float32)
        place += block.size
    return values.reshape(-1, columns)


def floats(source: WeightSource, name: str) -> np.ndarray:
    """A weight of a source as float32."""
    shape = source.shape(name)
    if len(shape) == 2:
        return float_rows(source, name, 0, shape[0])
    return np.asarray(convert_bits(source.read_bits(name), source.dtype(name), "float32"), np.float32)


class _Weights:
    """The same questions to a WeightSource and to a table of arrays."""

    def __init__(
        self, source: WeightSource | Mapping[str, np.ndarray], tied: Mapping[str, str], *, is_mapped: bool = False
    ) -> None:
        self.source, self.is_mapped = source, is_mapped
        self.tied = tied  # name -> the one that it is the same as; a file may hold both
        self.names = list(source.names if isinstance(source, WeightSource) else source)
        self.only_adapter = bool(self.names) and all(is_adapter(name) for name in self.names)
        if isinstance(source, WeightSource):
            self.place, self.unknown, self.ignored = str(source.path), source.unknown, list(source.ignored)
        else:
            self.place, self.unknown, self.ignored = "arrays", [], []

    def leave_out(self, names: Container[str]) -> None:
        """Forgets weights that the network has already."""
        self.names = [name for name in self.names if name not in names]

    def to_quantize(self, layers: Mapping[str, Rounding]) -> dict[str, Rounding]:
        """Those layers of integers whose weights are floats here."""
        for name, other in self.tied.items():
            if name in layers and name not in self.names and other in self.names:
                self.names.append(name)  # its integers are those of the other
        return {name: layer for name, layer in layers.items() if name in self.names and name + SCALE not in self.names}

    def stored(self, name: str) -> str:
        """Where a tensor stands: under its own name, or that of the one it is the same as."""
        there = name in (self.source.names if isinstance(self.source, WeightSource) else self.source)
        return name if there else self.tied.get(name, name)

    def shape(self, name: str) -> tuple[int, ...]:
        name = self.stored(name)
        return self.source.shape(name) if isinstance(self.source, WeightSource) else self.source[name].shape

    def scales(self, name: str) -> np.ndarray | None:
        name = self.stored(name)
        return self.source.scales(name) if isinstance(self.source, WeightSource) else None

    def integers(self, name: str, bits: int) -> tuple[Callable[[int, int], np.ndarray], bool] | None:
        """What gives rows of integers, and whether as a layer of so many bits holds them."""
        name = self.stored(name)
        if not isinstance(self.source, WeightSource):
            return None
        if bits == 4 and (halves := self.source.halves(name)) is not None:
            return halves, True
        found = self.source.integers(name)
        return None if found is None else (found, False)

    def bits(self, name: str) -> tuple[np.ndarray, str]:
        name = self.stored(name)
        if isinstance(self.source, WeightSource):
            mapped = self.source.mapped(name) if self.is_mapped else None
            return self.source.read_bits(name) if mapped is None else mapped, self.source.dtype(name)
        array = self.source[name]
        dtype = name_of(array)
        return array.view(np.uint16) if dtype == "bfloat16" else array, dtype


def _is_weight(name: str) -> bool:
    return not name.endswith(_CACHE_SUFFIXES)


def _check(weights: _Weights, shapes: Mapping, fitting: list[str], missing: list[str], surplus: list[str]) -> None:
    misshapen = [
        f"{name} is {weights.shape(name)}, needs {shapes[name]}"
        for name in fitting
        if weights.shape(name) != shapes[name]
    ]
    faults = []
    if misshapen:
        faults.append(f"{len(misshapen)} of wrong shape: {listed(misshapen, 2)}")
    if missing:
        faults.append(f"{len(missing)} missing: {listed(missing, 3)}")
    if surplus:
        faults.append(f"{len(surplus)} that the network does not have: {listed(surplus)}")
    if not fitting and not faults:
        faults.append("it holds no weights")
    if faults:
        raise CheckpointError(weights.place, "; ".join(faults), _repair(missing, surplus, misshapen))


def _repair(missing: list[str], surplus: list[str], misshapen: list[str]) -> str:
    if any(name.endswith(SCALE) for name in surplus):
        return "Its weights are quantised: load it with the config.yaml saved beside it (quantization_bit)."
    if misshapen:
        return "Compare num_layers, hidden_size and the other sizes of model_config with the checkpoint's."
    if missing and all(is_adapter(name) for name in missing):
        return "The file has no adapter for this network: give the adapter's own file as well, or leave out pet_config."
    if surplus and all(is_adapter(name) for name in surplus):
        if PREFIX_NAME in surplus:
            return "The file holds a prefix (P-Tuning v2): set model_config.pre_seq_len to its length."
        return "The file holds an adapter: set model_config.pet_config, or merge it with tools/merge_lora.py."
    return "Load a checkpoint of this network, or ask for a partial load (partial=True)."


def check_values(place: object, name: str, bits: np.ndarray, dtype: str, target: str) -> None:
    """Passes when the bits of a tensor are finite numbers of the kind that `target` is.

    Raises:
        CheckpointError: they are not.
    """
    if not is_finite(bits, dtype):
        raise CheckpointError(
            str(place), f"{name} holds numbers that are not finite (NaN or infinity)", "Use an earlier checkpoint."
        )
    if (dtype in FLOATS) != (target in FLOATS):
        fix = "Load it with the config.yaml that was saved beside it (quantization_bit)."
        raise CheckpointError(str(place), f"{name} is {dtype} and the network needs {target}", fix)


def _read(weights: _Weights, name: str, target: str) -> np.ndarray:
    """The bits of a weight in another type.

    Raises:
        CheckpointError: some numbers are not finite, there or in the new type, or are not numbers of that kind.
    """
    bits, dtype = weights.bits(name)
    check_values(weights.place, name, bits, dtype, target)
    value = np.ascontiguousarray(convert_bits(bits, dtype, target))
    if value is not bits:
        give_back(bits)
    if dtype != target and not is_finite(value, target):
        raise CheckpointError(
            weights.place, f"{name} does not fit into {target}: a value becomes infinite", "Use float32 or bfloat16."
        )
    return value
