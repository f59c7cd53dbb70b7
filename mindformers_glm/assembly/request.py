"""A model as it is asked for: the same words wherever one is loaded, with MindSpore or without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_glm.assembly.configuration import read_adapter
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.assembly.tokenizer import load_tokenizer
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.tokenizers.chatglm import check_fits
from mindformers_glm.tokenizers.glm import GLMTokenizer

if TYPE_CHECKING:
    from mindformers_glm.config import RunConfig


@dataclass(frozen=True)
class ModelRequest:
    """What to load.

    - `model`: a registered name, hub id, folder, weight file, run or YAML file;
    - `adapter`: a LoRA or prefix in any form; `lora_alpha`: the alpha of a LoRA where no file tells it;
    - `tokenizer`: the one that replaces the model's own;
    - `device_target`: None is that of the YAML file, or the CPU;
    - `tp_size`: above 1, this process is one of so many that a launcher started, and gets its part of the network;
    - `changes`: keys of the network's configuration, such as seq_length.
    """

    model: str
    adapter: str | None = None
    lora_alpha: float | None = None
    tokenizer: str | None = None
    device_target: str | None = None
    tp_size: int = 1
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_yaml(self) -> bool:
        """Whether `model` is the configuration of a run."""
        return Path(self.model).suffix in (".yaml", ".yml")

    def run(self) -> RunConfig:
        """The configuration that a YAML file describes, for prediction on `tp_size` tensor ranks.

        Raises:
            UserError: a key or the adapter is wrong.
        """
        from mindformers_glm.config import load_config  # noqa: PLC0415 - it brings every key of a run

        config, changes = load_config(self.model, ["run_mode=predict"]), dict(self.changes)
        if self.adapter is not None:
            _, pet_config = read_adapter(resolve(self.adapter), config.network.config.build(), self.lora_alpha)
            changes = {"pet_config": pet_config, **changes}
        return config.changed(
            {
                "use_parallel": self.tp_size > 1,
                "parallel": {"parallel_mode": 1},
                "parallel_config": {"data_parallel": 1, "model_parallel": self.tp_size, "pipeline_stage": 1},
                **({"model": {"model_config": changes}} if changes else {}),
                **({"context": {"device_target": self.device_target}} if self.device_target else {}),
            }
        )

    def chosen_tokenizer(self, of_run: GLMTokenizer | None, vocabulary: int) -> GLMTokenizer:
        """The tokenizer that is asked for, else that of a YAML file (`of_run`), else the model's own.

        Raises:
            UserError: there is none, or its ids do not fit an embedding of `vocabulary` rows.
        """
        found = of_run
        if self.tokenizer is not None or found is None:
            found = load_tokenizer(self.tokenizer or parts_of(self.model).base.name)
        check_fits(found, vocabulary)
        return found
