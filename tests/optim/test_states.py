"""Every registered optimizer's states: known by name, written, divided anew, merged, and gone on with."""

from __future__ import annotations

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, nn

from mindformers_glm.assembly.rank_state import Division, LocalState, RankState
from mindformers_glm.assembly.ranks import Ranks
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load.names import Kind, meaning
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.checkpoint.store.reshard import RankFiles, is_state, transform
from mindformers_glm.checkpoint.store.resume import TrainState, read_train_state, to_ckpt
from mindformers_glm.checkpoint.store.strategy import read_strategy
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes
from mindformers_glm.optim import check_optimizer, decay_groups, load_optimizer, optimizer_arrays
from mindformers_glm.optim.interface import (
    Extent,
    declare_states,
    is_counter,
    needs_whole_parameters,
    parameter_of,
    state_of,
    unknown_state,
)
from mindformers_glm.parallel import optimizer as divided_module
from mindformers_glm.parallel.mesh import SINGLE, Axis, make_mesh
from mindformers_glm.parallel.optimizer import ShardedOptimizer
from mindformers_glm.registry import OPTIMIZERS

CONFIG = ChatGLM2Config(
    num_layers=1, hidden_size=16, num_attention_heads=4, multi_query_group_num=2, kv_channels=4, ffn_hidden_size=24,
    padded_vocab_size=32, seq_length=8, param_init_type="float32", compute_dtype="float32",
)  # fmt: skip
LAYER = "transformer.encoder.layers.0."
NAMES = (  # rows in blocks, their bias, columns, rows, alike on every rank
    *(f"{LAYER}self_attention.query_key_value.weight", f"{LAYER}self_attention.query_key_value.bias"),
    *(f"{LAYER}mlp.dense_4h_to_h.weight", "transformer.output_layer.weight", f"{LAYER}input_layernorm.weight"),
)
SHAPES = {name: expected_shapes(CONFIG)[name] for name in NAMES}
ONE, TENSOR, DIVIDED, BOTH = Division(), Division(1, 2), Division(2, 1, True), Division(2, 2, True)
OPTIMIZER_CLASSES = sorted({OPTIMIZERS.get(name).__name__ for name in OPTIMIZERS.names()})
SETTINGS = {"Adam": {"use_amsgrad": True}, "RMSProp": {"centered": True, "momentum": 0.9}, "SGD": {"momentum": 0.9}}
RATE = 0.05


@pytest.fixture(autouse=True)
def pynative(monkeypatch):
    monkeypatch.setattr(divided_module, "gather_operator", lambda axis: None)  # the test itself exchanges rows
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def build_of(name):
    return lambda parameters: OPTIMIZERS.build(
        {"type": name, **SETTINGS.get(name, {})}, "optimizer", params=decay_groups(parameters, 0.01)
    )


def random_arrays(seed, scale=0.5):
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}


