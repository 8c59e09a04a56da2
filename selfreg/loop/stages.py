"""Builds the stages of a run from its config: policy, problems, engine, grader, learner, log."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from selfreg.algorithms.parts.algorithm import Algorithm
from selfreg.data.prompts import render
from selfreg.data.sets import ProblemSets, load_sets
from selfreg.grading import GraderPool
from selfreg.grading.ladder import LAYERS
from selfreg.loop.lineage import find_checkpoint
from selfreg.loop.panel import Panel
from selfreg.loop.sample import Sampler
from selfreg.policy import distributed
from selfreg.policy.learn.learner import Learner, make_learner
from selfreg.policy.learn.objective import Objective
from selfreg.policy.learn.optim import make_optimizer
from selfreg.policy.learn.packing import Packing, make_packing
from selfreg.policy.learn.train_step import LearnSettings
from selfreg.policy.mesh import make_mesh
from selfreg.policy.models.attention import choose_attention
from selfreg.policy.models.decoder import layout
from selfreg.policy.models.lora import Lora, frozen_types, random_adapters
from selfreg.policy.models.policy import Policy, count_parameters, open_policy
from selfreg.policy.models.weights import place
from selfreg.policy.rollout.adviser import ask
from selfreg.policy.rollout.engine import Engine
from selfreg.policy.rollout.engines import open_engine
from selfreg.run import seeds
from selfreg.run.algorithm import configure, find_algorithm
from selfreg.run.checkpoint import restore
from selfreg.run.progress import ProgressLine
from selfreg.run.records import Answer, Sampling
from selfreg.run.rundir import CHECKPOINTS
from selfreg.run.runlog import RunLog, open_run
from selfreg.run.validate import skips_updates

T = TypeVar("T")


@dataclass(frozen=True)
class Stages:
    """The parts that a campaign runs on.

    Attributes:
      config: The resolved config.
      sets: The training problems, and those of the panels.
      panel: The panel that is measured throughout a campaign.
      report: The panel that is measured at a campaign's start, peak and end.
      capabilities: Further panels by name, measured with `report`.
      sampler: Draws and grades completions.
      prompt_width: The tokens of the longest training prompt.
      packing: The rows that the learner is compiled for.
      algorithm: The update rule, with the config's settings.
      learner: Updates weights.
      initial: Makes the float32 weights on the mesh that the chain starts with: the policy's own,
        new adapters, or those of config.init_checkpoint.
      log: The run folder.
      progress: The progress line.
      ask: Asks a language model a control's question.
    """

    config: Any
    sets: ProblemSets
    panel: Panel
    report: Panel
    capabilities: Mapping[str, Panel]
    sampler: Sampler
    prompt_width: int
    packing: Packing
    algorithm: Algorithm
    learner: Learner
    initial: Callable[[], Any]
    log: RunLog
    progress: ProgressLine
    ask: Callable[[str], Answer]

    def load(self, params: Any, campaign: int, step: int) -> None:
        """Hand the weights of a step, or the adapters that make them, to the engine."""
        self.sampler.engine.load_params(self.learner.merged(params), f"{campaign}.{step}")


@contextmanager
def open_stages(config: Any, workdir: Path) -> Iterator[Stages]:
    """Build the stages of a run, warm them up, and close them at the end.

    Bad input is refused here, before hours are spent.

    Raises:
      ValueError: The problems, the policy, the mesh or the run folder cannot be used.
      GraderError: The grader cannot work on this machine.
    """
    mesh = make_mesh(**config.mesh)
    model = config.model
    policy, weights = open_policy(model.path, remat=model.remat, attention=model.attention)
    choose_attention(model.attention, model.dtype, policy.config.head_dim, mesh.devices.flat[0])
    sets = load_sets(config.problems, config.evaluation.capabilities)
    prompts = _prompts(config, policy, sets)
    sampling = sampling_of(config)
    packing = packing_of(config, mesh)
    algorithm = configure(find_algorithm(config.learn.algorithm), config.learn)
    learner, initial = _learner(config, policy, mesh, packing, weights)
    with ExitStack() as opened:
        pool = _open_in_first(opened, lambda: _grader(config))
        if config.grading.validate:
            sets = _without_broken(config, pool, sets)

        def new_log() -> AbstractContextManager[RunLog]:
            facts = _facts(config, mesh, pool, sets)
            facts["parameters"] = count_parameters(weights)
            facts["trained_parameters"] = count_parameters(learner.like.params)
            return open_run(workdir, config.to_dict(), facts)

        engine = opened.enter_context(open_engine(config, policy, mesh, workdir))
        log = _open_in_first(opened, new_log) or RunLog(workdir, writes=False)
        progress = ProgressLine(
            f"{config.name} {config.condition} seed {config.seed}",
            config.campaigns,
            config.campaign_budget_steps,
            shown=distributed.is_first(),
        )
        opened.callback(progress.close)
        evaluation, seed = config.evaluation, config.seed
        stages = Stages(
            config=config,
            sets=sets,
            panel=Panel(sets.panel, evaluation.panel_samples, seed, seeds.PANEL),
            report=Panel(sets.report, evaluation.report_samples, seed, seeds.REPORT),
            capabilities={
                name: Panel(problems, evaluation.report_samples, seed, seeds.CAPABILITY)
                for name, problems in sets.capabilities.items()
            },
            sampler=Sampler(
                engine,
                pool,
                sampling,
                prompts,
                config.grading.max_unjudged_share,
                config.grading.code_block,
            ),
            prompt_width=max(len(prompts[problem.id]) for problem in sets.train),
            packing=packing,
            algorithm=algorithm,
            learner=learner,
            initial=initial,
            log=log,
            progress=progress,
            ask=partial(ask, config.control),
        )
        _warm_up(stages, engine)
        yield stages


def _open_in_first(opened: ExitStack, make: Callable[[], AbstractContextManager[T]]) -> T | None:
    """Open a context in the first process alone, and return None in the others.

    If it fails, every process raises the error.
    """
    held: list[T] = []
    distributed.from_first(lambda: held.append(opened.enter_context(make())))
    return held[0] if held else None


@contextmanager
def _grader(config: Any) -> Iterator[GraderPool]:
    grading = config.grading
    with GraderPool(
        grading.workers,
        time_limit_scale=grading.time_limit_scale,
        max_retries=grading.max_retries,
        cpp_options=grading.cpp_options.split(),
        isolation=grading.isolation,
        allow_weak=grading.allow_weak,
        modules=grading.modules,
    ) as pool:
        yield pool


def _facts(
    config: Any, mesh: jax.sharding.Mesh, pool: GraderPool | None, sets: ProblemSets
) -> dict[str, Any]:
    """Return the facts about this start that the manifest keeps beside the config."""
    layers = pool.layers if pool else ()
    return {
        "seed": config.seed,
        "devices": [str(device) for device in jax.devices()],
        "processes": jax.process_count(),
        "mesh": dict(mesh.shape),
        "grader_isolation": pool.isolation if pool else None,
        "grader_layers": list(layers),
        "grader_layers_missing": [name for name in LAYERS if name not in layers],
        "problems": {
            **{name: len(getattr(sets, name)) for name in ("train", "panel", "report")},
            **{name: len(problems) for name, problems in sets.capabilities.items()},
        },
    }


def _prompts(config: Any, policy: Policy, sets: ProblemSets) -> dict[str, np.ndarray]:
    """Render every problem's prompt, and refuse one that is too long."""
    prompts = {p.id: render(p, config.model.prompt, policy.tokenizer) for p in sets.all}
    longest = max(prompts, key=lambda name: len(prompts[name]))
    if len(prompts[longest]) > config.rollout.max_prompt_tokens:
        raise ValueError(
            f"the prompt of {longest} has {len(prompts[longest])} tokens, more than "
            f"config.rollout.max_prompt_tokens={config.rollout.max_prompt_tokens}: raise that, or "
            "take the problem out of its file"
        )
    return prompts


