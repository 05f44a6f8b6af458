"""The last stage of a run: figures on the test data, and what they say about other agents."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from amc_env import ChannelPruningEnv
from amc_env.agents import SearchResult
from amc_env.data.datasets import Dataset
from amc_env.latency import latencies_ms
from amc_env.latency.comparison import Compared, cells, compare, runtimes_for, with_prediction
from amc_env.latency.in_place import LayerLatency, layer_latencies
from amc_env.models import MODEL
from amc_env.pipeline.accuracies import PREDICTIONS_FILE, Examiner
from amc_env.pipeline.calls import package_call, train_call
from amc_env.pipeline.failures import explained
from amc_env.pipeline.masks import MaskedNetwork
from amc_env.pipeline.picture import ORIGINAL, Point, save_picture
from amc_env.pipeline.run import Network, Run, choose, write_network
from amc_env.pipeline.screen import Row, say, show, show_cells, show_points
from amc_env.pipeline.trust import figures
from amc_env.report import details_of, write_report

_AGENT_FILES = Path(__file__).resolve().parents[1] / "configs" / "agent"
_LATENCY_BATCH = 64
# Seconds for the layers of each network; slow networks take longer.
_LAYER_SECONDS = 0.3


def warn_of_rivals(
    run: Run, env: ChannelPruningEnv, networks: Sequence[Network], rivals: Sequence[Network]
) -> None:
    """Name the agents whose repaired networks have a greater reward than the run's own.

    The rewards are those of the selection split, on which no agent has searched; where there is
    none, those of the validation split. Fine-tuning is left out, for only the run's own network is
    fine-tuned.
    """
    # One that was trained in rounds has seen labels, as no rival's network has.
    own = next((n for n in networks if n.is_realised and n.stage != "iterative"), None)
    if own is None:
        return
    split = "selection" if env.data.selection else "validation"
    reward = _reward(env, own)
    for rival in rivals:
        if rival.stage == own.stage and (greater := _reward(env, rival)) > reward:
            say(
                f"{rival.agent} found a better policy than {own.agent}: reward {greater:.4f} "
                f"against {reward:.4f} on the {split} split, both {own.stage}. Its policy.json "
                f"and pruned.safetensors are in {run.folder.compared(rival.agent)}; to make it "
                f"this run's result: {command_for(rival.agent, run.overrides)}"
            )


def finish(
    run: Run,
    env: ChannelPruningEnv,
    data: Dataset,
    networks: Sequence[Network],
    rivals: Sequence[Network],
    masked: Sequence[MaskedNetwork] = (),
) -> dict[str, Any]:
    """Measure all networks on the test data, export the chosen one, write and show the figures.

    This is the only stage that reads the test data, after everything has been chosen for its
    budget; what is chosen for other budgets does not depend on it. Networks with masks are shown
    beside the others. The figures are those of ``metrics.json``.
    """
    kept = choose(networks)
    exact = Examiner(data, run.parts.task)
    with explained("measuring on the test data", smaller="the test data", saved=run.folder.saved):
        base = _original(run, env, exact)
        own = [_row(env, exact, network, is_kept=network is kept) for network in networks]
        others = [_row(env, exact, network) for network in rivals]
        rows = [base, *own, *others, *(_masked_row(exact, network) for network in masked)]
        models = [row.model for row in rows]
        latencies = latencies_ms(models, data.test.first(_LATENCY_BATCH))
        compared = _compared(env, kept, data) if run.config.latency else []
    exported = next(row for row in own if row.is_kept)
    write_network(
        run,
        run.folder.path,
        kept,
        macs=exported.flops,
        accuracy=exported.accuracies.whole,
        measured_on="the test data",
    )
    stages = [network.stage for network in networks]
    metrics = {
        "metric": asdict(run.metric),
        "baseline_accuracy": base.accuracies.whole,
        **{f"{s}_accuracy": row.accuracies.whole for s, row in zip(stages, own, strict=True)},
        **_figures(run, env, networks, kept),
        "evaluation_format": asdict(env.evaluator.choose(env.graph.model)),
        "test_accuracies": {row.name: row.accuracies.whole for row in rows},
        **_further_accuracies(rows),
        "network_flops": {row.name: row.flops for row in rows},
        "network_params": {row.name: row.params for row in rows},
        "latencies_ms": {row.name: ms for row, ms in zip(rows, latencies, strict=True)},
        **({"masks": {m.name: _mask_figures(m) for m in masked}} if masked else {}),
        "latency": [one.model_dump() for one in compared],
    }
    _write_predictions(run, exact, rows)
    run.folder.write_metrics(metrics)
    by_layer = _by_layer(run, env, kept, data)
    run.folder.write_details(details_of(env, kept.result.policy, by_layer))
    run.folder.note_settings(_settings(run), _final(metrics, exported))
    run.folder.close()
    told = f"{run.metric.name} on test data, ms for {_LATENCY_BATCH} samples"
    show(rows, latencies, metric=run.metric, title=f"{metrics['seconds']:.0f} s; {told}")
    if compared:
        show_cells(*cells(compared), title="latency: medians, ± half the range of the middle half")
    say(f"policy.json, pruned.safetensors, metrics.json and more are in {run.folder.path}")
    _write_page(run, [run.folder.path])
    for line in next_steps(run):
        say(line)
    if not run.is_complete:
        say("interrupted: this is the best that was found until then")
    return metrics


def _settings(run: Run) -> dict[str, str | int]:
    """What runs of a sweep may differ in: what is chosen by name, and what the command gave."""
    given = [text.lstrip("+").partition("=") for text in run.overrides if "=" in text]
    others = {key: value for key, _, value in given if key != "folder"}
    return {**others, **run.parts.names, "seed": run.config.seed}


def _final(metrics: Mapping[str, Any], exported: Row) -> dict[str, float]:
    names = ("reward", "validation_accuracy", "flops_ratio", "params_ratio")
    return {"test_accuracy": exported.accuracies.whole, **{name: metrics[name] for name in names}}


def write_together(run: Run, finished: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the figures and the picture of the budgets that are finished, by their settings."""
    is_whole = len(finished) == len(run.parts.budgets)
    run.folder.write_metrics(
        {
            "metric": asdict(run.metric),
            "budgets": finished,
            "seconds": time.perf_counter() - run.started,
            "seed": run.config.seed,
            "is_complete": run.is_complete and is_whole,
        }
    )
    save_picture(list(_points(finished)), run.folder.picture, metric=run.metric)


