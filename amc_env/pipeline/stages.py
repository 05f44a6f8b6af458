"""The stages of a run in order; each takes what the stages before it returned."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from amc_env import ChannelGraph, ChannelPruningEnv, Policy, PruningData
from amc_env.agents import Episode, SearchResult
from amc_env.agents.episodes import Listener
from amc_env.agents.progress import described, following
from amc_env.agents.workers import side_by_side
from amc_env.data.datasets import DATASET, Dataset
from amc_env.env.budget import BudgetKeeper
from amc_env.env.realise import adjustment, nearer
from amc_env.evaluation import Evaluator, hardest_first
from amc_env.models import load_checkpoint_
from amc_env.pipeline import history
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.failures import explained
from amc_env.pipeline.folder import RunFolder
from amc_env.pipeline.journal import Journal
from amc_env.pipeline.networks import network_of, source_of
from amc_env.pipeline.originals import Originals
from amc_env.pipeline.round_counts import check_given
from amc_env.pipeline.run import Network, Run, Stage, write_network
from amc_env.pipeline.screen import progress, say, working
from amc_env.pipeline.trainings import memory_for, train_
from amc_env.pipeline.trials import check_storage, mirror
from amc_env.repair.pruner import checked_labels
from amc_env.training import DivergedError, Training
from amc_env.trust import spread_policies


def start(
    config: RunConfig,
    path: Path,
    overrides: tuple[str, ...] = (),
    originals: Originals | None = None,
) -> Run:
    """Seed everything, and make what the settings name; the folder is made once all is checked.

    Args:
        config: The settings.
        path: Where the run writes.
        overrides: The settings that the command line gave.
        originals: What earlier runs of this process have measured.

    Raises:
        ValueError: Something that is named does not exist or refuses its options, or the storage of
            the study cannot be used.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    folder = RunFolder(path, is_resumed=config.resume is not None)
    journal = Journal(folder.state / "journal", tell=say)
    parts = config.make()
    if config.search.storage and not folder.is_resumed:
        check_storage(config.search.storage, str(path))
    return Run(
        config=config,
        parts=parts,
        folder=folder,
        journal=journal,
        overrides=overrides,
        originals=originals or Originals(),
    )


def base_model(run: Run) -> tuple[nn.Module, Dataset]:
    """The trained network to prune, from its checkpoint or trained here, and the data.

    Raises:
        ValueError: The data does not exist, the checkpoint does not fit, the network cannot be
            pruned as the settings say, or memory ran out.
        OSError: The folder cannot be written to.
    """
    config = run.config
    data = config.data.make(DATASET).to(config.device)
    run.source = source_of(config, data, run.parts.task)
    model = network_of(config, run.source).to(config.device).eval()
    if config.model.checkpoint:
        load_checkpoint_(model, Path(config.model.checkpoint))
    with working("analysing the network"):
        _check_prunable(run, model, data)
    run.folder.open_(config.as_plain())
    run.journal.open_()
    history.note_start_(run)
    say(f"writing to {run.folder.path}; MACs are multiply-accumulates for one sample")
    if not config.model.checkpoint:
        with explained("training the network", smaller="base.batch"):
            memory = memory_for(run, "base", model)
            training = Training(
                model,
                data.train,
                config.base,
                task=run.parts.task,
                seed=config.seed,
                memory=memory,
            )
            train_(run, "base", training, title="training the network")
    history.check_same(run, model, data.train)
    return model.eval(), data


def environment(run: Run, model: nn.Module, data: Dataset) -> ChannelPruningEnv:
    """The environment, with the greatest of the budgets where there are several.

    It reads training data only; test data is given to it to refuse leaks.

    Raises:
        ValueError: The network cannot be pruned as configured, or memory ran out.
    """
    drawn = _in_order(run, model, _drawn(run, data))
    finalists = f", finalists on {len(drawn.selection)} more" if drawn.selection else ""
    say(
        f"calibrating on {len(drawn.calibration)} training samples; a search's rewards and "
        f"{run.metric.name} are those of {len(drawn.validation)} others, before any "
        f"fine-tuning{finalists}"
    )
    with (
        explained("calibrating", smaller="split.calibration or env.sampled_positions"),
        working("analysing the network and calibrating"),
    ):
        env = ChannelPruningEnv(
            model=model,
            data=drawn,
            criterion=run.parts.criterion,
            reward=run.parts.reward,
            budget=next(iter(run.parts.budgets.values())),
            task=run.parts.task,
            settings=run.parts.env,
            memory=run.journal,
            store=run.config.preparation.store(run.folder.preparation, tell=say),
        )
    say(f"networks are evaluated in {env.evaluator.choice}")
    _tell_original(run, env, model)
    return env


