"""Kills a command that writes weights, again and again: `python killed_tools.py TOOL FOLDER KILLS`. Prints a JSON line.

TOOL: convert, merge-lora, quantize, transform, export. Children forked from this warm process run the command; half die
at a random call that changes the disk, half at a random moment. After each kill the inputs are as they were, and every
output is whole: absent, of the run before, or the new one. Then the command is given again and ends as if nothing had
happened, without leftovers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
from conversions import TINY, tiny_arrays  # noqa: E402
from killed_saves import DISK, temporaries  # noqa: E402

import mindformers_glm  # noqa: E402, F401 - warm for every child
from mindformers_glm.checkpoint.convert import save_directory  # noqa: E402
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt  # noqa: E402
from mindformers_glm.checkpoint.store.strategy import Slicing, write_strategy  # noqa: E402
from mindformers_glm.cli.console import main as console  # noqa: E402
from mindformers_glm.config.names import CONFIGS_DIR  # noqa: E402


class Tool(ABC):
    """One command: what it reads, the words that write `out`, and those that an earlier run wrote there with."""

    complete = True  # the outputs appear together, not one by one
    last = ""  # a file that is there only when all others are

    def __init__(self, folder: Path) -> None:
        self.inputs = folder / "inputs"
        self.inputs.mkdir(parents=True)

    @abstractmethod
    def words(self, out: Path) -> list[str]:
        """The command's words."""

    def earlier(self, out: Path) -> list[str] | None:
        """The words of a run whose output this one replaces; None where it replaces nothing."""
        return None


class Convert(Tool):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        save_directory(self.inputs / "model", tiny_arrays(), TINY)

    def words(self, out: Path) -> list[str]:
        return ["convert", "--input_path", str(self.inputs / "model"), "--output_path", str(out), "--to", "hf",
                "--shard_size", "4KB", "--overwrite"]  # fmt: skip

    def earlier(self, out: Path) -> list[str]:
        return [*self.words(out), "--dtype", "fp16"]


class MergeLora(Convert):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rng, layer = np.random.default_rng(3), "transformer.encoder.layers.{}.self_attention.query_key_value"
        arrays = {}
        for number in range(TINY.num_layers):
            name = layer.format(number) + ".mindpet_delta_lora_"
            rows = tiny_arrays()[layer.format(number) + ".weight"].shape[0]
            arrays[name + "a"] = rng.standard_normal((4, TINY.hidden_size)).astype(np.float32)
            arrays[name + "b"] = rng.standard_normal((rows, 4)).astype(np.float32)
        save_ckpt(self.inputs / "adapter.ckpt", arrays)

    def words(self, out: Path) -> list[str]:
        return ["merge-lora", "--base", str(self.inputs / "model"), "--adapter", str(self.inputs / "adapter.ckpt"),
                "--lora_alpha", "8", "--output_path", str(out), "--verify", "layers", "--overwrite"]  # fmt: skip


class Quantize(Tool):
    def words(self, out: Path) -> list[str]:
        return ["quantize", "--checkpoint", "glm2_tiny", "--bits", "4", "--output_path", str(out), "--overwrite"]

    def earlier(self, out: Path) -> list[str]:
        return [*self.words(out), "--bits", "8"]


class Transform(Tool):
    complete = False  # a file for each rank

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        arrays = tiny_arrays()
        save_ckpt(self.inputs / "ckpt/rank_0/whole.ckpt", arrays)
        slicings = {name: Slicing((1, 4), (0,) + (-1,) * (value.ndim - 1)) for name, value in arrays.items()
                    if value.shape[0] % 4 == 0}  # fmt: skip
        write_strategy(self.inputs / "strategy/ckpt_strategy_rank_0.ckpt", slicings)

    def words(self, out: Path) -> list[str]:
        return ["transform", "--src_ckpt_dir", str(self.inputs / "ckpt"), "--dst_ckpt_strategy",
                str(self.inputs / "strategy"), "--dst_ckpt_dir", str(out)]  # fmt: skip


