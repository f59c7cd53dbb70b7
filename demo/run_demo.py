"""`make demo`: fine-tunes glm2_tiny on a style it has never seen, before your eyes, and writes your advertisement.

python demo/run_demo.py --product "红色复古波点连衣裙"
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from demo.product import read_product  # noqa: E402
from demo.screen import curve, heading, is_terminal, note, paint, quote, table  # noqa: E402
from demo.stage import Outcome, StageFailed, run_stage  # noqa: E402
from mindformers_glm.cli.options import Parser, whole  # noqa: E402
from mindformers_glm.cli.report import report  # noqa: E402
from mindformers_glm.files import write_text  # noqa: E402
from tools.glm2_tiny.make_corpus import adgen, write_lines  # noqa: E402

DEFAULT_PRODUCT = "红色复古波点连衣裙"
METRICS = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")
_ASSETS = ROOT / "mindformers_glm/assets/glm2_tiny"
_INTERRUPTED = 130


class Way(NamedTuple):
    """One way to fine-tune: its name on the screen, its YAML, and its folder below the output."""

    title: str
    config: str
    folder: str


WAYS = (Way("LoRA", "demo/lora.yaml", "lora"), Way("full fine-tuning", "demo/full.yaml", "full"))


class Demo:
    """The demo's stages, in the order in which they are shown."""

    def __init__(self, output: Path, *, train_lines: int, eval_lines: int) -> None:
        self.output, self.train_lines, self.eval_lines = output, train_lines, eval_lines
        self.train_file, self.eval_file = output / "live_train.json", output / "live_eval.json"
        self.results = output / "results.json"

    def make_data(self) -> None:
        """Writes the training and evaluation lines of the held-back style."""
        heading("1  The data: products in the style of a host selling live")
        rows = list(adgen("live", self.train_lines + self.eval_lines, seed=2, least=2, most=4))
        write_lines(self.train_file, iter(rows[self.eval_lines :]))
        write_lines(self.eval_file, iter(rows[: self.eval_lines]))
        note(f"{self.train_lines} lines to learn from, {self.eval_lines} other products to be judged by; one of them:")
        note(paint(rows[0]["content"], "1"))
        quote(rows[0]["summary"])

    def judge(self, config: str, weights: str, folder: str) -> Outcome:
        """ROUGE and BLEU of `weights` on the evaluation lines."""
        return run_stage(
            ["--config", config, "--run_mode", "eval", "--load_checkpoint", weights,
             "--eval_dataset_dir", self.shown(self.eval_file), "--output_dir", self.shown(self.output / folder)],
            self.output / folder / "eval_console.log",
        )  # fmt: skip

    def tune(self, way: Way) -> Outcome:
        """Fine-tunes glm2_tiny on the training lines."""
        return run_stage(
            ["--config", way.config, "--run_mode", "finetune", "--load_checkpoint", "glm2_tiny",
             "--train_dataset_dir", self.shown(self.train_file), "--output_dir", self.shown(self.output / way.folder)],
            self.output / way.folder / "finetune_console.log",
        )  # fmt: skip

    def learn(self) -> dict:
        """Runs every stage up to the table and returns the figures."""
        self.make_data()
        heading("2  Before: glm2_tiny as it ships")
        rows = {"before": self.judge("demo/full.yaml", "glm2_tiny", "before").metrics}
        curves = {}
        for number, way in enumerate(WAYS, start=3):
            heading(f"{number}  Learning the style: {way.title}")
            curves[way.folder] = self.tune(way).losses
            rows[way.folder] = self.judge(way.config, self.shown(self.weights(way)), way.folder).metrics
        found = {"fingerprint": self.fingerprint(), "metrics": rows, "losses": curves}
        write_text(self.results, json.dumps(found, indent=1))
        return found

    def earlier(self) -> dict | None:
        """The figures of a finished earlier run of the same demo, or None."""
        if not self.results.is_file() or not all(self.weights(way).is_file() for way in WAYS):
            return None
        found = json.loads(self.results.read_text(encoding="utf-8"))
        return found if found.get("fingerprint") == self.fingerprint() else None

    def weights(self, way: Way) -> Path:
        """The weights that a fine-tuning run writes."""
        return self.output / way.folder / "checkpoint_network/rank_0/demo_rank_0-network.ckpt"

    def fingerprint(self) -> str:
        """Changes when the packaged model, the demo's configurations or its sizes change."""
        files = [_ASSETS / "model.safetensors", *(ROOT / way.config for way in WAYS)]
        text = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
        return hashlib.sha256(text + f"{self.train_lines} {self.eval_lines}".encode()).hexdigest()

    def shown(self, path: Path) -> str:
        """A path as the commands on the screen write it: relative to the checkout where it lies inside."""
        path = path.resolve()
        return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def show_table(found: dict) -> None:
    """The before/after table."""
    heading("5  Before and after, on products that were not in the training data")
    titles = {"before": "glm2_tiny as it ships", **{way.folder: way.title for way in WAYS}}
    rows = [[titles[key], *(f"{values[name]:.2f}" for name in METRICS)] for key, values in found["metrics"].items()]
    table(["", *METRICS], rows)
    for way in WAYS:
        losses = found["losses"][way.folder]
        note(f"{way.title:<17}loss {losses[0]:.2f} -> {losses[-1]:.2f}  {curve(losses)}")


