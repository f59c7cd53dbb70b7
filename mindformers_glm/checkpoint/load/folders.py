"""Which files of a folder are its weights, and what a folder is that has none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mindformers_glm.checkpoint.formats.folder import JOURNAL
from mindformers_glm.checkpoint.formats.tensor_file import TensorFile
from mindformers_glm.errors import CheckpointError, listed
from mindformers_glm.files import inside, open_regular, plain_name, read_json, read_small, refuse_stand_in

MEGATRON_FILE = "model_optim_rng.pt"
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
_SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")
_WHOLE_SUFFIXES = (".gguf", ".ggml")  # one file that is a whole model: taken where a folder has no other weights
_STEP = re.compile(r"-(\d{1,12})_(\d{1,12})\.(?:ckpt|safetensors)$")
_SHARD = re.compile(r"(.*-)(\d{5})(-of-(\d{5})\.\w+)")
# What trainers leave beside weights: states of the optimizer, schedule, random numbers and ranks; strategy files.
_LEFTOVER = re.compile(
    r"(optimizer|scheduler|scaler|sampler|rng_state|random_states|training_args|trainer_state|value_head)\b.*"
    r"|(optimizer|rng_state|random_states|sampler)_\d+\..*|(merged_|pretrain_|fine_tune_)?ckpt_strategy.*"
    r"|.*_(model|optim)_states\.pt|.*\.distcp",
    re.IGNORECASE,
)
_ZERO = re.compile(r"zero_pp_rank_\d+.*_states\.pt|.*_optim_states\.pt")
_OTHER_FORMS = (".h5", ".msgpack", ".onnx", ".npz", ".npy", ".pdparams", ".tflite", ".mindir", ".ms")
_PARTIAL = (".part", ".incomplete", ".aria2", ".crdownload", ".tmp", ".download")
_CHILDREN = 1000  # of a folder without weights, looked at to say where they are


def files_of(path: Path, *, rank: int = 0) -> list[Path]:
    """The tensor files that a path stands for, in order.

    Raises:
        CheckpointError: none, with what the folder is instead; or a shard is missing.
    """
    path = snapshot(path)
    found = _files_here(path)
    return found or _rank_files(path, rank)


def require_weights(path: Path) -> None:
    """Passes when a folder holds weights, or folders of ranks with them.

    Raises:
        CheckpointError: there are none; says what the folder is instead and what to do.
    """
    found = any((path / name).is_file() for name in _INDEXES) or _candidates(path)
    if not found and not list(_ranks(path)):
        raise _without(path)


def snapshot(path: Path) -> Path:
    """The folder itself, or of the root of a Hugging Face cache entry the snapshot that refs/main names.

    Raises:
        CheckpointError: a cache entry with several snapshots and no word which is meant.
    """
    snapshots = path / "snapshots"
    if not snapshots.is_dir():
        return path
    main = path / "refs" / "main"
    told = read_small(main, limit=200).decode("utf-8", "replace").strip() if main.is_file() else ""
    there = sorted(folder.name for folder in snapshots.iterdir() if folder.is_dir())
    if plain_name(told) and told in there:
        return snapshots / told
    if len(there) == 1:
        return snapshots / there[0]
    if not there:
        raise CheckpointError(str(path), "a cache entry without snapshot", "Download the model again.")
    fault = f"the root of a cache entry with {len(there)} snapshots"
    raise CheckpointError(str(path), fault, f"Name one of them: {listed([f'snapshots/{name}' for name in there], 3)}.")


def index_of(path: Path) -> Path | None:
    """The index of shards that a path is, or that its folder has: of two the one whose shards are there."""
    if path.is_file():
        return path if path.name.endswith(".index.json") else None
    there = [path / name for name in _INDEXES if (path / name).is_file()]
    if not there:
        return None
    missing = [_absent(index) for index in there]
    best = missing.index(min(missing))
    if missing[best] == 1 and any(_is_real(path / name) for name in _SINGLE[:2]):
        return None  # an index that a later download of one whole file left behind
    return there[best]


def check_index(index: Path, files: Sequence[TensorFile]) -> None:
    """Passes when every tensor is in the shard that the index names, and no shard holds others."""
    there = {(name, file.path.name) for file in files for name in file.entries}
    table = set(_index_table(index).items())
    faults = [f"{name} is not in {file}" for name, file in sorted(table - there)]
    faults += [f"{name} in {file} is not in the index" for name, file in sorted(there - table)]
    if faults:
        raise CheckpointError(str(index), listed(faults), "Index and shards belong to different downloads: repeat one.")


def step_of(path: Path) -> tuple[int, int] | None:
    """(epoch, step) in a checkpoint's name `<prefix>-<epoch>_<step>.ckpt`, as numbers; None for other names."""
    found = _STEP.search(path.name)
    return (int(found.group(1)), int(found.group(2))) if found else None