@contextmanager
def workers(run: Run, env: ChannelPruningEnv) -> Iterator[None]:
    """Let the run's workers, if it has more than one, evaluate the candidates of its agents."""
    search = run.config.search
    if search.workers > 1:
        say(f"{search.workers} workers evaluate candidates side by side ({search.engine})")
    with side_by_side(env, workers=search.workers, engine=search.engine):
        yield


def search(run: Run, env: ChannelPruningEnv) -> list[Network]:
    """The network of the best policy that the run's agent finds.

    Every episode and each new best policy are in the folder as soon as the episode is over.

    Raises:
        ValueError: An episode failed; the message says where the others are.
        KeyboardInterrupt: The search was interrupted before its first episode was over.
    """
    folder, best = run.folder, float("-inf")
    groups = [group.name for group in env.graph.groups]
    folder.begin_episodes(groups)
    storage = run.config.search.storage
    also = mirror(storage, str(folder.path), groups) if storage else None

    def note(episode: Episode) -> None:
        nonlocal best
        is_best = episode.reward > best
        best = max(best, episode.reward)
        folder.add_episode(episode, env.graph, _policy(run, env, episode) if is_best else None)
        if also:
            also(episode)

    found = _search(run, env, None, on_episode=note)
    save(run, folder.path, env, found)
    return [found]


def compare(run: Run, env: ChannelPruningEnv) -> list[Network]:
    """The pruned and repaired networks of the agents that the run's agent is compared with.

    Their policies and weights are in the folder too. After an interruption, the networks until
    then.
    """
    found: list[Network] = []
    for name in run.config.search.compare:
        if not run.is_complete:
            break
        try:
            pruned = _search(run, env, name)
            found.append(pruned)
            found.append(_repair(run, env, pruned, finalists=run.config.search.finalists))
        except KeyboardInterrupt:
            run.is_complete = False
        if found and found[-1].agent == name:
            save(run, run.folder.compared(name), env, found[-1])
    return found


def repair(run: Run, env: ChannelPruningEnv, networks: Sequence[Network]) -> list[Network]:
    """The networks until now, and the best policy's network repaired layer by layer and adjusted.

    Where the settings repair nothing, the best of the finalists is selected as it was cut. After an
    interruption of the search one policy is repaired, and nothing is adjusted; an interruption of
    the repair leaves the networks until now.
    """
    finalists = run.config.search.finalists if run.is_complete else 1
    at_most = f" (at most {finalists} policies)" if finalists > 1 else ""
    if env.pruner.repair.is_on:
        say(f"repairing the best of the search layer by layer{at_most}")
    else:
        say(f"selecting the best of the search, which is cut and not repaired{at_most}")
    try:
        with explained(
            "repairing",
            smaller="split.calibration or env.sampled_positions",
            saved=run.folder.saved,
        ):
            repaired = _repair(run, env, networks[-1], finalists=finalists)
        save(run, run.folder.path, env, repaired)
    except KeyboardInterrupt:
        run.is_complete = False
        return [*networks]
    return [*networks, repaired]


def _search(
    run: Run, env: ChannelPruningEnv, name: str | None, *, on_episode: Listener | None = None
) -> Network:
    """The pruned network that an agent finds: the run's own, or the one with this name.

    The search starts from what the same agent found at the budget before, if there was one.
    """
    config = run.config
    agent = run.parts.compared[name] if name else run.parts.agent
    title = name or run.parts.names["agent"]
    total = 1 if agent.is_single else config.search.episodes
    with (
        explained(
            f"searching with {title}",
            smaller="env.evaluation_batch or split.validation",
            saved=run.folder.saved,
        ),
        progress(f"searching: {title}", total=total) as advance,
    ):
        result = agent.search(
            env,
            episodes=config.search.episodes,
            seed=config.seed,
            on_episode=following(advance, on_episode, metric=run.metric),
            log=run.folder.curves if name is None else None,
            start=run.last_found.get(name),
        )
    run.last_found[name] = result.best.counts
    run.is_complete &= result.is_complete
    return Network(agent=title, stage="pruned", result=result)


def _repair(run: Run, env: ChannelPruningEnv, pruned: Network, *, finalists: int) -> Network:
    """The best policy's network as the run keeps it, and its weights adjusted together."""
    stage = _stage_of(env)
    repaired = pruned.result.realised(env, finalists=finalists)
    return replace(pruned, stage=stage, result=_adjusted(run, env, repaired, agent=pruned.agent))


def _stage_of(env: ChannelPruningEnv) -> Stage:
    """What the network of the best policy is called, unless it is made in rounds."""
    return "repaired" if env.pruner.repair.is_on else "selected"