def show_together(run: Run, finished: Mapping[str, Mapping[str, Any]]) -> None:
    """Show the networks of all finished budgets in one table."""
    found = f"{len(finished)} of {len(run.parts.budgets)} budgets"
    title = f"{found}; {run.metric.name} on test data, ms for {_LATENCY_BATCH} samples"
    show_points(list(_points(finished)), metric=run.metric, title=title)
    name = run.folder.picture.name
    say(f"a folder for each, metrics.json, {name}.svg and {name}.png are in {run.folder.path}")
    _write_page(run, [run.folder.part(budget).path for budget in finished])
    say(_look(run))
    if not run.is_complete:
        say(f"interrupted: this is what was found until then, of {found}")


def _write_page(run: Run, folders: Sequence[Path]) -> None:
    if run.config.report:
        write_report(folders, run.folder.page)


def next_steps(run: Run) -> list[str]:
    """How to look at a run, export its network and load it, with the run's own paths."""
    folder, source = str(run.folder.path), run.source
    # Code of one's own is only run by those who name it.
    own = source.name if source and not MODEL.has_name(source.name) else None
    arguments = ", ".join(repr(given) for given in (folder, own) if given)
    return [
        _look(run),
        f"export it: {package_call('export', folder, *(['--model', own] if own else []))}",
        f"load it in Python: amc_env.load({arguments})",
    ]


def _look(run: Run) -> str:
    """How to look at the page about a run, or how to have one."""
    if run.config.report:
        return f"look at it: open {run.folder.page} in a browser"
    parts = [run.folder.part(name).path for name in run.parts.budgets if name]
    # After an interruption some budgets have none.
    folders = [path for path in parts or [run.folder.path] if path.exists()]
    return f"look at it: {package_call('report', *map(str, folders))}"


def command_for(agent: str, overrides: Sequence[str]) -> str:
    """The command that repeats a run with another agent."""
    # The options of the run's own agent mean nothing to another, and its folder is in use.
    own = ("agent=", "agent.", "folder=")
    others = [text for text in overrides if not text.lstrip("+~").startswith(own)]
    key = "agent" if (_AGENT_FILES / f"{agent}.yaml").is_file() else "agent.name"
    return train_call(*others, f"{key}={agent}")


def _compared(env: ChannelPruningEnv, kept: Network, data: Dataset) -> list[Compared]:
    """The latencies of the original and the exported network under several conditions."""
    networks, sample = [env.graph.model, kept.result.compact], data.test.first(1)
    found: list[Compared] = []
    if not isinstance(sample, Tensor):
        say("latencies are not compared, because the network takes several inputs")
        return found
    for runtime in runtimes_for(sample.device):
        try:
            found += compare(networks, sample, runtime=runtime)
        except ValueError as error:
            say(f"there are no latencies with {runtime}, for {error}")
    if env.budget and env.budget.table:
        costs = (env.graph.cost(), env.graph.cost(kept.result.best.counts))
        return with_prediction(found, env.budget.table, costs, sample.device)
    return found


def _by_layer(run: Run, env: ChannelPruningEnv, kept: Network, data: Dataset) -> list[LayerLatency]:
    """The latencies of all layers of both networks, where a clock can be read between them."""
    sample = data.test.first(1)
    if not run.config.latency or not isinstance(sample, Tensor) or sample.device.type != "cpu":
        return []
    weights = {layer.weight: layer.name for layer in env.graph.layers if layer.weight}
    both = (env.graph.model, kept.result.compact)
    try:
        return layer_latencies(both, sample, weights, seconds=_LAYER_SECONDS)
    except ValueError as error:
        say(f"there are no latencies by layer, for {error}")
        return []


