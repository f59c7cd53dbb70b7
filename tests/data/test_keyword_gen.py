"""KeyWordGenDataset against the arrays of MindFormers r0.8 and 1.0.2."""

import hashlib
import json

import numpy as np
import pytest

from mindformers_glm.data import KeyWordGenDataset
from mindformers_glm.tokenizers import ChatGLM2Tokenizer

CONVENTION = {"w102": "1.0", "r08": "0.8"}


@pytest.fixture(scope="module")
def tokenizer(glm2_vocab):
    return ChatGLM2Tokenizer(glm2_vocab)


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "mindformers_r08/dataset"


def cases():
    lengths = [(2, 64, 128), (2, 32, 48), (3, 64, 128), (3, 32, 48), (2, 64, 127)]
    names = [(f"train_v{v}_{s}_{t}", {"version": v, "smax": s, "tmax": t}) for v, s, t in lengths]
    names += [(f"eval_v2_{s}_{t}", {"phase": "eval", "smax": s, "tmax": t}) for s, t in ((256, 256), (40, 60))]
    names += [("train_v2_64_128_keep_pad", {"ignore": False}), ("train_v2_64_128_bs7_drop", {"bs": 7})]
    names += [("train_v2_64_128_bs7_nodrop", {"bs": 7, "drop": False})]
    names += [("train_v2_hostile", {"bs": 1, "hostile": True})]
    names += [("eval_v2_hostile", {"phase": "eval", "smax": 64, "tmax": 64, "bs": 1, "hostile": True})]
    for who in CONVENTION:
        for name, settings in names:
            if who == "w102" or not ("v3" in name or "64_127" in name):
                yield pytest.param(who, name, settings, id=f"{who}-{name}")


def built(path, tokenizer, who, *, phase="train", version=2, smax=64, tmax=128, bs=8, ignore=True, drop=True, **_):
    loader = {"type": "ADGenDataLoader", "dataset_dir": str(path), "phase": phase, "shuffle": False}
    loader |= {"version": version, "origin_columns": ["content", "summary"]}
    return KeyWordGenDataset(
        data_loader=loader,
        tokenizer=tokenizer,
        max_source_length=smax,
        max_target_length=tmax,
        ignore_pad_token_for_loss=ignore,
        drop_remainder=drop,
        batch_size=bs,
        label_convention=CONVENTION[who],
    )


def arrays(dataset):
    batches = list(dataset.batches(0))
    assert len(batches) == len(dataset)
    return np.concatenate([b.input_ids for b in batches]), np.concatenate([b.labels for b in batches])


@pytest.mark.parametrize(("who", "name", "settings"), cases())
def test_arrays_of_mindformers(folder, tokenizer, who, name, settings):
    expected = np.load(folder / f"{who}_{name}.npz")
    path = folder / ("adgen_hostile.json" if settings.get("hostile") else "adgen_dev_64.json")
    ids, labels = arrays(built(path, tokenizer, who, **settings))
    assert ids.dtype == labels.dtype == np.int32
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(labels, expected["labels"])


@pytest.mark.parametrize("who", CONVENTION)
def test_whole_dev_set_has_the_same_bytes(shared, folder, tokenizer, who):
    meta = json.loads((folder / f"{who}_meta.json").read_text())["builds"]["full_dev_1070"]
    for name, facts in meta.items():
        phase, _, source, target = name.split("_")
        settings = {"phase": phase, "smax": int(source), "tmax": int(target), "bs": 1070, "drop": False}
        ids, labels = arrays(built(shared / "data/advertisegen/dev.json", tokenizer, who, **settings))
        assert list(ids.shape) == facts["shape"]["input_ids"]
        assert hashlib.sha256(ids.tobytes()).hexdigest() == facts["sha256"]["input_ids"]
        assert hashlib.sha256(labels.tobytes()).hexdigest() == facts["sha256"]["labels"]


def test_what_fits_in_tokens_is_whole_in_a_run(tmp_path, tokenizer):
    from mindformers_glm.data.build import build_dataset

    row = {"content": "类型#裙*版型#宽松*风格#复古*图案#波点*裙型#百褶", "summary": "优雅的裙子" * 4}
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    prompt = tokenizer.encode(tokenizer.build_prompt(row["content"]))
    answer = tokenizer.encode(row["summary"])
    assert len(prompt) < len(tokenizer.build_prompt(row["content"]))
    section = {
        "data_loader": {"type": "ADGenDataLoader", "dataset_dir": str(path)},
        "max_source_length": len(prompt),
        "max_target_length": len(answer),
    }
    settings = {"task": {"type": "KeyWordGenDataset"}, "seed": 0, "batch_size": 1, "phase": "eval"}
    whole = build_dataset(section, tokenizer=tokenizer, **settings).example(0)
    assert (whole.input_ids, whole.labels, whole.cut) == (prompt, answer, False)
    cut = build_dataset({**section, "cut_by": "characters"}, tokenizer=tokenizer, **settings).example(0)
    assert cut.cut
    assert cut.input_ids != prompt


@pytest.mark.parametrize(("labels", "phase"), [(True, "train"), (False, "eval"), (None, "eval")])
def test_the_use_of_an_evaluation_decides_on_the_phase(shared, tokenizer, labels, phase):
    from mindformers_glm.data.build import build_dataset

    for named in ("train", "eval"):
        loader = {"type": "ADGenDataLoader", "dataset_dir": str(shared / "data/advertisegen/dev.json"), "phase": named}
        section = {"data_loader": loader}
        settings = {"task": {"type": "KeyWordGenDataset"}, "seed": 0, "batch_size": 2, "phase": "eval"}
        dataset = build_dataset(section, tokenizer=tokenizer, labels=labels, **settings)
        assert dataset.phase == (named if labels is None else phase)
        if labels is not None:
            assert not dataset.order.shuffle
