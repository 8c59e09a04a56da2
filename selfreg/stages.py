"""The stages of a run, built from its config: policy, problems, engine, grader, learner, log."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from selfreg import distributed, seeds
from selfreg.algorithms import configure, find_algorithm
from selfreg.algorithms.parts.algorithm import Algorithm
from selfreg.checkpoint import restore
from selfreg.data.prompts import render
from selfreg.data.sets import ProblemSets, load_sets
from selfreg.evals.panel import Panel
from selfreg.grading import GraderPool
from selfreg.grading.ladder import LAYERS
from selfreg.learn.learner import Learner, make_learner
from selfreg.learn.objective import Objective
from selfreg.learn.optim import make_optimizer
from selfreg.learn.packing import Packing, make_packing
from selfreg.learn.train_step import LearnSettings
from selfreg.lineage import find_checkpoint
from selfreg.mesh import make_mesh
from selfreg.models.attention import choose_attention
from selfreg.models.decoder import layout
from selfreg.models.lora import Lora, frozen_types, random_adapters
from selfreg.models.policy import Policy, count_parameters, open_policy
from selfreg.models.weights import place
from selfreg.progress import ProgressLine
from selfreg.records import Answer, Sampling
from selfreg.rollout.adviser import ask
from selfreg.rollout.engine import Engine
from selfreg.rollout.engines import open_engine
from selfreg.rundir import CHECKPOINTS
from selfreg.runlog import RunLog, open_run
from selfreg.sample import Sampler
from selfreg.validate import skips_updates

T = TypeVar("T")


@dataclass(frozen=True)
class Stages:
    """Everything that a campaign runs on.

    Attributes:
      config: The resolved config.
      sets: The problems to learn from, and those of the panels.
      panel: Measured through a campaign.
      report: Measured at its start, peak and end.
      capabilities: Panels by name, measured when the report is.
      sampler: Draws and grades completions.
      prompt_width: Tokens of the longest training prompt.
      packing: The rows that the learner is compiled for.
      algorithm: What the update descends, with the config's settings.
      learner: Updates weights.
      initial: Makes what the chain starts to train: its policy's weights, read from disk onto the
        mesh, float32; or adapters; or either as config.init_checkpoint left it.
      log: The run folder.
      progress: What a person sees.
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


@contextmanager
def open_stages(config: Any, workdir: Path) -> Iterator[Stages]:
    """Build the stages of a run, warm them up, and close them at the end.

    Everything that can be refused is refused here, before hours are spent.

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
        pool = _open_in_first(opened, lambda: _grader(config, sets))

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
            sampler=Sampler(engine, pool, sampling, prompts, config.grading.max_unjudged_share),
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
    """What the first process alone holds open; None in the others. All raise what it raises."""
    held: list[T] = []
    distributed.from_first(lambda: held.append(opened.enter_context(make())))
    return held[0] if held else None


@contextmanager
def _grader(config: Any, sets: ProblemSets) -> Iterator[GraderPool]:
    grading = config.grading
    with GraderPool(
        grading.workers,
        time_limit_scale=grading.time_limit_scale,
        max_retries=grading.max_retries,
        cpp_options=grading.cpp_options.split(),
        isolation=grading.isolation,
        allow_weak=grading.allow_weak,
    ) as pool:
        if grading.validate:
            _validate(pool, sets)
        yield pool


def _facts(
    config: Any, mesh: jax.sharding.Mesh, pool: GraderPool | None, sets: ProblemSets
) -> dict[str, Any]:
    """What the manifest says of a start beside the config."""
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
    """Every problem's prompt, none of them too long."""
    prompts = {p.id: render(p, config.model.prompt, policy.tokenizer) for p in sets.all}
    longest = max(prompts, key=lambda name: len(prompts[name]))
    if len(prompts[longest]) > config.rollout.max_prompt_tokens:
        raise ValueError(
            f"the prompt of {longest} has {len(prompts[longest])} tokens, more than "
            f"config.rollout.max_prompt_tokens={config.rollout.max_prompt_tokens}: raise that, or "
            "take the problem out of its file"
        )
    return prompts


def _validate(pool: GraderPool, sets: ProblemSets) -> None:
    """Refuse problems that their own solutions do not solve: they would reward noise."""
    broken = pool.validate(sets.all)
    if broken:
        named = "; ".join(f"{name}: {why}" for name, why in list(broken.items())[:3])
        raise ValueError(
            f"{len(broken)} problems have tests that their own solutions do not pass ({named}). "
            "Take them out of their file, raise config.grading.time_limit_scale if they time out, "
            "or set config.grading.validate=False"
        )


def sampling_of(config: Any) -> Sampling:
    """How a run draws completions."""
    rollout = config.rollout
    return Sampling(
        rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_new_tokens,
        rollout.num_alter_tokens,
    )  # fmt: skip


def packing_of(config: Any, mesh: jax.sharding.Mesh) -> Packing:
    """The rows that a run's update is compiled for."""
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
    """The learner of a run.

    Args:
      config: The resolved config.
      policy: What learns.
      mesh: The devices.
      packing: See `packing_of`.
      base: The weights that LoRA's adapters are for; None without LoRA, or as long as only shapes
        matter.
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
    """The learner, and what makes its start: weights, adapters beside them, or a checkpoint's."""
    read = partial(place, weights, layout(policy.config, mesh, weights))
    rank = config.model.lora_rank
    base = None
    if rank:  # in float32 the base may not fit, even for the moment before it is frozen
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
    """Compile every decoding program that the run can need, before its first step."""
    config = stages.config
    engine.load_params(stages.learner.merged(stages.initial()), "initial")
    lengths = {name: len(prompt) for name, prompt in stages.sampler.prompts.items()}
    sampling, rollout = stages.sampler.sampling, config.rollout
    # Any problems may be drawn together; the longest prompt of a call says what it costs.
    any_of_train = {lengths[problem.id] for problem in stages.sets.train}
    # A group that is drawn anew may be alone, or with any number of others.
    counts = range(
        1 if rollout.redraws else rollout.problems_per_step, rollout.problems_per_step + 1
    )
    calls = [[longest] * count for longest in any_of_train for count in counts]
    engine.warm_up(calls, rollout.group_size, sampling)
    for panel in (stages.panel, stages.report, *stages.capabilities.values()):
        own = [lengths[problem.id] for problem in panel.problems]
        engine.warm_up([own], panel.samples, sampling)