def _without_broken(config: Any, pool: GraderPool | None, sets: ProblemSets) -> ProblemSets:
    """Leave out problems that their own solutions do not solve: they would reward noise.

    Raises:
      ValueError: There are more than config.problems.max_broken.
    """

    def validate() -> dict[str, str]:
        assert pool is not None
        return pool.validate(sets.all)

    broken = distributed.from_first(validate)
    if not broken:
        return sets
    named = "; ".join(f"{name}: {why}" for name, why in list(broken.items())[:3])
    most = config.problems.max_broken
    if len(broken) > most:
        raise ValueError(
            f"{len(broken)} problems have tests that their own solutions do not pass ({named}), "
            f"more than config.problems.max_broken={most}: raise that to leave them out, or raise "
            "config.grading.time_limit_scale if they time out, or set config.grading.validate=False"
        )
    logging.getLogger(__name__).warning(
        "left out %d problems that their own solutions do not solve: %s", len(broken), named
    )
    return sets.without(broken)


def sampling_of(config: Any) -> Sampling:
    """Return the sampling settings of a run."""
    rollout = config.rollout
    return Sampling(
        rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_new_tokens,
        rollout.num_alter_tokens,
    )  # fmt: skip


def packing_of(config: Any, mesh: jax.sharding.Mesh) -> Packing:
    """Return the rows that a run's update is compiled for."""
    learn, rollout = config.learn, config.rollout
    return make_packing(
        learn.row_tokens,
        learn.microbatch_rows,
        rollout.max_new_tokens,
        rollout.problems_per_step * rollout.group_size,
        mesh.shape["data"] * mesh.shape["fsdp"],
    )


