"""The text that glm2_tiny learns: every advertisement mentions its attributes, no two are alike, the seed decides."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mindformers_glm.cli.report import report  # noqa: E402
from tools.glm2_tiny import make_corpus  # noqa: E402
from tools.glm2_tiny.advert import (  # noqa: E402
    BRAND,
    Pair,
    kind_of,
    live_summary,
    mentions,
    random_content,
    random_summary,
    read_content,
    write_content,
)
from tools.glm2_tiny.grammar import characters, kinds, table  # noqa: E402

LINES = 600


@pytest.fixture(scope="module")
def products():
    rng = random.Random(7)
    return [random_content(rng) for _ in range(LINES)]


@pytest.mark.parametrize("style", [random_summary, live_summary])
def test_a_text_mentions_every_attribute(products, style):
    rng = random.Random(1)
    forgotten = [(write_content(p), text) for p in products if not mentions(p, text := style(rng, p))]
    assert forgotten == []


def test_mentions_notices_a_missing_attribute():
    pairs = [Pair("类型", "裙"), Pair("颜色", "红色"), Pair("裙长", "连衣裙")]
    assert mentions(pairs, "这条红色连衣裙很好看。")
    assert not mentions(pairs, "这条连衣裙很好看。")
    assert not mentions(pairs, "红色很好看。")


def test_two_texts_of_one_product_differ(products):
    rng = random.Random(2)
    rich = [pairs for pairs in products if len(pairs) >= 4]
    same = sum(random_summary(rng, pairs) == random_summary(rng, pairs) for pairs in rich)
    assert len(rich) > LINES / 2
    assert same <= len(rich) // 100


def test_products_and_texts_are_varied(products):
    rng = random.Random(3)
    assert len({write_content(pairs) for pairs in products}) > 0.97 * LINES
    firsts = {random_summary(rng, pairs)[:6] for pairs in products}
    assert len(firsts) > LINES / 3
    assert {pairs[0].value for pairs in products} > set(list(kinds())[:8])


def test_no_slot_stays_open_and_nothing_is_doubled(products):
    rng = random.Random(4)
    text = "".join(random_summary(rng, pairs) + live_summary(rng, pairs) for pairs in products)
    assert not re.search(r"[<>{}]|，，|。。|，。|剪裁剪裁", text)


def test_values_that_exclude_each_other_never_meet(products):
    excludes = table("clothes")["excludes"]
    for pairs in products:
        banned = set(itertools.chain.from_iterable(excludes.get(value, []) for _, value in pairs))
        assert not banned & {name for name, _ in pairs}


def test_content_is_adgen_and_read_back(products):
    for pairs in products:
        content = write_content(pairs)
        assert content.startswith("类型#")
        assert read_content(content) == pairs
        assert all(name == BRAND or name in kind_of(pairs).attributes for name, _ in pairs[1:])


def test_the_seed_decides_every_line(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        make_corpus.write_lines(tmp_path / name, make_corpus.corpus(200, seed))
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    assert list(make_corpus.adgen("live", 20, 1)) == list(make_corpus.adgen("live", 20, 1))


def test_the_base_corpus_has_no_word_of_the_held_back_style():
    text = "".join(json.dumps(row, ensure_ascii=False) for row in make_corpus.corpus(3000, 0))
    live = "".join(row["summary"] for row in make_corpus.adgen("live", 50, 0))
    for word in ("家人们", "主播", "姐妹们", "咱们", "上链接", "三二一"):
        assert word in live
        assert word not in text


def test_the_corpus_holds_conversations_english_and_plain_text():
    rows = list(make_corpus.corpus(3000, 1))
    found = {row["kind"] for row in rows}
    assert found == {"advert", "request", "talk", "fact", "english", "plain", "dialogue", "repeat", "reading"}
    asked = {turn[0].rstrip("！？。~!.?") for row in rows for turn in row.get("turns", [])}
    for group in table("chat")["talk"]:
        assert {ask.rstrip("！？。~!.?") for ask in group["ask"]} & asked, group["ask"][0]
    assert all(len(row["turns"]) >= 2 for row in rows if row["kind"] == "dialogue")


def test_adgen_files_have_the_documented_form(tmp_path, monkeypatch):
    path = tmp_path / "train.json"
    monkeypatch.setattr(sys, "argv", ["make_corpus", "live", str(path), "--lines", "30", "--seed", "3"])
    make_corpus.main()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 30
    assert all(set(row) == {"content", "summary"} for row in rows)
    assert len({row["content"] for row in rows}) == 30


def test_characters_are_common_and_listed_once():
    assert 2400 <= len(characters()) == len(set(characters())) <= 2700


@pytest.mark.parametrize("lines", ["-1", "0", "x", "99999999999999999999"])
def test_a_number_of_lines_that_makes_no_file_leaves_the_old_one(tmp_path, capsys, lines):
    path = tmp_path / "c.json"
    path.write_text("old")
    with pytest.raises(SystemExit) as ended:
        make_corpus.main(["live", str(path), "--lines", lines])
    assert ended.value.code == 2 and "--lines" in capsys.readouterr().err
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_in_place_of_the_file_leaves_nothing(tmp_path, capsys):
    (tmp_path / "d").mkdir()
    assert report(lambda: make_corpus.main(["live", str(tmp_path / "d"), "--lines", "3"])) == 2
    assert str(tmp_path / "d") in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_full_disk_leaves_nothing(root, tmp_path):
    command = f"ulimit -f 8; {sys.executable} -m tools.glm2_tiny.make_corpus live {tmp_path}/c.json --lines 400"
    done = subprocess.run(["bash", "-c", command], cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"{tmp_path}/c.json: " in done.stderr
    assert list(tmp_path.iterdir()) == []
