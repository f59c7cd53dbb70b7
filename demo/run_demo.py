"""`make demo`: fine-tunes glm3_tiny on a style it has never seen, before your eyes, and writes your advertisement.

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

from demo import commands  # noqa: E402
from demo.aside import set_aside  # noqa: E402
from demo.coverage import coverage  # noqa: E402
from demo.product import read_product  # noqa: E402
from demo.screen import curve, heading, is_terminal, note, paint, quote, table  # noqa: E402
from demo.stage import Outcome, StageFailed, run_stage  # noqa: E402
from mindformers_glm.cli.options import Parser, whole  # noqa: E402
from mindformers_glm.cli.report import report  # noqa: E402
from mindformers_glm.files import write_text  # noqa: E402
from mindformers_glm.messages import say  # noqa: E402
from tools.glm2_tiny.make_corpus import adgen, write_lines  # noqa: E402

DEFAULT_PRODUCT = "红色复古波点连衣裙"
METRICS = ("rouge-1", "rouge-2", "rouge-l", "bleu-4", "attributes", "whole")
_ASSETS = ROOT / "mindformers_glm/assets/glm3_tiny"
_INTERRUPTED = 130


class Way(NamedTuple):
    """One way to fine-tune: its name on the screen, its YAML, and its folder below the output."""

    name: str
    config: str
    folder: str

    @property
    def title(self) -> str:
        """Its name in the language of the demo."""
        return say("full fine-tuning") if self.folder == "full" else self.name


WAYS = (Way("LoRA", "demo/lora.yaml", "lora"), Way("full fine-tuning", "demo/full.yaml", "full"))


class Demo:
    """The demo's stages, in the order in which they are shown."""

    def __init__(self, output: Path, *, train_lines: int = 1280, eval_lines: int = 40) -> None:
        self.output, self.train_lines, self.eval_lines = output, train_lines, eval_lines
        self.train_file, self.eval_file = output / "live_train.json", output / "live_eval.json"
        self.results = output / "results.json"

    def make_data(self) -> None:
        """Writes the training and evaluation lines of the held-back style."""
        heading(say("1  The data: products in the style of a host selling live"))
        rows = list(adgen("live", self.train_lines + self.eval_lines, seed=2, least=2, most=4))
        write_lines(self.train_file, iter(rows[self.eval_lines :]))
        write_lines(self.eval_file, iter(rows[: self.eval_lines]))
        text = say(
            "{train} lines to learn from, {judged} other products to be judged by; one of them:",
            train=self.train_lines,
            judged=self.eval_lines,
        )
        note(text)
        note(paint(rows[0]["content"], "1"))
        quote(rows[0]["summary"])

    def judge(self, model: str, folder: str) -> dict[str, float]:
        """ROUGE and BLEU of a model on the evaluation lines, and how many attributes its texts name."""
        place = self.output / folder / "evaluation"
        log = self.output / folder / "eval_console.log"
        run_stage(commands.evaluation(model, self.eval_file, place), log, command=True)
        told = json.loads((place / "results.json").read_text(encoding="utf-8"))["results"]["adgen"]
        figures = {name: told[f"{name},none"] for name in METRICS[:-2]}
        figures |= coverage(place / "samples.jsonl", self.eval_file)
        note("  ".join(f"{name} {value:.2f}" for name, value in figures.items() if name in METRICS[:-2]))
        note(say("attributes named: {share:.1f} %", share=figures["attributes"]))
        return figures

    def tune(self, way: Way) -> Outcome:
        """Fine-tunes glm3_tiny on the training lines."""
        set_aside(self.output / way.folder)
        return run_stage(
            ["--config", way.config, "--run_mode", "finetune", "--load_checkpoint", "glm3_tiny",
             "--train_dataset_dir", self.shown(self.train_file), "--output_dir", self.shown(self.output / way.folder)],
            self.output / way.folder / "finetune_console.log",
        )  # fmt: skip

    def learn(self) -> dict:
        """Runs every stage up to the table and returns the figures."""
        self.make_data()
        heading(say("2  Before: glm3_tiny as it ships"))
        rows = {"before": self.judge("glm3_tiny", "before")}
        curves = {}
        for number, way in enumerate(WAYS, start=3):
            heading(say("{number}  Learning the style: {way}", number=number, way=way.title))
            curves[way.folder] = self.tune(way).losses
            rows[way.folder] = self.judge(self.shown(self.output / way.folder), way.folder)
        found = {"fingerprint": self.fingerprint(), "metrics": rows, "losses": curves}
        write_text(self.results, json.dumps(found, indent=1))
        return found

    def earlier(self) -> dict | None:
        """The figures of a finished earlier run of the same demo, or None."""
        found = self.finished()
        return found if found is not None and found.get("fingerprint") == self.fingerprint() else None

    def finished(self) -> dict | None:
        """The figures of any finished run, whatever its sizes; None where there is none."""
        if not self.results.is_file() or not all(self.weights(way).is_file() for way in WAYS):
            return None
        return json.loads(self.results.read_text(encoding="utf-8"))

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