def _adjusted(
    run: Run, env: ChannelPruningEnv, repaired: SearchResult, *, agent: str
) -> SearchResult:
    """The result with its network adjusted; as it was after an interruption."""
    settings = run.config.adjust
    if not run.is_complete or not settings.epochs:
        return repaired
    compact, name = repaired.compact, f"adjust-{Path(agent).name}"
    memory = memory_for(run, name, compact)
    try:
        training = adjustment(env, compact, settings, seed=run.config.seed, memory=memory)
        train_(run, name, training, title="adjusting without labels")
        adjusted = nearer(env, compact, training.model, training.settings)
    except KeyboardInterrupt:
        run.is_complete = False
        return repaired
    except DivergedError as error:
        say(f"the adjustment is given up, for {error}; the {_stage_of(env)} network is kept")
        return repaired
    if adjusted is compact:
        say(f"the adjusted network is no nearer to the original; the {_stage_of(env)} one is kept")
    return replace(repaired, compact=adjusted)


def _policy(run: Run, env: ChannelPruningEnv, episode: Episode) -> Policy:
    """The policy of an episode, with the accuracy that it was found with."""
    known = {"source": run.source, **run.measured(episode.accuracy, "the validation split")}
    return env.policy(episode.counts, seed=run.config.seed).model_copy(update=known)


def save(run: Run, folder: Path, env: ChannelPruningEnv, network: Network) -> None:
    """Write a policy and its weights, with the accuracy that the search knows."""
    write_network(
        run,
        folder,
        network,
        macs=env.graph.cost(network.result.best.counts).flops,
        accuracy=env.evaluator.evaluate(network.result.compact),
        measured_on="the validation split",
    )


def _drawn(run: Run, data: Dataset) -> PruningData:
    """The part of the training data that the search reads."""
    return PruningData.of_training(
        data.train,
        test=data.test,
        calibration=run.config.split.calibration,
        validation=run.config.split.validation,
        selection=run.config.split.selection,
        adjustment=run.config.split.adjustment,
        seed=run.config.seed,
    )


def _in_order(run: Run, model: nn.Module, drawn: PruningData) -> PruningData:
    """The validation samples in the order in which races are over early, if there are races."""
    agents = (run.parts.agent, *run.parts.compared.values())
    is_raced = any(agent.is_racing for agent in agents)
    is_sampled = any(agent.is_sampling for agent in agents)
    if not run.parts.task.has_classes or not is_raced or is_sampled:
        return drawn
    split = drawn.validation
    # Sums of other processors could change the order, so it is remembered.
    order = run.journal("order of the validation samples", lambda: hardest_first(split, model))
    return replace(drawn, validation=split.take(torch.tensor(order)))


def _tell_original(run: Run, env: ChannelPruningEnv, model: nn.Module) -> None:
    """Say what the original network is worth, and warn where it has learned nothing."""
    value, labels = env.evaluator.evaluate(model), env.evaluator.split.labels
    say(f"the original network: {described(run.metric, value)}")
    if not (run.parts.task.has_classes and isinstance(labels, Tensor)):
        return
    commonest = labels.unique(return_counts=True)[1].max().item() / len(labels)
    if value <= commonest:
        say(
            f"warning: that is no better than one class for all ({commonest:.2%}), so a search has "
            "nothing to keep; give model.checkpoint, with pixels normalised as in its training "
            "(data.options.mean, data.options.deviation), or train longer (base.epochs) or at a "
            "lower base.learning_rate"
        )


def _check_prunable(run: Run, model: nn.Module, data: Dataset) -> None:
    """Refuse before the training what the environment would refuse after it."""
    settings = run.parts.env
    drawn = _drawn(run, data)
    samples, tried = drawn.calibration, run.config.tried_policies
    if tried and drawn.selection is None:
        raise ValueError(
            f"the networks of the {tried} policies that are tried are scored on the selection "
            f"images, but none of the {len(data.train)} training images are for selection; give "
            "split.selection=1000, or more images, or trust=0"
        )
    # All budgets of a run have the same table.
    multiple = settings.multiple(next(iter(run.parts.budgets.values())))
    graph = ChannelGraph(model, samples.first(2), ignore=settings.ignore, round_to=multiple)
    check_given(graph, run.config.iterative)
    for budget in run.parts.budgets.values():
        keeper = BudgetKeeper(graph, budget, min_keep=settings.min_keep, max_keep=settings.max_keep)
        if tried:
            spread_policies(graph, keeper, tried, seed=run.config.seed)
    task = run.parts.task
    task.check_labels(samples.labels, samples=len(samples))
    checked_labels(run.parts.criterion, samples, task)
    # Whether there is a score for every class, the sample with the greatest label tells alone.
    Evaluator(samples.with_greatest_label(), precision="float32", task=task).outputs(model)
