#!/usr/bin/env python3
"""Changes how a checkpoint is divided among ranks: merge, split, or any division to any other.

python tools/transform_ckpt.py --src_ckpt_strategy output/strategy --src_ckpt_dir output/checkpoint_network \
    --dst_ckpt_dir target_checkpoint --prefix glm2_6b          -> target_checkpoint/rank_0/glm2_6b0.ckpt
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindformers_glm.checkpoint.reshard import RankFiles, transform  # noqa: E402
from mindformers_glm.checkpoint.strategy import read_strategy  # noqa: E402
from mindformers_glm.errors import CheckpointError, UserError  # noqa: E402


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The documented options, and --weights_only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src_ckpt_strategy", default="", help="file or folder; empty or None: complete weights")
    parser.add_argument("--dst_ckpt_strategy", default="", help="file or folder; empty or None: complete weights")
    parser.add_argument("--src_ckpt_dir", default="", help="folder with rank_0, rank_1, ...")
    parser.add_argument("--dst_ckpt_dir", default="", help="folder to write rank_0, rank_1, ... into")
    parser.add_argument("--prefix", default="checkpoint_", help="files are named <prefix><rank>.ckpt")
    parser.add_argument("--weights_only", action="store_true", help="leave out optimizer states and counters")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> list[Path]:
    """Transforms and returns the files written."""
    args = parse_arguments(arguments)
    for name in ("src_ckpt_strategy", "dst_ckpt_strategy", "src_ckpt_dir", "dst_ckpt_dir", "prefix"):
        print(f"{name}: {getattr(args, name)}")
    for name in ("src_ckpt_dir", "dst_ckpt_dir"):
        if not getattr(args, name):
            raise CheckpointError(f"--{name}", "it is empty", "Name a folder.")
    if Path(args.src_ckpt_dir).resolve() == Path(args.dst_ckpt_dir).resolve():
        raise CheckpointError("--dst_ckpt_dir", "it is the source folder", "Name another folder.")
    print("......Start transform......", flush=True)
    source = RankFiles(args.src_ckpt_dir, read_strategy(args.src_ckpt_strategy))
    target = read_strategy(args.dst_ckpt_strategy)
    written = transform(source, target, args.dst_ckpt_dir, prefix=args.prefix, weights_only=args.weights_only)
    print("......Transform succeed!......")
    for path in written:
        print(path)
    return written


if __name__ == "__main__":
    try:
        main()
    except UserError as fault:
        sys.exit(f"transform_ckpt: {fault}")
