"""The stages of a run, in order; each takes what the one before gave."""

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents import Episode, SearchResult
from agents.realise import realise as realise_policy
from amc_env import ChannelGraph, ChannelPruningEnv, PruningData
from amc_env.data.datasets import Dataset
from amc_env.env.budget import BudgetKeeper
from amc_env.evaluation import Evaluator
from amc_env.latency import latencies_ms
from amc_env.models import MODELS, build_model, find_model, load_checkpoint_
from amc_env.training import TrainingSettings, fit_
from pipeline.config import Parts, RunConfig
from pipeline.folder import RunFolder
from pipeline.kinds import DATASET, MODEL
from pipeline.screen import Row, progress, say, show

_LATENCY_BATCH = 64


@dataclass(kw_only=True, eq=False)
class Run:
    """One run as it goes: its settings, its folder and what it has found.

    Attributes:
        config: The settings.
        parts: What they name, made.
        folder: Where it writes.
        started: When it began.
        rows: The summary's rows.
        metrics: The figures for the file.
        is_complete: False once it was interrupted.
    """

    config: RunConfig
    parts: Parts
    folder: RunFolder
    started: float = field(default_factory=time.perf_counter)
    rows: list[Row] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    is_complete: bool = True


def start(config: RunConfig, path: Path) -> Run:
    """Seed everything, and make what the settings name; the folder is made once all is checked.

    Raises:
        ValueError: Something that is named does not exist or refuses its options.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    return Run(config=config, parts=config.make(), folder=RunFolder(path))


def base_model(run: Run) -> tuple[nn.Module, Dataset]:
    """The data and the trained network to prune: from its checkpoint, or trained here.

    Raises:
        ValueError: The data is not there, the checkpoint does not fit, or the network cannot be
            pruned as the settings say.
        OSError: The folder cannot be written to.
    """
    config = run.config
    data = config.data.make(DATASET).to(config.device)
    model = _network(config, data).to(config.device).eval()
    if config.model.checkpoint:
        load_checkpoint_(model, Path(config.model.checkpoint))
    _check_prunable(run, model, data)
    run.folder.open_(config.as_plain())
    say(f"writing to {run.folder.path}; FLOPs are multiply-accumulates for one sample")
    if not config.model.checkpoint:
        _train_(run, model, data, settings=config.base, title="training the network")
    return model.eval(), data


def environment(run: Run, model: nn.Module, data: Dataset) -> ChannelPruningEnv:
    """The environment on training data alone; the test data is only known to be refused."""
    drawn = _drawn(run, data)
    say(
        f"calibrating on {len(drawn.calibration)} training samples, rewards on "
        f"{len(drawn.validation)} others"
    )
    return ChannelPruningEnv(
        model=model,
        data=drawn,
        criterion=run.parts.criterion,
        reward=run.parts.reward,
        budget=run.parts.budget,
        settings=run.parts.env,
    )


def search(run: Run, env: ChannelPruningEnv, name: str | None = None) -> SearchResult:
    """The best policy that the agent finds; another agent's, by its name, for comparison."""
    config = run.config
    title = name or run.parts.names["agent"]
    agent = run.parts.compared[name] if name else run.parts.agent
    total = 1 if agent.is_single else config.search.episodes
    if name is None and hasattr(agent, "tensorboard"):
        object.__setattr__(agent, "tensorboard", run.folder.path / "tensorboard")
    best = float("-inf")
    with progress(f"searching: {title}", total=total) as advance:

        def tell(episode: Episode) -> None:
            nonlocal best
            is_best = episode.reward > best
            best = max(best, episode.reward)
            if name is None:
                run.folder.note(episode, env.graph, is_best=is_best)
            advance(f"best reward {best:.4f}")

        result = agent.search(
            env, episodes=config.search.episodes, seed=config.seed, on_episode=tell
        )
    if name is None:
        names = tuple(group.name for group in env.graph.groups)
        run.folder.write_episodes(result.episodes, names)
        run.folder.write_network(result.policy, result.compact)
    run.is_complete &= result.is_complete
    return result


def compare(run: Run, env: ChannelPruningEnv, data: Dataset) -> None:
    """The networks of other agents at the same budget and as many episodes, as rows."""
    for name in run.config.search.compare:
        if run.is_complete:
            found = search(run, env, name)
            _add_row(run, env, data, found, name=f"{name}, pruned")
            result = realise(run, env, found)
            _add_row(run, env, data, result, name=f"{name}, repaired")


def realise(run: Run, env: ChannelPruningEnv, found: SearchResult) -> SearchResult:
    """The best policies' networks repaired layer by layer, and the best of those."""
    finalists = run.config.search.finalists if run.is_complete else 1
    at_most = f" (at most {finalists} policies)" if finalists > 1 else ""
    say(f"repairing the best of the search layer by layer{at_most}")
    return realise_policy(env, found, finalists=finalists)