class Rank:
    """One rank of a division: its part of the weights and its optimizer. Gradients and rows come from outside."""

    def __init__(self, optimizer_name, division, rank, weights):
        self.state, self.rank = RankState(CONFIG, division, SHAPES), rank
        self.parameters = [
            Parameter(Tensor(self.state.local(name, value, rank)), name=name) for name, value in weights.items()
        ]
        build = build_of(optimizer_name)
        if division.divided:
            axis = Axis("data", tuple(range(division.dp)), rank // division.tp)
            self.optimizer = ShardedOptimizer(build, self.parameters, axis)
        else:
            self.optimizer = build(self.parameters)
        self.inner = getattr(self.optimizer, "inner", self.optimizer)
        self.inner.learning_rate.set_data(Tensor(RATE, ms.float32))

    def rows(self, value, i):
        """This rank's rows of a tensor rank's part, where the optimizer is divided."""
        sharded = self.optimizer
        if sharded is self.inner or not sharded.divided[i]:
            return value
        return value[sharded.rank * sharded.rows[i] : (sharded.rank + 1) * sharded.rows[i]]

    def step(self, gradients):
        own = []
        for i, parameter in enumerate(self.optimizer.parameters):
            whole = self.state.local(parameter.name, gradients[parameter.name], self.rank)
            own.append(Tensor(np.ascontiguousarray(self.rows(whole, i))))
        self.inner(tuple(own))

    def held(self):
        """States in memory, and weights as far as this rank updates them, under the names of states."""
        parts = {
            f"adam_m.{whole.name}": part.asnumpy().copy()  # rows over data ranks, as a state is divided
            for whole, part in zip(self.optimizer.parameters, self.inner.parameters, strict=True)
        }
        states = {name: np.array(value) for name, value in optimizer_arrays(self.optimizer).items()}
        return parts, {name: value for name, value in states.items() if name != "global_step"}


def merged(ranks):
    """Whole weights and whole states, from what all ranks hold."""
    state, held = ranks[0].state, [rank.held() for rank in ranks]
    weights = {name: state.merge(f"adam_m.{name}", [parts[f"adam_m.{name}"] for parts, _ in held]) for name in SHAPES}
    states = {name: state.merge(name, [states[name] for _, states in held]) for name in held[0][1]}
    return weights, states


def write(folder, division, weights, states, step):
    """The files of a job that holds these whole tensors."""
    state = RankState(CONFIG, division, SHAPES)
    for rank in range(division.ranks):
        weights_part, states_part = (
            {
                name: np.asarray(value)[state.slicing(name).window(name, np.shape(value), rank)]
                if state.whole_shape(name) is not None
                else value
                for name, value in kind.items()
            }
            for kind in (weights, states)
        )
        saved = TrainState(
            0, step, step, weights=weights_part, optimizer=states_part, data={"division": division.to_dict()}
        )
        save_ckpt(folder / f"checkpoint/rank_{rank}/g_rank_{rank}-1_{step}.ckpt", *to_ckpt(saved))
        state.write_strategy(folder / "strategy", [*weights, *states], rank)


def resumed(optimizer_name, folder, before, after, step):
    """The ranks of another division, from the files of `before`."""
    source = RankState(CONFIG, before, SHAPES).read_whole(folder / "checkpoint", step=(1, step))
    ranks = [Rank(optimizer_name, after, rank, {name: source[name] for name in SHAPES}) for rank in range(after.ranks)]
    for rank in ranks:
        local = LocalState(source, rank.state, rank.rank)
        load_optimizer(rank.optimizer, {**local, "global_step": np.array([step])}, place=str(folder))
    return ranks


@pytest.mark.parametrize("name", OPTIMIZER_CLASSES)
def test_every_state_is_known_by_name_and_extent(name):
    parameters = [Parameter(Tensor(value), name=key) for key, value in random_arrays(0).items()]
    optimizer = build_of(name)(parameters)
    check_optimizer(optimizer)
    shapes = dict(SHAPES)
    for key, value in optimizer_arrays(optimizer).items():
        state = state_of(key)
        if state is None:
            assert is_counter(key), key
            continue
        assert state.parameter in shapes, key
        if state.extent is Extent.ELEMENTS:
            assert value.shape == shapes[state.parameter], key
        elif state.extent is Extent.WHOLE:
            assert value.size == 1, key
        else:
            assert needs_whole_parameters(optimizer), key
        assert meaning(key).kind is Kind.STATE and is_state(key), key
        assert meaning("optimizer." + key).kind is Kind.STATE, key


@pytest.mark.parametrize("division", [ONE, TENSOR, DIVIDED, BOTH], ids=str)
@pytest.mark.parametrize("name", OPTIMIZER_CLASSES)
def test_files_of_every_division_are_read_divided_and_merged(tmp_path, name, division):
    """Values of no meaning in every state: each comes back bit for bit, on every rank of every division."""
    optimizer = build_of(name)([Parameter(Tensor(value), name=key) for key, value in random_arrays(0).items()])
    if needs_whole_parameters(optimizer) and name == "AdaFactor" and division != ONE:
        pytest.skip("AdaFactor is refused there")
    rng, weights = np.random.default_rng(1), random_arrays(1)
    states = {
        key: rng.standard_normal(value.shape).astype(np.float32)
        for key, value in optimizer_arrays(optimizer).items()
        if key != "global_step"
    }
    write(tmp_path, division, weights, states, 3)
    everything = {**weights, **states}
    whole = RankState(CONFIG, division, SHAPES).read_whole(tmp_path / "checkpoint", step=(1, 3))
    by_strategy = RankFiles(tmp_path / "checkpoint", read_strategy(tmp_path / "strategy"))
    for key, value in everything.items():
        assert whole[key].tobytes() == by_strategy[key].tobytes() == value.tobytes(), key
    for after in (ONE, TENSOR, DIVIDED, BOTH):
        if name == "AdaFactor" and after != ONE:
            continue
        state = RankState(CONFIG, after, SHAPES)
        parts = [LocalState(whole, state, rank) for rank in range(after.ranks)]
        for key, value in everything.items():
            assert state.merge(key, [part[key] for part in parts]).tobytes() == value.tobytes(), (after, key)
    (merged_file,) = transform(by_strategy, None, tmp_path / "merged")
    assert sorted(read_weights(merged_file).names) == sorted(SHAPES)  # and no state among them
    (only_weights,) = transform(by_strategy, None, tmp_path / "weights", weights_only=True)
    assert sorted(read_weights(only_weights).names) == sorted(SHAPES)
    read = read_train_state(tmp_path / "checkpoint/rank_0/g_rank_0-1_3.ckpt")
    assert sorted(read.optimizer) == sorted(states)


SLOW = ("ASGD", "Rprop")  # six seconds each


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in OPTIMIZER_CLASSES]
)
def test_one_process_two_tensor_ranks_two_divided_ranks_go_on_as_one_undisturbed_run(tmp_path, name):
    gradients = [random_arrays(10 + step, 1.0) for step in range(8)]
    straight = Rank(name, ONE, 0, random_arrays(2))
    for gradient in gradients:
        straight.step(gradient)
    expected, expected_states = merged([straight])

    chain = (ONE, TENSOR, DIVIDED, ONE) if not needs_whole_parameters(straight.inner) else (ONE, ONE, ONE, ONE)
    ranks, before = [Rank(name, ONE, 0, random_arrays(2))], None
    for number, division in enumerate(chain):
        if before is not None:
            write(tmp_path, before, *merged(ranks), 2 * number)
            ranks = resumed(name, tmp_path, before, division, 2 * number)
        for gradient in gradients[2 * number : 2 * number + 2]:
            for rank in ranks:
                rank.step(gradient)
        before = division
    got, got_states = merged(ranks)
    for found, wanted in ((got, expected), (got_states, expected_states)):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_allclose(found[key], value, rtol=2e-6, atol=1e-7, err_msg=key)


