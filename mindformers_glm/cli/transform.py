"""Changes how a checkpoint is divided among ranks: merge, split, or any division to any other.

mindformers-glm transform --src_ckpt_strategy output/strategy --src_ckpt_dir output/checkpoint_network \
    --dst_ckpt_dir target_checkpoint --prefix glm2_6b          -> target_checkpoint/rank_0/glm2_6b0.ckpt
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mindformers_glm.cli.options import Parser
from mindformers_glm.errors import CheckpointError


def parser() -> argparse.ArgumentParser:
    """The documented options, and --weights_only."""
    p = Parser(description=__doc__)
    p.add_argument("--src_ckpt_strategy", default="", help="file or folder; empty or None: complete weights")
    p.add_argument("--dst_ckpt_strategy", default="", help="file or folder; empty or None: complete weights")
    p.add_argument("--src_ckpt_dir", default="", help="folder with rank_0, rank_1, ...")
    p.add_argument("--dst_ckpt_dir", default="", help="folder to write rank_0, rank_1, ... into")
    p.add_argument("--prefix", default="checkpoint_", help="files are named <prefix><rank>.ckpt")
    p.add_argument("--weights_only", action="store_true", help="leave out optimizer states and counters")
    return p


def main(arguments: list[str] | None = None) -> list[Path]:
    """Transforms and returns the files written."""
    args = parser().parse_args(arguments)
    from mindformers_glm.checkpoint.store.reshard import RankFiles, transform  # noqa: PLC0415 - reads weights
    from mindformers_glm.checkpoint.store.strategy import read_strategy  # noqa: PLC0415

    for name in ("src_ckpt_strategy", "dst_ckpt_strategy", "src_ckpt_dir", "dst_ckpt_dir", "prefix"):
        print(f"{name}: {getattr(args, name)}")
    for name in ("src_ckpt_dir", "dst_ckpt_dir"):
        if not getattr(args, name):
            raise CheckpointError(f"--{name}", "it is empty", "Name a folder.")
    if os.path.realpath(args.src_ckpt_dir) == os.path.realpath(args.dst_ckpt_dir):
        raise CheckpointError("--dst_ckpt_dir", "it is the source folder", "Name another folder.")
    print("......Start transform......", flush=True)
    source = RankFiles(args.src_ckpt_dir, read_strategy(args.src_ckpt_strategy))
    target = read_strategy(args.dst_ckpt_strategy)
    written = transform(source, target, args.dst_ckpt_dir, prefix=args.prefix, weights_only=args.weights_only)
    print("......Transform succeed!......")
    for path in written:
        print(path)
    return written