def is_megatron(path: str | Path) -> bool:
    """True for a folder with rank folders of Megatron in it, or in one of its iterations."""
    path = Path(path)
    return path.is_dir() and any(
        True for pattern in (f"mp_rank_*/{MEGATRON_FILE}", f"*/mp_rank_*/{MEGATRON_FILE}") for _ in path.glob(pattern)
    )


def refuse_divided(path: Path) -> None:
    """Passes unless a file is one rank's part of a DeepSpeed ZeRO checkpoint."""
    if _ZERO.fullmatch(path.name):
        raise _deepspeed(path)


def _files_here(path: Path) -> list[Path]:
    """The tensor files of a path itself, not looking into folders of ranks; empty when there are none."""
    if (path / JOURNAL).is_file():
        raise CheckpointError(str(path), "it is not finished", "Run the conversion again: it goes on where it stopped.")
    index = index_of(path)
    if index is not None:
        return [index.parent / name for name in sorted(set(_index_table(index).values()))]
    if not path.is_dir():
        return [path]
    single = [path / name for name in _SINGLE if (path / name).is_file()]
    if single:
        return [next((file for file in single if _is_real(file)), single[0])]
    here = _candidates(path)
    return here if len(here) < 2 else _newest_or_all(_one_set_of_shards(here))


def _candidates(path: Path) -> list[Path]:
    """Files of a folder that may hold weights, by their names."""
    there = sorted(
        file
        for file in path.iterdir()
        if file.suffix in (*_SUFFIXES, *_WHOLE_SUFFIXES)
        and not file.name.startswith(".")
        and not _LEFTOVER.fullmatch(file.name)
        and not file.is_dir()
    )
    return [file for file in there if file.suffix in _SUFFIXES] or _one_model(path, there)


def _one_model(folder: Path, files: list[Path]) -> list[Path]:
    """The files of one whole model: one, or the parts of one.

    Raises:
        CheckpointError: several models.
    """
    if len(files) < 2:
        return files
    files = _one_set_of_shards(files)
    found = [match for file in files if (match := _SHARD.fullmatch(file.name))]
    if len(found) == len(files) and len({(match.group(1), match.group(3)) for match in found}) == 1:
        return files
    fault = f"{len(files)} models in one folder ({listed([file.name for file in files], 3)})"
    raise CheckpointError(str(folder), fault, "Name the file to load.")


def whole_models_in(folder: Path) -> list[Path]:
    """The files of a folder that are a whole model (or the parts of one); empty where it has other weights or none."""
    if any((folder / name).is_file() for name in (*_INDEXES, *_SINGLE)):
        return []
    return [file for file in _candidates(folder) if file.suffix in _WHOLE_SUFFIXES]


