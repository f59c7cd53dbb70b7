"""The road from a name, folder, file or YAML to an engine with its tokenizer, by whichever network computes it here.

On the CPU the compiled kernels compute from the weight files, and MindSpore is not even imported. What they cannot
compute, and every other device, takes the network of MindSpore; the log says why.
"""

from __future__ import annotations

import atexit
import dataclasses
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_glm import runtime
from mindformers_glm.assembly.adapter_base import adapter_of, alone, check_base
from mindformers_glm.assembly.configuration import changed
from mindformers_glm.assembly.held import HeldNetwork
from mindformers_glm.assembly.held_files import NeedsMindSpore, load_held, obstacles
from mindformers_glm.assembly.request import ModelRequest
from mindformers_glm.errors import ConfigError, DeviceError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.generation.generate import BACKENDS
from mindformers_glm.generation.kernel_network import KernelNetwork
from mindformers_glm.log import log_once
from mindformers_glm.tokenizers.glm import GLMTokenizer

if TYPE_CHECKING:
    from mindspore import nn


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
            found = obstacles(over.config)
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


def load_engine(request: ModelRequest, *, options: Mapping[str, Any] | None = None) -> Loaded:
    """Engine and tokenizer of the model that is asked for.

    `options` are those of MindSporeEngine (backend, cache_dtype, cache_tokens, and those of Engine). With `tp_size`
    above 1 the engine is that of rank 0; the other ranks work here until it ends, and end.

    Raises:
        UserError: whatever is missing or does not fit, before anything is compiled.
    """
    options = dict(options or {})
    needed = request.device_target == "Ascend" or request.tp_size > 1 or options.get("backend") == "graph"
    if not needed:
        try:
            held, of_run = _held(request)
        except NeedsMindSpore as error:
            log_once(str(error))
        else:
            tokenizer = request.chosen_tokenizer(of_run, held.config.padded_vocab_size)
            changes = {**request.changes, "compute_dtype": held.config.compute_dtype}
            same = dataclasses.replace(request, device_target=None, changes=changes)
            return Loaded(held_engine(held, options), tokenizer, held=held, make=lambda: _load_model(same).network)
    return _with_mindspore(request, options)


def _held(request: ModelRequest) -> tuple[HeldNetwork, GLMTokenizer | None]:
    """The network without MindSpore, and the tokenizer of a YAML file."""
    if not request.is_yaml:
        known: dict[str, Any] = {"adapter": request.adapter, "lora_alpha": request.lora_alpha}
        return load_held(request.model, **known, **request.changes), None
    from mindformers_glm.assembly.run_held import held_of_run  # noqa: PLC0415 - it brings every key of a run
    from mindformers_glm.assembly.run_tokenizer import build_tokenizer  # noqa: PLC0415

    config = request.run()
    tokenizer = build_tokenizer(config)
    runtime.seed_python(config.seed)
    return held_of_run(config, adapter=request.adapter), tokenizer


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


def _with_mindspore(request: ModelRequest, options: dict[str, Any]) -> Loaded:
    """The same with MindSpore's network.

    Raises:
        DeviceError: MindSpore is not installed.
    """
    from mindformers_glm.generation.generate import MindSporeEngine, engine_of  # noqa: PLC0415

    loaded = _load_model(request)
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


def _load_model(request: ModelRequest) -> Any:
    if find_spec("mindspore") is None:
        raise DeviceError(
            f"{request.model}: this needs MindSpore, which is not installed. pip install 'mindspore==2.10.*'"
        )
    from mindformers_glm.assembly.model import load_model  # noqa: PLC0415 - it imports MindSpore

    return load_model(request)


def _let_go(engine: Engine) -> None:
    """Ends the engine, and then the ranks that follow it."""
    engine.close()
    engine.network.end()  # type: ignore[attr-defined]