def mesh_of(division):
    return make_mesh(0, dp=division.dp, tp=division.tp)


@pytest.mark.parametrize("division", [TENSOR, DIVIDED], ids=str)
@pytest.mark.parametrize("name", ["Lamb", "AdaFactor"])
def test_optimizers_of_whole_weights_are_refused_where_weights_are_divided(name, division):
    parameters = [Parameter(Tensor(value), name=key) for key, value in random_arrays(0).items()]
    ranks = Ranks(mesh_of(division), CONFIG, division.divided)
    with pytest.raises(ConfigError, match=f"optimizer.type: got '{name}'.*whole weights"):
        ranks.optimizer(build_of(name), parameters)
    assert Ranks(mesh_of(Division(2, 1)), CONFIG).optimizer(build_of(name), parameters) is not None


def test_a_given_optimizer_is_not_divided():
    parameters = [Parameter(Tensor(value), name=key) for key, value in random_arrays(0).items()]
    given = nn.Adam(parameters)
    with pytest.raises(ConfigError, match="enable_parallel_optimizer: got True"):
        Ranks(mesh_of(DIVIDED), CONFIG, True).optimizer(None, parameters, given=given)
    assert Ranks(SINGLE, CONFIG).optimizer(None, parameters, given=given) is given


def test_an_optimizer_without_one_rate_is_refused():
    parameters = [Parameter(Tensor(value), name=key) for key, value in random_arrays(0).items()]
    for optimizer in (
        nn.Adam(parameters, learning_rate=nn.ExponentialDecayLR(0.1, 0.9, 4)),
        nn.Adam(parameters, [0.1, 0.2]),
    ):
        with pytest.raises(ConfigError, match=r"optimizer.learning_rate: got 'Adam'.*lr_schedule"):
            check_optimizer(optimizer)
    with pytest.raises(ConfigError, match="no `parameters`"):
        check_optimizer(nn.Dense(2, 2))


class Strange(nn.Cell):
    """An optimizer of somebody else: a state of each element under a name that nobody knows."""

    def __init__(self, params):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(params)
        self.learning_rate = Parameter(Tensor(0.1, ms.float32), name="learning_rate")
        self.momenta = self.parameters.clone(prefix="strange_momentum", init="zeros")


def test_states_of_an_optimizer_from_elsewhere_are_learned_from_it(tmp_path):
    name = NAMES[0]
    state = RankState(CONFIG, TENSOR, SHAPES)
    value = np.arange(np.prod(SHAPES[name]), dtype=np.float32).reshape(SHAPES[name])
    key = f"strange_momentum.{name}"
    with pytest.raises(CheckpointError, match=f"{key}: a state of {name} under a name of no known optimizer"):
        state.local(key, value, 1)
    check_optimizer(Strange([Parameter(Tensor(value), name=name)]))
    assert state.local(key, value, 1).tobytes() == state.local(name, value, 1).tobytes()
    assert RankState(CONFIG, ONE, SHAPES).local("odder." + name, value, 0) is value  # nothing is divided there