def _index_table(index: Path) -> dict[str, str]:
    """Tensor -> file, every file there.

    Raises:
        CheckpointError: the index is damaged or a shard is missing.
    """
    table = _table(index)
    names = sorted(set(table.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            str(index), f"{len(missing)} of {len(names)} shards are missing: {listed(missing)}", "Download them."
        )
    return table


def _table(index: Path) -> dict[str, str]:
    value = read_json(index)
    table = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(table, dict) or not table:
        raise CheckpointError(str(index), "not an index of shards", "Download the file again.")
    for name in set(map(str, table.values())):
        if not plain_name(name):
            inside(index.parent, name, told_by=index)
    if not all(isinstance(name, str) for name in table.values()):
        raise CheckpointError(str(index), "not an index of shards", "Download the file again.")
    return table


def _absent(index: Path) -> float:
    """Which part of the shards that an index names is not there, or is only a git-lfs pointer; 2 when damaged."""
    try:
        names = set(_table(index).values())
    except CheckpointError:
        return 2
    return sum(not _is_real(index.parent / name) for name in names) / len(names)


def _is_real(path: Path) -> bool:
    """True for a file that is there and stands for itself."""
    if not path.is_file():
        return False
    try:
        with open_regular(path) as file:
            refuse_stand_in(path, file.read(256))
    except CheckpointError:
        return False
    return True


def _one_set_of_shards(files: list[Path]) -> list[Path]:
    """Of several numbered sets (`model-00001-of-00007.safetensors`, `.bin`) one whose files are all there."""
    sets: dict[tuple[str, str], list[Path]] = {}
    wanted: dict[tuple[str, str], int] = {}  # the number of files that the first name of a set states
    for file in files:
        found = _SHARD.fullmatch(file.name)
        if not found:
            return files
        which = found.group(1), found.group(3)
        sets.setdefault(which, []).append(file)
        wanted.setdefault(which, int(found.group(4)))
    whole = [one for which, one in sets.items() if len(one) == wanted[which]]
    return whole[-1] if len(sets) > 1 and whole else files


def _newest_or_all(files: list[Path]) -> list[Path]:
    """The newest of checkpoints of one run, otherwise all files (base weights and an adapter side by side)."""
    steps = [step_of(file) for file in files]
    return [max(files, key=lambda file: step_of(file) or (0, 0))] if all(steps) else files


def _ranks(path: Path) -> Iterable[Path]:
    return (folder for folder in path.glob("rank_*") if folder.is_dir())


def _rank_files(path: Path, rank: int) -> list[Path]:
    folders = list(_ranks(path))
    if not folders:
        raise _without(path)
    folder = path / f"rank_{rank}"
    if folder not in folders:
        raise CheckpointError(
            str(path),
            f"there is no rank_{rank}",
            f"{len(folders)} others are: merge or split them with tools/transform_ckpt.py.",
        )
    found = _files_here(folder)
    if not found:
        raise _without(folder)
    return found


def _without(path: Path) -> CheckpointError:
    """What a folder without readable weights is, and what to do with it."""
    names = sorted(file.name for file in path.iterdir())
    if is_megatron(path):
        fix = "Convert it: python tools/convert_weight.py --input_path FOLDER --output_path OUT --config CONFIG."
        return CheckpointError(str(path), "a Megatron folder, whose ranks hold parts of the weights", fix)
    if any(_ZERO.fullmatch(name) or name.endswith("_model_states.pt") for name in names) or (
        "zero_to_fp32.py" in names or any(name.startswith("global_step") for name in names)
    ):
        return _deepspeed(path)
    if any(name.endswith(".distcp") for name in names) or any(name.startswith("pytorch_model_fsdp") for name in names):
        fix = "Put the parts together where it was trained: `accelerate merge-weights FOLDER OUT`, then give OUT."
        return CheckpointError(str(path), "a folder of PyTorch FSDP, whose ranks hold parts of the weights", fix)
    cached = [name for name in names if name.startswith("models--")]
    if cached:
        return CheckpointError(
            str(path), "a Hugging Face cache with no model chosen", f"Name one: {listed(cached, 3)}."
        )
    partial = [name for name in names if name.endswith(_PARTIAL)]
    if partial:
        fault = f"no weights in this folder, but downloads that did not end ({listed(partial, 3)})"
        return CheckpointError(str(path), fault, "Let the download finish.")
    below = [name for name in names[:_CHILDREN] if _holds_weights(path / name)]
    if below:
        fault = f"no weights in this folder itself, but in {listed(below, 3)}"
        return CheckpointError(str(path), fault, f"Name that folder: {path / below[-1]}.")
    others = [name for name in names if name.lower().endswith(_OTHER_FORMS)]
    fault = "no weights in this folder" + (f" in a form that is read (it has {listed(others, 3)})" if others else "")
    return CheckpointError(str(path), fault, f"Expected {', '.join(_SUFFIXES)}, an index, or rank_0/.")


def _holds_weights(folder: Path) -> bool:
    try:
        return folder.is_dir() and (any((folder / name).is_file() for name in _INDEXES) or bool(_candidates(folder)))
    except OSError:
        return False


def _deepspeed(path: Path) -> CheckpointError:
    folder = path if path.is_dir() and not path.name.startswith("global_step") else path.parent
    folder = folder.parent if folder.name.startswith("global_step") else folder
    fix = f"Put them together where DeepSpeed is installed: `python zero_to_fp32.py . OUT` in {folder}, then give OUT."
    return CheckpointError(str(path), "DeepSpeed ZeRO's parts of a model, one for each rank", fix)
