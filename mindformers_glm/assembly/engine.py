"""The road from a name, folder, file or YAML to an engine with its tokenizer, by whichever network computes it here.

On the CPU the compiled kernels compute from the weight files, and MindSpore is not even imported. What they cannot
compute, and every other device, takes the network of MindSpore; the log says why.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_glm.adapters.config import LoraConfig
from mindformers_glm.assembly.adapter_base import adapter_of, alone, check_base
from mindformers_glm.assembly.configuration import changed, config_of, read_adapter, with_small_table
from mindformers_glm.assembly.held import HeldNetwork
from mindformers_glm.assembly.parts import Parts, parts_of
from mindformers_glm.assembly.tokenizer import load_tokenizer
from mindformers_glm.assembly.weights import divided_weights
from mindformers_glm.assembly.whole_layers import folder_of, is_whole, layers_of
from mindformers_glm.checkpoint.convert.checks import check_fits as check_sizes
from mindformers_glm.checkpoint.load.source import WeightSource
from mindformers_glm.errors import CheckpointError, ConfigError, DeviceError, listed
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import BACKENDS
from mindformers_glm.generation.kernel_network import KernelNetwork
from mindformers_glm.log import log_once
from mindformers_glm.models import naming
from mindformers_glm.models.described import LINEAR
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.ops.kernels import library
from mindformers_glm.tokenizers.chatglm import check_fits
from mindformers_glm.tokenizers.glm import GLMTokenizer

if TYPE_CHECKING:
    from mindspore import nn

_YAML = (".yaml", ".yml")


class Loaded:
    """All that a conversation needs. `held` is the network where it was loaded without MindSpore."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: GLMTokenizer,
        network: nn.Cell | None = None,
        *,
        held: HeldNetwork | None = None,
        make: Callable[[], nn.Cell] | None = None,
    ) -> None:
        self.engine, self.tokenizer, self.held = engine, tokenizer, held
        self._network, self._make = network, make

    @property
    def network(self) -> nn.Cell | None:
        """The model as MindSpore's network: loaded now where the engine computes without it. None for an export."""
        if self._network is None and self._make is not None:
            self._network = self._make()
        return self._network

    def adapted(
        self, adapter: str | Path, *, lora_alpha: float | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Engine, int]:
        """The engine that computes the model with an adapter beside the model itself, and the adapter's number in it.

        `adapter` is a PEFT folder, a run's folder or a checkpoint; `lora_alpha` the alpha of a LoRA where no file tells
        it. An adapter that cannot share the base's batches gets an engine of its own, with these options, and number 0.

        Raises:
            UserError: it is no adapter, was trained with other weights, or does not fit this base.
        """
        if self.held is not None:
            over = held_adapted(self.held, adapter, lora_alpha=lora_alpha)
            found = _obstacles(over.config)
            if not found and not over.config.has_prefix:
                return self.engine, self.engine.add_adapter(over.weights())
            if not found:
                return held_engine(over, options or {}), 0
            log_once(f"{adapter}: {NeedsMindSpore(*found)}")
        from mindformers_glm.assembly.adapted import adapted  # noqa: PLC0415 - they need MindSpore
        from mindformers_glm.generation.generate import MindSporeEngine, attach  # noqa: PLC0415

        network = adapted(self.network, adapter, lora_alpha=lora_alpha)
        number = attach(self.engine, network)
        return (self.engine, number) if number is not None else (MindSporeEngine(network, **options or {}), 0)


