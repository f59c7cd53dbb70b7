"""Which files an export writes, under the names that MindFormers users know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mindformers_glm.config.sections import InferSection
from mindformers_glm.errors import ConfigError
from mindformers_glm.files import user_path

_SUFFIX, _GRAPH, _LITE2 = ".mindir", "_graph", "_v1"
INSIDE_BYTES = 1 << 30  # networks up to this size hold their weights in the graph; MindSpore draws its line here too


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """Names without `.mindir`, and what the graphs are to be.

    `dynamic`: one graph of any number of tokens serves as prefill and increment. Otherwise the prefill graph takes
    `seq_length` tokens and the increment graph `rows`, and a cache of `rows` x `seq_length` slots. `for_lite_2_0` adds
    the graph that MindSpore Lite 2.0 reads, which is of any length always. `merge_adapter` adds LoRA to the weights;
    otherwise it stays in the graph. `shared_weights` None: a file of its own for the weights of networks above 1 GiB.
    """

    prefill: Path
    increment: Path | None
    rows: int = 1
    dynamic: bool = False
    for_lite_2_0: bool = True
    merge_adapter: bool = False
    shared_weights: bool | None = None

    def __post_init__(self) -> None:
        if self.increment is None:
            if not self.dynamic:
                fix = "Graphs of fixed length come in pairs: name the second one, or set infer.dynamic: True."
                raise ConfigError("infer.increment_model_path", None, fix)
        elif self.increment.parent != self.prefill.parent:
            fix = f"Both graphs share one folder: use {self.prefill.parent / self.increment.name}."
            raise ConfigError("infer.increment_model_path", str(self.increment), fix)
        elif self.increment == self.prefill and not self.dynamic:
            fix = "Graphs of fixed length differ: give each its name, or set infer.dynamic: True."
            raise ConfigError("infer.increment_model_path", str(self.increment), fix)

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.prefill.parent

    @property
    def name(self) -> str:
        """What the manifest and the weights are called: the prefill graph's name without that word."""
        return self.prefill.name.replace("_prefill", "").replace("prefill_", "") or "model"

    @property
    def weights(self) -> Path:
        """The shared weights."""
        return self.folder / f"{self.name}_variables" / "data_0"

    @property
    def lite_2_0(self) -> Path:
        """The name of the graph for Lite 2.0."""
        return self.folder / (self.name + _LITE2)

    @staticmethod
    def graph(stem: Path, *, inside: bool) -> Path:
        """The file of a graph whose weights are inside, or not."""
        return stem.with_name(stem.name + _GRAPH * (not inside) + _SUFFIX)


def make_plan(infer: InferSection | None, *, folder: Path, model_name: str, seq_length: int, rows: int) -> ExportPlan:
    """The plan of an `infer` section; names that it leaves out become `<folder>/<model>_prefill_seq<N>.mindir`.

    Raises:
        ConfigError: names that do not go together.
    """
    infer = infer or InferSection()
    prefill: str | Path | None = infer.prefill_model_path
    increment: str | Path | None = infer.increment_model_path
    if not prefill:
        prefill = folder / f"{model_name}_prefill_seq{seq_length}"
        increment = increment or folder / f"{model_name}_inc_seq{seq_length}"
    return ExportPlan(
        prefill=stem(prefill),
        increment=stem(increment) if increment else None,
        rows=rows,
        dynamic=infer.dynamic,
        for_lite_2_0=infer.for_lite_2_0,
        merge_adapter=infer.merge_lora,
    )


def stem(path: str | Path) -> Path:
    """A graph's path without `.mindir` and `_graph`, which are added as they apply."""
    path = user_path(path)
    return path.with_name(path.name.removesuffix(_SUFFIX).removesuffix(_GRAPH))
