"""Proposes how to divide a training job among devices, and tells the memory that each division needs.

    mindformers-glm plan --config FILE --devices 8 --gb 32 [--output_file PLANNED.yaml]
    mindformers-glm plan --config FILE --serve --gb 32

Every division that fits keeps the samples of a step; the fastest by the cost model of parallel/proposal.py comes first,
and --output_file writes the YAML with its settings. --serve plans serving: weights, cache, time of a token. Without
--config, the table of docs/distributed.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mindformers_glm.cli.options import Parser, number, whole
from mindformers_glm.config.arguments import find_config
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.names import CONFIGS_DIR
from mindformers_glm.errors import ConfigError
from mindformers_glm.files import user_path, write_text
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.parallel.memory import GB, Grid, Task, estimate
from mindformers_glm.parallel.proposal import Machine, Proposal, proposals, settings_of
from mindformers_glm.parallel.serving import ways

if TYPE_CHECKING:
    from mindformers_glm.models.interface import NetworkConfig

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
_SHOWN = 8  # proposals
RESERVED = 2  # GB that MindSpore's runtime and the exchange buffers take


def divisions(devices: int) -> list[tuple[int, int]]:
    """(dp, tp) with tp 1, 2, 4, 8 that make up the devices."""
    return [(devices // tp, tp) for tp in (1, 2, 4, 8) if devices % tp == 0]


def read_job(path: Path) -> tuple[dict[str, Any], NetworkConfig, Task]:
    """The settings of a file, its network, and what is trained."""
    from mindformers_glm.models.interface import NetworkConfig  # noqa: PLC0415 - not for --help

    settings = read_yaml(path)
    values = {name: value for name, value in settings["model"]["model_config"].items() if name != "type"}
    config = NetworkConfig(**{**values, "checkpoint_name_or_path": None})
    task = Task(
        batch_size=settings["runner_config"]["batch_size"],
        seq_length=config.seq_length,
        recompute=bool((settings.get("recompute_config") or {}).get("recompute")),
        lora_rank=(config.pet_config or {}).get("lora_rank", 0),
    )
    return settings, config, task


def rows_of(path: Path, devices: int, gigabytes: int) -> list[str]:
    """A table row for each division of the devices, the shipped one marked, and one with weights divided over all."""
    settings, config, task = read_job(path)
    divided = bool((settings.get("parallel") or {}).get("enable_parallel_optimizer"))
    sizes = settings.get("parallel_config") or {}
    shipped = (sizes.get("data_parallel", 1), sizes.get("model_parallel", 1))
    grids = {
        f"{dp} x {tp}" + (" (as shipped)" if (dp, tp) == shipped else ""): Grid(dp, tp, level=int(divided))
        for dp, tp in divisions(devices)
    }
    if devices > 1:
        grids[f"{devices} x 1, zero_level 3"] = Grid(devices, level=3)
    rows = []
    for division, grid in grids.items():
        memory = estimate(config, task, grid=grid)
        figures = " | ".join(f"{part / GB:.1f}" for part in (*memory, memory.total))
        fits = "yes" if memory.total / GB + RESERVED <= gigabytes else "no"
        what = f"{task.batch_size} x {task.seq_length}"
        rows.append(f"| {path.stem} | {what} | {division} | {figures} | {fits} |")
    return rows


def table(files: list[Path], devices: int, gigabytes: int) -> str:
    """The table in Markdown."""
    head = ["configuration", "rows on a data rank", "dp x tp", "weights", "gradients", "Adam", "activations", "sum"]
    head.append(f"fits {gigabytes} GB")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for path in files:
        lines += rows_of(path, devices, gigabytes)
    return "\n".join(lines)


def propose(path: Path, machine: Machine) -> tuple[dict[str, Any], Task, list[Proposal]]:
    """The settings of a file, its task, and the divisions that fit, the fastest first."""
    settings, config, task = read_job(path)
    sizes, runner = settings.get("parallel_config") or {}, settings.get("runner_config") or {}
    micro = sizes.get("micro_batch_num", 1) if sizes.get("pipeline_stage", 1) > 1 else 1
    batch = task.batch_size * sizes.get("data_parallel", 1) * micro * (runner.get("gradient_accumulation_steps") or 1)
    found = proposals(
        config, task, machine, batch=batch, stages=lambda size: FAMILIES.of(config).staged(config, size).counts
    )
    return settings, task, found


def shown(found: list[Proposal], task: Task) -> str:
    """The first divisions in Markdown."""
    head = ["dp x tp x pp x cp", "ZeRO", "rows divided", "micro batches", "weights", "gradients", "state"]
    head += ["activations", "sum GB", "sent GB a step", "s a step", "tokens/s"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in found[:_SHOWN]:
        grid = one.grid
        figures = [f"{part / GB:.1f}" for part in (*one.memory, one.memory.total, one.sent)]
        rate = grid.dp * one.micro * task.batch_size * task.seq_length / one.seconds
        cells = [f"{grid.dp} x {grid.tp} x {grid.pp} x {grid.cp}", str(grid.level), "yes" if grid.rows else "no"]
        lines.append("| " + " | ".join([*cells, str(one.micro), *figures, f"{one.seconds:.3f}", f"{rate:.0f}"]) + " |")
    return "\n".join(lines)


def served(path: Path, args: argparse.Namespace) -> str:
    """The ways to serve the network of a file, in Markdown."""
    _, config, _ = read_job(path)
    head = ["weights", "devices", "weights GB", "cache GB of 8192 tokens", f"tokens that fit {args.gb} GB"]
    head += ["ms a token", "ms a prompt of 1024"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for way in ways(config, args.devices, flops=args.tflops * 1e12, memory=args.memory_gbs * 1e9):
        room = way.tokens_that_fit(args.gb, RESERVED)
        cells = [way.form, str(way.tp), f"{way.weights / GB:.1f}", f"{8192 * way.token / GB:.2f}", str(room)]
        cells += [f"{1e3 * way.seconds_a_token:.1f}", f"{1e3 * way.seconds_a_prompt:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = Parser(description=__doc__)
    p.add_argument("--config", help="a YAML file; all shipped ones when left out")
    p.add_argument("--devices", type=whole(1, MOST_DEVICES), default=8, help="devices of the whole job (8)")
    p.add_argument("--gb", type=whole(1, MOST_GB), default=32, help="memory of one device (32)")
    p.add_argument(
        "--tflops", type=number(above=True), default=100.0, help="what a device computes a second, 1e12 (100)"
    )
    p.add_argument("--link_gbs", type=number(above=True), default=25.0, help="GB a second that a device sends (25)")
    p.add_argument("--serve", action="store_true", help="plan serving instead of training")
    p.add_argument(
        "--memory_gbs", type=number(above=True), default=800.0, help="GB a second that a device reads its memory (800)"
    )
    p.add_argument("--output_file", metavar="YAML", help="where to write the configuration with the first proposal")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Prints one table, or those of all shipped configurations."""
    args = parser().parse_args(arguments)
    if args.serve and not args.config:
        raise ConfigError("--serve", args.serve, "Name the configuration to plan: --config FILE.")
    if args.config:
        path = find_config(args.config)
        if args.serve:
            print(served(path, args))
            return
        machine = Machine(args.devices, args.gb, args.tflops * 1e12, args.link_gbs * 1e9, RESERVED)
        settings, task, found = propose(path, machine)
        print(table([path], args.devices, args.gb))
        if not found:
            fix = "Take more devices, or a smaller batch_size or seq_length."
            raise ConfigError("--devices", args.devices, f"No division fits {args.gb} GB a device. {fix}")
        print(f"\n{len(found)} divisions fit; by the cost model ({args.tflops:g} TFLOP/s, {args.link_gbs:g} GB/s):\n")
        print(shown(found, task))
        if args.output_file:
            write_text(
                user_path(args.output_file), yaml.safe_dump(merged(settings, settings_of(found[0])), sort_keys=False)
            )
            print(f"\nwrote {args.output_file}")
        return
    if args.output_file:
        raise ConfigError("--output_file", args.output_file, "Name the configuration to plan: --config FILE.")
    for gigabytes, names in SHIPPED.items():
        print(f"\n{args.devices} devices of {gigabytes} GB\n")
        print(table([CONFIGS_DIR / f"glm2/{name}.yaml" for name in names], args.devices, gigabytes))


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The settings with changes at any depth."""
    out = dict(settings)
    for key, value in changes.items():
        out[key] = merged(out.get(key) or {}, value) if isinstance(value, dict) else value
    return out