def learner_of(
    config: Any, policy: Policy, mesh: jax.sharding.Mesh, packing: Packing, base: Any
) -> Learner:
    """Make the learner of a run.

    Args:
      config: The resolved config.
      policy: The policy that learns.
      mesh: The devices.
      packing: See `packing_of`.
      base: The weights that LoRA's adapters are for; None without LoRA, or where only shapes are
        needed.
    """
    learn, optimizer, rank = config.learn, config.optimizer, config.model.lora_rank
    settings = LearnSettings(
        dtype=config.model.dtype,
        chunk_tokens=learn.logprob_chunk_tokens,
        packing=packing,
        objective=Objective(
            configure(find_algorithm(learn.algorithm), learn),
            learn.entropy_coef,
            follows_entropy=learn.entropy_target > 0,
        ),
        ewc_coef=learn.ewc_coef,
        max_update_ratio=optimizer.max_update_ratio,
        can_skip=skips_updates(config),
        average_decay=optimizer.average_decay,
    )
    rule = make_optimizer(
        b1=optimizer.b1,
        b2=optimizer.b2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
        state_dtype=optimizer.state_dtype,
    )
    lora = Lora(rank, config.model.lora_alpha, base) if rank else None
    return make_learner(policy, mesh, rule, settings, lora)


def _learner(
    config: Any, policy: Policy, mesh: jax.sharding.Mesh, packing: Packing, weights: Any
) -> tuple[Learner, Callable[[], Any]]:
    """Make the learner, and the function that makes the weights it starts with."""
    read = partial(place, weights, layout(policy.config, mesh, weights))
    rank = config.model.lora_rank
    base = None
    if rank:  # read in its frozen type: in float32 it may not fit, even for a moment
        base = read(frozen_types(weights, jnp.dtype(config.model.dtype)))
    learner = learner_of(config, policy, mesh, packing, base)

    def restored() -> Any:
        return restore(run / CHECKPOINTS, checkpoint, {"params": learner.like.params})["params"]

    if config.init_checkpoint:
        run, checkpoint = find_checkpoint(config)
        return learner, restored
    if not rank:
        return learner, read

    def adapters() -> Any:
        return random_adapters(policy, rank, seeds.generator(config.seed, seeds.ADAPTERS))

    return learner, adapters


def _warm_up(stages: Stages, engine: Engine) -> None:
    """Compile every decoding program that the run may need, before its first step."""
    config = stages.config
    engine.load_params(stages.learner.merged(stages.initial()), "initial")
    lengths = {name: len(prompt) for name, prompt in stages.sampler.prompts.items()}
    sampling, rollout = stages.sampler.sampling, config.rollout
    # Any problems may be drawn together; the longest prompt decides which program a call needs.
    any_of_train = {lengths[problem.id] for problem in stages.sets.train}
    # A round of redraws may draw any number of groups.
    counts = range(
        1 if rollout.redraws else rollout.problems_per_step, rollout.problems_per_step + 1
    )
    calls = [[longest] * count for longest in any_of_train for count in counts]
    engine.warm_up(calls, rollout.group_size, sampling)
    for panel in (stages.panel, stages.report, *stages.capabilities.values()):
        own = [lengths[problem.id] for problem in panel.problems]
        engine.warm_up([own], panel.samples, sampling)