def test_means_over_rows_of_a_divided_weight_are_refused_by_name():
    for division in (TENSOR, DIVIDED):
        state = RankState(CONFIG, division, SHAPES)
        with pytest.raises(CheckpointError, match=f"exp_avg_sq_row_{NAMES[0]}: means over rows or columns"):
            state.local(f"exp_avg_sq_row_{NAMES[0]}", np.zeros(SHAPES[NAMES[0]][0], np.float32), 1)


def test_names():
    assert state_of("accum_update.a.b") == ("accum_update.", "a.b", Extent.ELEMENTS)
    assert state_of("exp_avg_sq_col_a.b") == ("exp_avg_sq_col_", "a.b", Extent.FACTORS)
    assert state_of("exp_avg_sq_a.b").prefix == "exp_avg_sq_"
    assert state_of("transformer.output_layer.weight") is None is state_of("momentum") is state_of("adam_m.")
    assert parameter_of("moment1.a.b") == "a.b" and parameter_of("mu_a.b") == "mu_a.b" and parameter_of("a.b") == "a.b"
    assert unknown_state("x.y.a.b", ["a.b"]) == "a.b" and unknown_state("adam_m.a.b", ["a.b"]) is None
    with pytest.raises(ValueError, match="adam_m"):
        declare_states({"adam_m.": Extent.WHOLE})


def test_a_layer_called_linear_is_no_state():
    assert meaning("linear.weight").kind is Kind.UNKNOWN
    assert meaning("linear.transformer.output_layer.weight").kind is Kind.STATE
    assert meaning("linear.transformer.encoder.layers.0.mlp.dense_h_to_4h.mindpet_delta_lora_a").kind is Kind.STATE


def test_counters_of_mindformers_states_are_read(tmp_path):
    """Adam's and Momentum's single numbers: without them a resume asks in vain for beta1_power."""
    arrays = {
        NAMES[0]: np.ones(SHAPES[NAMES[0]], np.float32),
        "moment1." + NAMES[0]: np.ones(SHAPES[NAMES[0]], np.float32),
    }
    counters = {"beta1_power": np.float32(0.81), "momentum": np.float32(0.9), "mu_" + NAMES[0]: np.float32(1.0)}
    rest = {"epoch_num": 1, "step_num": 2, "global_step": np.array([2], np.int32), "learning_rate": np.float32(0.1)}
    save_ckpt(tmp_path / "x.ckpt", {**arrays, **counters, **rest})
    state = read_train_state(tmp_path / "x.ckpt", steps_per_epoch=4)
    assert sorted(state.optimizer) == sorted(["moment1." + NAMES[0], *counters])


def test_lamb_is_as_long_as_its_weight():
    """Against the published formula in NumPy, three steps, one with a weight of zeros."""
    rng = np.random.default_rng(0)
    start = {"a": rng.standard_normal((3, 2)).astype(np.float32), "b": np.zeros(2, np.float32)}
    parameters = [Parameter(Tensor(value.copy()), name=name) for name, value in start.items()]
    optimizer = OPTIMIZERS.build({"type": "lamb"}, "optimizer", params=decay_groups(parameters, 0.1))
    optimizer.learning_rate.set_data(Tensor(0.2, ms.float32))
    state = SimpleNamespace(w={k: v.astype(np.float64) for k, v in start.items()}, m={}, v={})
    for step in range(1, 4):
        grads = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in start.items()}
        optimizer(tuple(Tensor(grads[p.name]) for p in optimizer.parameters))
        for name, grad in grads.items():
            m = state.m[name] = 0.9 * state.m.get(name, 0) + 0.1 * grad.astype(np.float64)
            v = state.v[name] = 0.999 * state.v.get(name, 0) + 0.001 * grad.astype(np.float64) ** 2
            r = (
                m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-6)
                + (0.1 if name == "a" else 0) * state.w[name]
            )
            size, length = np.linalg.norm(state.w[name]), np.linalg.norm(r)
            state.w[name] = state.w[name] - 0.2 * (size / length if size and length else 1.0) * r
    for parameter in parameters:
        np.testing.assert_allclose(parameter.asnumpy(), state.w[parameter.name], rtol=2e-5, atol=1e-6)
