"""The run modes of one configuration: train and finetune, eval, predict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mindspore import Parameter, nn

from mindformers_glm import runtime
from mindformers_glm.adapters.config import lr_ratios
from mindformers_glm.assembly.ranks import WEIGHTS, Ranks, saved_ranks, zero_level
from mindformers_glm.assembly.run import build_data, build_network, build_tokenizer, load_weights, ranks_of
from mindformers_glm.checkpoint.store.resume import TrainState, read_train_state
from mindformers_glm.checkpoint.store.saved import resume_file
from mindformers_glm.config import RunConfig
from mindformers_glm.data.dataset import TokenDataset
from mindformers_glm.errors import ConfigError
from mindformers_glm.evaluation.metrics import PerplexityMetric
from mindformers_glm.evaluation.runner import evaluate_loss
from mindformers_glm.evaluation.share import ALL, Share
from mindformers_glm.export.run import export_run
from mindformers_glm.files import user_path
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.generate import engine_of
from mindformers_glm.log import logger
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.optim import build_schedule, decay_groups
from mindformers_glm.parallel.collectives import gather_bytes
from mindformers_glm.parallel.mesh import Mesh, mesh_from_config
from mindformers_glm.parallel.work import Trained, training_flop
from mindformers_glm.registry import TRAINERS
from mindformers_glm.tasks.answers import answer, judge
from mindformers_glm.tasks.benchmarks import Benchmarks
from mindformers_glm.tasks.evaluation_data import EvaluationData
from mindformers_glm.tokenizers.glm import GLMTokenizer
from mindformers_glm.train.callbacks import Callback, build_callbacks
from mindformers_glm.train.callbacks.ending import Ending
from mindformers_glm.train.callbacks.tracking import Tracking
from mindformers_glm.train.fit import fit
from mindformers_glm.train.model_beside import describe_model
from mindformers_glm.train.pipeline_step import build_step, pipeline_scheduler
from mindformers_glm.train.plan import make_plan, warn_of_warm_up
from mindformers_glm.train.state import RunState, data_identity
from mindformers_glm.train.wrapper import build_wrapper


@TRAINERS.register()
class CausalLanguageModelingTrainer:
    """Runs what `config.run_mode` says. Parts that are given are used instead of those the configuration describes."""

    def __init__(
        self,
        config: RunConfig,
        *,
        network: nn.Cell | None = None,
        tokenizer: GLMTokenizer | None = None,
        train_dataset: TokenDataset | None = None,
        eval_dataset: TokenDataset | None = None,
        optimizer: nn.Cell | None = None,
        callbacks: Sequence[Any] | None = None,
        metric: Any = None,
    ) -> None:
        self.config = config
        self.output = user_path(config.output_dir)
        self._network, self._tokenizer, self._optimizer = network, tokenizer, optimizer
        self._train_dataset, self._evaluation_data = train_dataset, EvaluationData(config, eval_dataset)
        self._callbacks, self._metric = callbacks, metric

    @cached_property
    def tokenizer(self) -> GLMTokenizer:
        """The tokenizer of the run."""
        return self._tokenizer or build_tokenizer(self.config)

    @cached_property
    def train_dataset(self) -> TokenDataset:
        """The rows to learn."""
        return self._train_dataset or build_data(self.config, "train")

    @cached_property
    def eval_dataset(self) -> TokenDataset:
        """The rows to evaluate on, in the form that the first metric wants."""
        return self._evaluation_data.of(self._metrics[0] if self._metrics else None)

    @cached_property
    def _metrics(self) -> list[Any]:
        """The metrics of the run; none where the configuration names none."""
        if self._metric is not None:
            return [self._metric]
        return [spec.build() for spec in self.config.metrics]

    @cached_property
    def _benchmarks(self) -> Benchmarks | None:
        """What `eval_task` asks for, instead of metrics on a dataset."""
        return Benchmarks(self.config) if self.config.eval_task is not None and self._metric is None else None

    def train(self) -> TrainState:
        """Trains, or fine-tunes; returns the state at the end.

        Raises:
            UserError: data, weights or settings do not fit, before anything is compiled; or training ended early.
        """
        config, dataset, ranks = self.config, self.train_dataset, ranks_of(self.config, training=True)
        network = self._network or build_network(config, training=True, ranks=ranks)
        self._set_training(network, ranks)
        resume_from = self._resume_from()
        if resume_from is None and self._network is None and not config.only_save_strategy:
            load_weights(network, config, ranks)
        state = self._run_state(network, dataset, ranks)
        if ranks.mesh.size > 1 or config.only_save_strategy:
            place = ranks.write_strategy(self.output / "strategy", network, state.optimizer)
            logger.info("Wrote the sharding strategy to %s", place)
        if config.only_save_strategy:
            return state.capture()
        if resume_from is not None:
            saved = read_train_state(resume_from, steps_per_epoch=state.plan.unit)
            state.restore(ranks.local_state(saved, resume_from, network), place=str(resume_from))
            logger.info("Resuming from %s after step %d", resume_from, state.done)
        per_epoch = state.plan.steps_per_epoch
        schedule = self._schedule(state.plan.total_steps, per_epoch)
        warn_of_warm_up(schedule, state.plan.total_steps)
        return fit(state, dataset, schedule, self._all_callbacks(network)).capture()

    def evaluate(self) -> dict[str, float]:
        """The metric's figures over `eval_dataset`."""
        if self._benchmarks is not None:
            self.config = self._benchmarks.lengthened
        tokenizer = self._ready_to_evaluate()
        return self.evaluate_network(self._loaded_network(), tokenizer)

    def predict(self) -> list[dict[str, list[str]]]:
        """A result for each prompt of `input_data`, or of the evaluation data where there is none; also on disk."""
        first = self._metrics[0] if self._metrics else None
        prompts, tokenizer = self._evaluation_data.prompts(first), self.tokenizer
        network = self._loaded_network()
        return answer(
            self.config,
            engine_of(network),
            tokenizer,
            prompts,
            defaults=GenerationConfig.from_model(network.config),
            share=self._share(),
            writes=runtime.rank() == 0,
        )

    def export(self) -> Path:
        """Writes the graphs that `infer` describes; the path of their manifest."""
        return export_run(self.config, self._loaded_network, self._tokenizer)

    # --- parts ------------------------------------------------------------------------------------------------

    def _loaded_network(self) -> nn.Cell:
        if self._network is not None:
            return self._network
        network = build_network(self.config, training=False)
        load_weights(network, self.config)
        return network

    def _set_training(self, network: nn.Cell, ranks: Ranks) -> None:
        """What is frozen, noise and smoothed labels, where the configuration asks for any of it."""
        config, change = self.config, FAMILIES.of(network.config).trained()
        first, include, exclude = config.freeze_first_layers, config.freeze_include, config.freeze_exclude
        if first or include:
            frozen = change.freeze(network, first_layers=first, include=include, exclude=exclude)
            trained = network.num_parameters(trained=True)
            logger.info("Froze %d parameters more; %d numbers are trained.", len(frozen), trained)
        alpha, smoothing = config.neftune_noise_alpha, config.label_smoothing_factor
        if first or include or alpha or smoothing:
            seed = config.seed + ranks.mesh.data.rank
            change.set_training(network, noise_alpha=alpha, smoothing=smoothing, seed=seed)

    def _run_state(self, network: nn.Cell, dataset: TokenDataset, ranks: Ranks) -> RunState:
        config, runner = self.config, self.config.runner_config
        settings = build_wrapper(config.runner_wrapper)
        optimizer = ranks.optimizer(self._build_optimizer, network.trainable_params(), given=self._optimizer)
        accumulation = runner.gradient_accumulation_steps
        if ranks.mesh.stage.size > 1:  # a stage is given its micro batches as any other network those it adds up
            accumulation *= config.parallel_config.micro_batch_num
        step = build_step(
            network,
            optimizer,
            ranks.mesh,
            scheduler=pipeline_scheduler(config.parallel),
            loss_scale=settings.loss_scale,
            max_grad_norm=settings.max_grad_norm,
            accumulation=accumulation,
            reduction=ranks.reduction(optimizer),
        )
        trained = self._trained_part(network, ranks.config)
        plan = make_plan(
            batches=len(dataset),
            epochs=runner.epochs,
            sink_mode=runner.sink_mode,
            sink_size=runner.sink_size,
            accumulation=accumulation,
            max_steps=runner.max_steps,
        )
        return RunState(
            step=step,
            plan=plan,
            batch_size=dataset.batch_size * accumulation,
            data=data_identity(dataset),
            output_dir=self.output,
            rank=runtime.rank(),
            rank_size=ranks.mesh.size,
            data_ranks=ranks.mesh.data.size,
            division=ranks.division.to_dict(),
            on_disk=ranks.on_disk(network),
            from_disk=lambda saved, path: ranks.state_of_all(saved, path, network),
            describe=partial(self._describe, ranks),
            work=lambda sequences, length: training_flop(
                ranks.config, sequences=sequences, length=length, trained=trained
            ),
            shows_scale=settings.shows_scale,
            resume_hint="the same command with --resume_training true goes on from there",
        )

    def _trained_part(self, network: nn.Cell, whole: NetworkConfig) -> Trained:
        """What a step trains, of this stage as its network says and of others as the configuration does."""
        if whole.pet_config:
            return Trained(weights=0, adapters=network.num_parameters(trained=True))
        own = {parameter.name: parameter.requires_grad for parameter in network.get_parameters()}
        config, change = self.config, FAMILIES.of(whole).trained()
        frozen = config.freeze_first_layers, config.freeze_include, config.freeze_exclude
        return change.trained_part(whole, lambda name: own.get(name, not change.is_frozen(name, *frozen)))

    def _describe(self, ranks: Ranks, folder: Path) -> None:
        """Writes configuration and tokenizer of the network into a folder of its weights."""
        config = ranks.config if self._network is None else getattr(self._network, "config", None)
        if not isinstance(config, NetworkConfig):
            return
        try:
            tokenizer = self.tokenizer
        except ConfigError:  # rows of token ids need none
            tokenizer = None
        describe_model(folder, config, tokenizer)

    def _build_optimizer(self, parameters: Sequence[Parameter]) -> nn.Cell:
        if self.config.optimizer is None:
            raise ConfigError("optimizer", None, "Name an optimizer: type and its arguments.")
        spec = self.config.optimizer.without("learning_rate")
        ratio = lr_ratios(self.config.network.config.get("pet_config"))
        return spec.build(params=decay_groups(parameters, float(spec.get("weight_decay") or 0.0), ratio))

    def _schedule(self, total_steps: int, steps_per_epoch: int) -> Any:
        key, spec = self.config.rate
        return build_schedule(spec, key, total_steps=total_steps, steps_per_epoch=steps_per_epoch)

    def _resume_from(self) -> Path | None:
        """The checkpoint to go on from, None for a fresh start."""
        config = self.config
        if not config.resume_training:
            return None
        given = user_path(config.load_checkpoint or "")
        place = given if config.load_checkpoint and given.exists() else self.output
        if place.is_file():
            return place
        ranks = saved_ranks(place)  # of the run that wrote them, which may have been others
        rank = runtime.rank() if config.use_parallel and runtime.rank() < ranks else 0
        return resume_file(place, which=config.resume_training, rank=rank, rank_size=ranks)

    def _all_callbacks(self, network: nn.Cell) -> list[Callback]:
        config, evaluate = self.config, None
        if config.do_eval:
            tokenizer = self._ready_to_evaluate()

            def evaluate() -> dict[str, float]:
                return self.evaluate_network(network, tokenizer)

        callbacks = build_callbacks(
            [*config.callbacks, *(self._callbacks or [])],
            evaluate=evaluate,
            eval_step_interval=config.eval_step_interval,
            eval_epoch_interval=config.eval_epoch_interval,
            load_best_at_end=config.load_best_at_end,
        )
        trackers = [Tracking(spec.build(), config.to_dict()) for spec in config.report_to]
        return [*callbacks, *trackers, Ending(config=lambda: self.output / f"{config.run_mode}_config.yaml")]

    def _mesh(self) -> Mesh:
        return mesh_from_config(self.config, rank=runtime.rank(), world=runtime.rank_size())

    def _share(self) -> Share:
        """The batches of evaluation and prediction that are this rank's."""
        data, config = self._mesh().data, self.config
        if config.run_mode in ("train", "finetune") and zero_level(config.parallel, config.parallel_config) == WEIGHTS:
            return ALL  # no rank has a whole network: they compute every batch together
        return Share(data.rank, data.size, partial(gather_bytes, data))

    def _ready_to_evaluate(self) -> GLMTokenizer:
        """The tokenizer, with the data of every metric read: their faults show before anything is computed."""
        if self._benchmarks is not None:
            self._benchmarks.check(self.tokenizer)
            return self.tokenizer
        for metric in self._metrics:
            self._evaluation_data.of(metric)
        return self.tokenizer

    def evaluate_network(self, network: nn.Cell, tokenizer: GLMTokenizer) -> dict[str, float]:
        """Figures of a loaded network: those of the benchmarks, or of the metrics on the evaluation dataset."""
        if self._benchmarks is not None:
            folder = self.output if self.config.run_mode == "eval" else None
            return self._benchmarks.figures(engine_of(network), tokenizer, self._share(), output_dir=folder)
        figures: dict[str, float] = {}
        for metric in self._metrics:
            dataset = self._evaluation_data.of(metric)
            if hasattr(metric, "clear"):
                metric.clear()
            if isinstance(metric, PerplexityMetric):
                with FAMILIES.of(network.config).ranks().loss_of_this_rank(network, self._mesh()):
                    figures.update(evaluate_loss(network, dataset, metric, share=self._share()).scores)
                continue
            found = judge(
                engine_of(network),
                tokenizer,
                dataset,
                metric,
                output=self.output,
                defaults=GenerationConfig.from_model(network.config),
                share=self._share(),
                writes=runtime.rank() == 0,
            )
            figures.update(found)
        return figures