def best_way(found: dict) -> Way:
    """The way whose texts are nearest to the wanted ones: the mean of ROUGE-L, BLEU-4 and attributes named."""

    def figure(way: Way) -> float:
        values = found["metrics"][way.folder]
        return sum(values[name] for name in ("rouge-l", "bleu-4", "attributes"))

    return max(WAYS, key=figure)


def show_table(found: dict) -> None:
    """The before/after table; the better way is marked."""
    heading(say("5  Before and after, on products that were not in the training data"))
    titles = {"before": say("glm3_tiny as it ships"), **{way.folder: way.title for way in WAYS}}
    best = best_way(found).folder
    rows = [
        [titles[key], *(f"{values[name]:.2f}" for name in METRICS), say("<- the best") if key == best else ""]
        for key, values in found["metrics"].items()
    ]
    head = ["", *METRICS[:-2], say("attributes named %"), say("all of them %"), ""]
    table(head, rows, best=list(found["metrics"]).index(best))
    for way in WAYS:
        losses = found["losses"][way.folder]
        note(f"{way.title:<17}loss {losses[0]:.2f} -> {losses[-1]:.2f}  {curve(losses)}")


def ask_product() -> str:
    """What the user types on a terminal; the default for an empty line or where nobody can type."""
    if not (is_terminal() and sys.stdin.isatty()):
        return DEFAULT_PRODUCT
    note(say("Describe a product, in Chinese or English, for example: a red silk dress with dots, 静音又省电的风扇"))
    try:
        asked = say("product [{default}]: ", default=DEFAULT_PRODUCT)
        return input(paint(f"   {asked}", "1")).strip() or DEFAULT_PRODUCT
    except EOFError:
        return DEFAULT_PRODUCT


def write_advertisement(demo: Demo, way: Way, description: str | None) -> None:
    """Lets the packaged network and the better of the fine-tuned ones write about the product, token by token."""
    heading(say("6  Your advertisement"))
    description = description or ask_product()
    product = read_product(description)
    note(say("product: {product}", product=description))
    if product.understood and product.content != description:
        note(say("read as: {product}", product=paint(product.content, "1")))
    from demo.writer import Writer  # noqa: PLC0415 - MindSpore takes seconds to import and is not needed until now

    writer = Writer()
    note(paint(say("glm3_tiny as it ships"), "1;32"))
    before = writer.write(product.content)
    note(paint(say("after {way}", way=way.title), "1;32"))
    writer.load(demo.output / way.folder)
    after = writer.write(product.content)
    (demo.output / "advertisement.txt").write_text(
        f"{description}\n{product.content}\n\n{before}\n\n{after}\n", encoding="utf-8"
    )


def show_commands(demo: Demo, way: Way) -> None:
    """What can be done now, as commands to paste."""
    heading(say("7  What you can do with it now"))
    model = demo.output / way.folder
    rows = (
        (say("talk to the tuned model"), commands.chat(model)),
        (say("serve it, and open http://127.0.0.1:8000"), commands.serve(model)),
        (say("evaluate it"), commands.evaluate(model, demo.eval_file)),
    )
    for title, command in rows:
        note(title)
        print(f"   $ {paint(command, '1')}", flush=True)


def main() -> int:
    """Exit status."""
    parser = Parser(description=__doc__)
    parser.add_argument("--product", default=os.environ.get("PRODUCT") or None, help="what to advertise; else asked")
    parser.add_argument("--output_dir", default=str(ROOT / "demo_output"))
    parser.add_argument("--train_lines", type=whole(8, 100_000), default=1280)
    parser.add_argument("--eval_lines", type=whole(1, 100_000), default=40)
    parser.add_argument("--again", action="store_true", help="train again although an earlier run is there")
    given = parser.parse_args()
    demo = Demo(Path(given.output_dir), train_lines=given.train_lines, eval_lines=given.eval_lines)
    started = time.time()
    try:
        title = say("mindformers_glm: a ChatGLM3 with 6.3 million parameters learns a new style on this CPU")
        print(paint(title, "1"))
        again = given.again or bool(os.environ.get("AGAIN"))
        found = None if again else demo.earlier()
        if found:
            place = demo.shown(demo.output)
            note(say("The models of an earlier run are in {folder}. To train again: AGAIN=1 make demo", folder=place))
        found = found or demo.learn()
        show_table(found)
        way = best_way(found)
        write_advertisement(demo, way, given.product)
    except KeyboardInterrupt:
        print("\n   " + say("Stopped. `make demo` starts again."))
        return _INTERRUPTED
    except StageFailed as error:
        print(say("error: {line}", line=error), file=sys.stderr)
        return 1
    show_commands(demo, way)
    note("")
    seconds, place = time.time() - started, demo.shown(demo.output)
    note(say("{seconds:.0f} s. Logs, curves and checkpoints: {folder}/", seconds=seconds, folder=place))
    return 0


if __name__ == "__main__":
    sys.exit(report(main))