def load_engine(
    model: str,
    *,
    adapter: str | None = None,
    lora_alpha: float | None = None,
    tokenizer: str | None = None,
    device_target: str | None = None,
    tp_size: int = 1,
    options: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Loaded:
    """Engine and tokenizer of a registered name, hub id, folder, weight file, run or YAML file, as `load_model` says.

    `options` are those of MindSporeEngine (backend, cache_dtype, cache_tokens, and those of Engine). With `tp_size`
    above 1 the engine is that of rank 0; the other ranks work here until it ends, and end.

    Raises:
        UserError: whatever is missing or does not fit, before anything is compiled.
    """
    options = dict(options or {})
    asked = {"adapter": adapter, "lora_alpha": lora_alpha, "tokenizer": tokenizer}
    needed = device_target == "Ascend" or tp_size > 1 or options.get("backend") == "graph"
    if not needed:
        try:
            held = load_held(model, adapter=adapter, lora_alpha=lora_alpha, **changes)
        except NeedsMindSpore as error:
            log_once(str(error))
        else:
            found = load_tokenizer(tokenizer or parts_of(model).base.name)
            check_fits(found, held.config.padded_vocab_size)
            same = {**changes, "compute_dtype": held.config.compute_dtype}
            made = held_engine(held, options)
            return Loaded(made, found, held=held, make=lambda: _load_model(model, **asked, **same).network)
    return _with_mindspore(model, options, device_target=device_target, tp_size=tp_size, **asked, **changes)


class NeedsMindSpore(Exception):
    """A network that the kernels alone cannot compute; the text says why."""

    def __init__(self, *reasons: str) -> None:
        told = "; ".join(reasons[:3])
        super().__init__(f"MindSpore's network is loaded, as the kernels alone cannot compute this: {told}")


def load_held(
    model: str | Path, *, adapter: str | Path | None = None, lora_alpha: float | None = None, **changes: Any
) -> HeldNetwork:
    """The network of a registered name, hub id, folder, weight file or run, with its weights and adapter.

    `changes` are keys of its configuration. Where they do not ask for another `compute_dtype` it is float32: what a
    published folder states is the type of GPUs.

    Raises:
        NeedsMindSpore: the kernels alone cannot compute it.
        ConfigError, CheckpointError: no such model, or its weights do not fit. Random weights never stand in.
    """
    if Path(model).suffix in _YAML:
        raise NeedsMindSpore("a YAML file describes it")
    if library.library() is None:
        raise NeedsMindSpore("there are no kernels for this device")
    parts = parts_of(model, adapter=adapter)
    if divided_weights(parts.base.weights, None) is not None:
        raise NeedsMindSpore("its weights are divided among ranks")
    config, source = _configured(parts, lora_alpha, changes)
    if "compute_dtype" not in changes:
        config = _computed_here(config, model)
    if reasons := _obstacles(config):
        raise NeedsMindSpore(*reasons)
    return _filled(parts, config, source)


def held_adapted(base: HeldNetwork, adapter: str | Path, *, lora_alpha: float | None = None) -> HeldNetwork:
    """A network with the adapter, over the very tensors of `base`; as `adapted.adapted`.

    Raises:
        UserError: it is no adapter, was trained with other weights, or does not fit this base.
    """
    source, pet_config = adapter_of(adapter, base.config, lora_alpha)
    check_base(base.slots, source)
    network = HeldNetwork(changed(base.config, {"pet_config": pet_config}))
    network.share(base)
    network.load(source if source.kind == "adapter" else alone(source))
    return network


def _configured(
    parts: Parts, lora_alpha: float | None, changes: dict[str, Any]
) -> tuple[NetworkConfig, WeightSource | None]:
    """The configuration with its changes, and the adapter's weights, not yet read."""
    known, source = config_of(parts.base), None
    if parts.adapter is not None:
        source, pet_config = read_adapter(parts.adapter, known, lora_alpha, given=changes.get("pet_config"))
        changes = {"pet_config": pet_config, **changes}
    return (changed(known, changes) if changes else known.settled()), source


def _filled(parts: Parts, config: NetworkConfig, adapter: WeightSource | None) -> HeldNetwork:
    """The network of a configuration with its weights and adapter.

    Raises:
        CheckpointError: its weights do not fit.
    """
    place = parts.base.weights
    weights = parts.base.read()
    check_sizes(weights, config)
    config = with_small_table(config, weights)
    whole = None
    if is_whole(config):
        blocks = naming.parts(config).blocks
        whole = layers_of(config, weights, place, [getattr(block, name) for block in blocks for name in LINEAR])
    network = HeldNetwork(config, whole=whole, place=str(folder_of(config, place)))
    network.load(weights, new_adapter=adapter is not None)
    if adapter is not None:
        network.load(adapter)
    if missing := network.missing():
        raise CheckpointError(str(place), f"nothing tells {listed(missing, 3)}", "Load a checkpoint of this network.")
    return network


def held_engine(held: HeldNetwork, options: Mapping[str, Any]) -> Engine:
    """The engine over a network without MindSpore; options as for MindSporeEngine.

    Raises:
        ConfigError: there is no such backend or type of the cache.
    """
    rest = {name: value for name, value in options.items() if name not in ("backend", "cache_dtype", "cache_tokens")}
    given = {name: options.get(name) for name in ("cache_dtype", "cache_tokens")}
    backend = options.get("backend")
    if backend not in (None, *BACKENDS):
        raise ConfigError("backend", backend, f"Use one of {', '.join(BACKENDS)}.")
    network: Any = KernelNetwork(held.weights(), **given)
    return Engine(network, defaults=GenerationConfig.from_model(held.config), **rest)


def _computed_here(config: NetworkConfig, model: str | Path) -> NetworkConfig:
    """The configuration for this CPU: it multiplies in float32, whatever type a published folder states.

    Weights are held as the folder says, and read as they lie there.
    """
    if config.compute_dtype == "float32":
        return config
    log_once(f"{model}: compute_dtype {config.compute_dtype}: this CPU computes in float32, from weights as they are")
    return config.model_copy(update={"compute_dtype": "float32"})


def _obstacles(config: NetworkConfig) -> list[str]:
    """Why a network of this configuration cannot be computed by the kernels from its files."""
    if not naming.is_described(config):
        return ["only its network tells what its weights are"]
    found = [
        f"{key} is {value}"
        for key, value in (
            ("compute_dtype", config.compute_dtype),
            ("layernorm_compute_type", config.layernorm_compute_type),
            ("the residual stream", config.stream_dtype),
        )
        if value != "float32"
    ]
    adapter = config.adapter
    if isinstance(adapter, LoraConfig):
        if adapter.compute_dtype == "float16":
            found.append("its adapter is computed in float16")
        if is_whole(config):
            found.append("W8A8 layers have an adapter")
    if is_whole(config) and any(size % 4 for size in (config.hidden_size, config.ffn_hidden_size)):
        found.append("W8A8 layers whose columns are no multiple of 4")
    return found


def _with_mindspore(model: str, options: dict[str, Any], **given: Any) -> Loaded:
    """The same with MindSpore's network.

    Raises:
        DeviceError: MindSpore is not installed.
    """
    from mindformers_glm.generation.generate import MindSporeEngine, engine_of  # noqa: PLC0415

    loaded = _load_model(model, **given)
    axis = loaded.network.led_over
    if axis is not None and axis.rank > 0:
        from mindformers_glm.generation.led import follow  # noqa: PLC0415
        from mindformers_glm.generation.network import MindSporeNetwork  # noqa: PLC0415

        follow(MindSporeNetwork(loaded.network), axis)
        raise SystemExit(0)
    made = MindSporeEngine(loaded.network, **options) if options else engine_of(loaded.network)
    if axis is not None:
        atexit.register(_let_go, made)
    return Loaded(made, loaded.tokenizer, loaded.network)


def _load_model(model: str, **given: Any) -> Any:
    if find_spec("mindspore") is None:
        raise DeviceError(f"{model}: this needs MindSpore, which is not installed. pip install 'mindspore==2.10.*'")
    from mindformers_glm.assembly.model import load_model  # noqa: PLC0415 - it imports MindSpore

    return load_model(model, **given)


def _let_go(engine: Engine) -> None:
    """Ends the engine, and then the ranks that follow it."""
    engine.close()
    engine.network.end()  # type: ignore[attr-defined]