def ask_product() -> str:
    """What the user types on a terminal; the default for an empty line or where nobody can type."""
    if not (is_terminal() and sys.stdin.isatty()):
        return DEFAULT_PRODUCT
    note("Describe a product, in Chinese or English, for example: a red silk dress with dots, 静音又省电的风扇")
    try:
        return input(paint(f"   product [{DEFAULT_PRODUCT}]: ", "1")).strip() or DEFAULT_PRODUCT
    except EOFError:
        return DEFAULT_PRODUCT


def write_advertisement(demo: Demo, description: str | None) -> None:
    """Lets the packaged and the fine-tuned network write about the user's product, token by token."""
    heading("6  Your advertisement")
    description = description or ask_product()
    product = read_product(description)
    note(f"product: {description}")
    if product.understood and product.content != description:
        note(f"read as: {paint(product.content, '1')}")
    from demo.writer import Writer  # noqa: PLC0415 - MindSpore takes seconds to import and is not needed until now

    writer = Writer()
    note(paint("glm2_tiny as it ships", "1;32"))
    before = writer.write(product.content)
    note(paint(f"after {WAYS[-1].title}", "1;32"))
    writer.load(demo.weights(WAYS[-1]))
    after = writer.write(product.content)
    (demo.output / "advertisement.txt").write_text(
        f"{description}\n{product.content}\n\n{before}\n\n{after}\n", encoding="utf-8"
    )


def main() -> int:
    """Exit status."""
    parser = Parser(description=__doc__)
    parser.add_argument("--product", default=os.environ.get("PRODUCT") or None, help="what to advertise; else asked")
    parser.add_argument("--output_dir", default=str(ROOT / "demo_output"))
    parser.add_argument("--train_lines", type=whole(8, 100_000), default=1600)
    parser.add_argument("--eval_lines", type=whole(1, 100_000), default=40)
    parser.add_argument("--again", action="store_true", help="train again although an earlier run is there")
    given = parser.parse_args()
    demo = Demo(Path(given.output_dir), train_lines=given.train_lines, eval_lines=given.eval_lines)
    started = time.time()
    try:
        print(paint("mindformers_glm: a ChatGLM2 with 3.4 million parameters learns a new style on this CPU", "1"))
        again = given.again or bool(os.environ.get("AGAIN"))
        found = None if again else demo.earlier()
        if found:
            note(f"The models of an earlier run are in {demo.shown(demo.output)}. To train again: AGAIN=1 make demo")
        show_table(found or demo.learn())
        write_advertisement(demo, given.product)
    except KeyboardInterrupt:
        print("\n   Stopped. `make demo` starts again.")
        return _INTERRUPTED
    except StageFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    note("")
    note(f"{time.time() - started:.0f} s. Logs, curves and checkpoints: {demo.shown(demo.output)}/")
    note("Chat with the model as it ships:  .venv/bin/python tools/chat.py")
    return 0


if __name__ == "__main__":
    sys.exit(report(main))