def finetune(run: Run, result: SearchResult, data: Dataset) -> None:
    """Train the pruned network further, in place."""
    if run.is_complete and run.config.finetune.epochs:
        _train_(run, result.compact, data, settings=run.config.finetune, title="fine-tuning")


def report(
    run: Run, env: ChannelPruningEnv, data: Dataset, stage: str, result: SearchResult
) -> None:
    """Measure a network on the test data: a row of the table and a figure of the file."""
    row = _add_row(run, env, data, result, name=f"{run.parts.names['agent']}, {stage}")
    run.metrics[f"{stage}_accuracy"] = row.accuracy


def summarise(run: Run, env: ChannelPruningEnv, data: Dataset, result: SearchResult) -> None:
    """Write the figures and show the table."""
    original = env.graph.cost()
    base = _row("original", env.graph.model, data, original.flops, original.params)
    best = result.best
    rows = [base, *run.rows]
    latencies = latencies_ms([row.model for row in rows], data.test.inputs[:_LATENCY_BATCH])
    run.metrics = {
        "baseline_accuracy": base.accuracy,
        **run.metrics,
        "flops": round(best.flops_ratio * original.flops),
        "flops_ratio": best.flops_ratio,
        "params": round(best.params_ratio * original.params),
        "params_ratio": best.params_ratio,
        "reward": best.reward,
        "mini_split_accuracy": best.accuracy,
        "model": run.parts.names["model"],
        "data": run.parts.names["data"],
        "agent": run.parts.names["agent"],
        "reward_name": run.parts.names["reward"],
        "criterion": run.parts.names["criterion"],
        "episodes": len(result.episodes),
        "search_seconds": result.seconds,
        "episode_seconds": _mean_seconds(result),
        "seconds": time.perf_counter() - run.started,
        "seed": run.config.seed,
        "is_complete": run.is_complete,
        "test_accuracies": {row.name: row.accuracy for row in rows},
        "latencies_ms": {row.name: ms for row, ms in zip(rows, latencies, strict=True)},
    }
    run.folder.write_metrics(run.metrics)
    run.folder.close()
    seconds = run.metrics["seconds"]
    title = f"{seconds:.0f} s; accuracy on test data, latency of {_LATENCY_BATCH} samples"
    show(rows, latencies, title=title)
    say(f"policy.json, pruned.safetensors, metrics.json and more are in {run.folder.path}")
    if not run.is_complete:
        say("interrupted: this is the best that was found until then")


def export(run: Run, result: SearchResult) -> None:
    """Write the policy and the weights of the final network."""
    run.folder.write_network(result.policy, result.compact)


def _network(config: RunConfig, data: Dataset) -> nn.Module:
    """The network, with fresh weights where it is one of this package's."""
    section = config.model
    if section.target or section.options or section.name is None:
        return section.make(MODEL)
    if section.name in MODELS:
        channels = data.train.inputs.shape[1]
        return build_model(
            section.name, num_classes=data.classes, in_channels=channels, seed=config.seed
        )
    return find_model(section.name).model


def _drawn(run: Run, data: Dataset) -> PruningData:
    """What the search reads of the training data."""
    return PruningData.of_training(
        data.train,
        test=data.test,
        calibration=run.config.split.calibration,
        validation=run.config.split.validation,
        seed=run.config.seed,
    )


def _check_prunable(run: Run, model: nn.Module, data: Dataset) -> None:
    """Refuse before the training what the environment would refuse after it."""
    settings = run.parts.env
    samples = _drawn(run, data).calibration
    graph = ChannelGraph(
        model, samples.inputs[:2], ignore=settings.ignore, round_to=settings.round_to
    )
    BudgetKeeper(graph, run.parts.budget, min_keep=settings.min_keep)
    Evaluator(samples, precision="float32").logits(model)


def _mean_seconds(result: SearchResult) -> dict[str, float]:
    """What an episode takes, by phase."""
    return {
        phase: statistics.fmean(episode.seconds[phase] for episode in result.episodes)
        for phase in result.best.seconds
    }


def _train_(
    run: Run, model: nn.Module, data: Dataset, *, settings: TrainingSettings, title: str
) -> None:
    with progress(title, total=settings.epochs) as advance:
        try:
            fit_(
                model,
                data.train,
                settings,
                seed=run.config.seed,
                on_epoch=lambda _, loss: advance(f"loss {loss:.3f}"),
            )
        except KeyboardInterrupt:
            run.is_complete = False
            if title != "fine-tuning":
                raise


def _add_row(
    run: Run, env: ChannelPruningEnv, data: Dataset, result: SearchResult, *, name: str
) -> Row:
    cost = env.graph.cost(result.best.counts)
    row = _row(name, result.compact, data, cost.flops, cost.params)
    run.rows.append(row)
    return row


def _row(name: str, model: nn.Module, data: Dataset, flops: int, params: int) -> Row:
    exact = Evaluator(data.test, precision="float32")
    return Row(
        name=name,
        model=model,
        accuracy=exact.accuracy(model),
        flops=flops,
        params=params,
    )
