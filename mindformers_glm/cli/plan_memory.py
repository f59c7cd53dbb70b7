"""Prints the memory a training job needs on each device: `mindformers-glm plan --config FILE --devices 8 --gb 32`.

Without --config, the table of docs/distributed.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.config.arguments import find_config
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.names import CONFIGS_DIR
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.parallel.memory import GB, Task, estimate

SHIPPED = {
    32: ("run_glm2_6b_finetune", "run_glm2_6b_finetune_2k", "run_glm2_6b_lora", "run_glm2_6b_lora_2k"),
    64: (
        "run_glm2_6b_finetune_910b",
        "run_glm2_6b_finetune_2k_910b",
        "run_glm2_6b_lora_910b",
        "run_glm2_6b_lora_2k_910b",
    ),
}
MOST_DEVICES, MOST_GB = 1 << 20, 1 << 20
RESERVED = 2  # GB that MindSpore's runtime and the exchange buffers take


def divisions(devices: int) -> list[tuple[int, int]]:
    """(dp, tp) with tp 1, 2, 4, 8 that make up the devices."""
    return [(devices // tp, tp) for tp in (1, 2, 4, 8) if devices % tp == 0]


def rows_of(path: Path, devices: int, gigabytes: int) -> list[str]:
    """A table row for each division of the devices; the shipped one is marked."""
    settings = read_yaml(path)
    values = {name: value for name, value in settings["model"]["model_config"].items() if name != "type"}
    config = NetworkConfig(**{**values, "checkpoint_name_or_path": None})
    task = Task(
        batch_size=settings["runner_config"]["batch_size"],
        seq_length=config.seq_length,
        recompute=bool((settings.get("recompute_config") or {}).get("recompute")),
        lora_rank=(config.pet_config or {}).get("lora_rank", 0),
    )
    divided = bool((settings.get("parallel") or {}).get("enable_parallel_optimizer"))
    sizes = settings.get("parallel_config") or {}
    shipped = (sizes.get("data_parallel", 1), sizes.get("model_parallel", 1))
    rows = []
    for dp, tp in divisions(devices):
        memory = estimate(config, task, dp=dp, tp=tp, divided=divided)
        figures = " | ".join(f"{part / GB:.1f}" for part in (*memory, memory.total))
        fits = "yes" if memory.total / GB + RESERVED <= gigabytes else "no"
        mark = " (as shipped)" if (dp, tp) == shipped else ""
        what = f"{task.batch_size} x {task.seq_length}"
        rows.append(f"| {path.stem} | {what} | {dp} x {tp}{mark} | {figures} | {fits} |")
    return rows


def table(files: list[Path], devices: int, gigabytes: int) -> str:
    """The table in Markdown."""
    head = ["configuration", "rows on a data rank", "dp x tp", "weights", "gradients", "Adam", "activations", "sum"]
    head.append(f"fits {gigabytes} GB")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for path in files:
        lines += rows_of(path, devices, gigabytes)
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("--config", help="a YAML file; all shipped ones when left out")
    p.add_argument("--devices", type=whole(1, MOST_DEVICES), default=8, help="devices of the whole job (8)")
    p.add_argument("--gb", type=whole(1, MOST_GB), default=32, help="memory of one device (32)")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Prints one table, or those of all shipped configurations."""
    args = parser().parse_args(arguments)
    if args.config:
        print(table([find_config(args.config)], args.devices, args.gb))
        return
    for gigabytes, names in SHIPPED.items():
        print(f"\n{args.devices} devices of {gigabytes} GB\n")
        print(table([CONFIGS_DIR / f"glm2/{name}.yaml" for name in names], args.devices, gigabytes))