def _reward(env: ChannelPruningEnv, network: Network) -> float:
    return env.judge(network.result.compact, network.result.best.counts).reward


def _points(finished: Mapping[str, Mapping[str, Any]]) -> Iterator[Point]:
    """The original network, and of every budget the networks that nothing was added to since."""
    for number, (budget, metrics) in enumerate(finished.items()):
        kept = f"{metrics['agent']}, {metrics['kept']}"
        for name, accuracy in metrics["test_accuracies"].items():
            is_original = name == ORIGINAL
            is_superseded = name.endswith(", pruned") and name != kept
            if is_superseded or (is_original and number):
                continue
            yield Point(
                budget="" if is_original else budget,
                network=name,
                accuracy=accuracy,
                flops=metrics["network_flops"][name],
                latency_ms=metrics["latencies_ms"][name],
                is_kept=name == kept,
            )


def _further_accuracies(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Accuracies on the original test images, where the data marks them, and among five classes."""
    each = {
        "test_accuracies_on_originals": {row.name: row.accuracies.originals for row in rows},
        "test_top5_accuracies": {row.name: row.accuracies.top5 for row in rows},
    }
    known = {key: {n: x for n, x in found.items() if x is not None} for key, found in each.items()}
    return {key: found for key, found in known.items() if found}


def _write_predictions(run: Run, exact: Examiner, rows: Sequence[Row]) -> None:
    """What every network takes each test image for, so that runs can be compared image by image."""
    columns = exact.predictions({row.name: row.accuracies for row in rows})
    if columns:
        run.folder.write_rows(PREDICTIONS_FILE, [*columns], [*zip(*columns.values(), strict=True)])


def _original(run: Run, env: ChannelPruningEnv, exact: Examiner) -> Row:
    """The original network, which is measured once however many budgets there are."""
    model, cost = env.graph.model, env.graph.cost()
    found = run.originals.accuracies(model, run.config.as_plain(), exact.examine)
    return Row(name=ORIGINAL, model=model, accuracies=found, flops=cost.flops, params=cost.params)


def _row(
    env: ChannelPruningEnv, exact: Examiner, network: Network, *, is_kept: bool = False
) -> Row:
    cost = env.graph.cost(network.result.best.counts)
    return Row(
        name=network.name,
        model=network.result.compact,
        accuracies=exact.examine(network.result.compact),
        flops=cost.flops,
        params=cost.params,
        is_kept=is_kept,
    )


def _masked_row(exact: Examiner, network: MaskedNetwork) -> Row:
    """The row of a network with masks; its cost is that of the weights that are left."""
    masked = network.masked
    return Row(
        name=network.name,
        model=masked.model,
        accuracies=exact.examine(masked.model),
        flops=masked.macs,
        params=masked.params,
        is_masked=True,
    )


def _mask_figures(network: MaskedNetwork) -> dict[str, float]:
    masked = network.masked
    return {"sparsity": masked.sparsity, "flops": masked.macs, "params": masked.params}


def _figures(
    run: Run, env: ChannelPruningEnv, networks: Sequence[Network], kept: Network
) -> Mapping[str, Any]:
    """Figures of the run that are measured on training data only, and what the run was."""
    config, result, best = run.config, kept.result, kept.result.best
    names = run.parts.names
    cost, rewards = env.graph.cost(best.counts), [e.reward for e in result.episodes]
    held_out = {n.stage: n.held_out_accuracy for n in networks if n.held_out_accuracy is not None}
    return {
        "kept": kept.stage,
        **({"held_out_accuracies": held_out} if held_out else {}),
        **({"trust": figures(run.trust)} if run.trust else {}),
        "flops": cost.flops,
        "flops_ratio": best.flops_ratio,
        "params": cost.params,
        "params_ratio": best.params_ratio,
        "reward": best.reward,
        "reward_spread": max(rewards) - min(rewards),
        "validation_accuracy": best.accuracy,
        "model": names["model"],
        "data": names["data"],
        "agent": names["agent"],
        "reward_name": names["reward"],
        "criterion": names["criterion"],
        "episodes": len(result.episodes),
        "evaluations": result.evaluations,
        "search_seconds": result.seconds,
        "ranking_seconds": env.pruner.ranking_seconds + run.later_ranking_seconds,
        "episode_seconds": _mean_seconds(result),
        "seconds": time.perf_counter() - run.started,
        "seed": config.seed,
        "is_complete": run.is_complete,
        "command": train_call(*run.overrides),
    }


def _mean_seconds(result: SearchResult) -> dict[str, float]:
    """Mean duration of an episode's phases."""
    return {
        phase: statistics.fmean(episode.seconds[phase] for episode in result.episodes)
        for phase in result.best.seconds
    }