class Export(Tool):
    complete = False  # graphs, then the manifest that names them
    last = "prefill_manifest.json"

    def words(self, out: Path) -> list[str]:
        settings = {
            "config_path": CONFIGS_DIR / "tiny/export_glm2_tiny.yaml",
            "output_dir": out.parent / ".log",
            "model.model_config.num_layers": 1,
            "model.model_config.checkpoint_name_or_path": "",
            "load_checkpoint": "",
            "allow_random_weights": True,
            "infer.prefill_model_path": out / "prefill.mindir",
            "infer.increment_model_path": out / "inc.mindir",
        }
        return ["export", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


TOOLS = {"convert": Convert, "merge-lora": MergeLora, "quantize": Quantize, "transform": Transform, "export": Export}


def contents(folder: Path) -> dict[str, str]:
    """Every visible file below a folder by its digest; logs and resolved configurations are no outputs."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.suffix not in (".log", ".tmp")
    }


def child(words: list[str], log: Path, stage: int | None = None, count: Path | None = None) -> int:
    """Forks the command; it dies at that call that changes the disk, or tells how many there were."""
    pid = os.fork()
    if pid:
        return pid
    status, calls = 1, [0]
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1), os.dup2(stream, 2)
        os.chdir(log.parent)

        def hook(frame, event, argument) -> None:
            if event in ("c_call", "c_return") and getattr(argument, "__name__", "") in DISK:
                if calls[0] == stage:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls[0] += 1

        sys.setprofile(hook)
        status = console(words)
        sys.setprofile(None)
        if count is not None:
            count.write_text(str(calls[0]))
    except BaseException:  # noqa: BLE001 - the child's log is the only witness
        import traceback

        traceback.print_exc()
    finally:
        sys.setprofile(None)
        with contextlib.suppress(Exception):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def complete(words: list[str], log: Path, count: Path | None = None) -> float:
    """Runs the command to its end; its seconds."""
    begin = time.monotonic()
    _, status = os.waitpid(child(words, log, count=count), 0)
    assert status == 0, log.read_text()[-3000:]
    return time.monotonic() - begin


def main(name: str, folder: Path, kills: int) -> dict:
    folder.mkdir(parents=True)
    tool, chance, log = TOOLS[name](folder), random.Random(11), folder / "log.txt"
    before = contents(tool.inputs)
    clean = [folder / "clean_a" / "out", folder / "clean_b" / "out"]
    for out in clean:
        out.parent.mkdir()
        seconds = complete(tool.words(out), log, folder / "calls")
    calls, (new, other) = int((folder / "calls").read_text()), map(contents, clean)
    assert new.keys() == other.keys() and new
    fixed = {path for path in new if new[path] == other[path]}  # others tell a time or a path
    old: dict[str, str] = {}
    if tool.earlier(clean[1]) is not None:
        complete(tool.earlier(clean[1]), log)
        old = contents(clean[1])
    seen = {"absent": 0, "old": 0, "new": 0, "part": 0}
    died = 0
    for number in range(kills):
        place = folder / f"kill_{number}"
        out = place / "out"
        place.mkdir()
        replaces = bool(old) and number % 4 < 2
        if replaces:
            complete(tool.earlier(out), log)
        aimed = number % 2 == 0
        pid = child(tool.words(out), log, chance.randrange(calls) if aimed else None)
        if not aimed:
            time.sleep(chance.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        died += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or status == 0, log.read_text()[-3000:]
        assert contents(tool.inputs) == before, "an input has changed"
        seen[_state(tool, out, new, old if replaces else {}, fixed)] += 1
        complete(tool.words(out), log)
        again = contents(out)
        assert again.keys() == new.keys() and all(again[path] == new[path] for path in fixed), again.keys() ^ new.keys()
        assert temporaries(place) == 0
        left = sorted(path.name for path in place.iterdir() if not path.name.startswith("."))
        assert left == ["out"], left
        shutil.rmtree(place)
    return {"tool": name, "kills": kills, "died": died, "calls": calls, "files": len(new), **seen}


def _state(tool: Tool, out: Path, new: dict[str, str], old: dict[str, str], fixed: set[str]) -> str:
    """What a killed command left: nothing, the old output, the new one, or for some tools a part of whole files."""
    if not out.exists() and old:  # between two renames the old folder waits under another name
        out = out.with_name(out.name + ".previous")
        assert out.exists(), "the old output is gone and the new one is not there"
    there = contents(out) if out.exists() else {}
    if not there:
        return "absent"
    if there.keys() == new.keys() and all(there[path] == new[path] for path in fixed):
        return "new"
    if old and there.keys() == old.keys() and all(there[path] == old[path] for path in fixed & old.keys()):
        return "old"
    assert tool.last not in there, f"{tool.last} is there, and only {sorted(there)}"
    assert not tool.complete, f"neither old nor new: {sorted(there)}"
    assert all(there[path] == new[path] for path in there if path in fixed), "a file is not whole"
    return "part"


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
