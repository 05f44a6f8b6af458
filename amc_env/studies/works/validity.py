"""Do rewards rank policies as the networks that are kept do, or only by their sizes?

Random policies at one budget, spread over the parameters left, are repaired as an episode repairs
them and paid by every reward. Then they are realised on all calibration images, fine-tuned where
the settings say so, and measured on the test images, which choose nothing here. The rewards from
entropy are those of Musat and Andonie, "Pruning Convolutional Filters via Reinforcement Learning
with Entropy Minimization", 2023, over several sets of layers.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isnan, nan
from pathlib import Path
from typing import Any

from torch import nn

from amc_env.evaluation import Evaluator
from amc_env.names import check_name
from amc_env.pipeline.finetuning import fine_tuning_split
from amc_env.pipeline.screen import progress
from amc_env.rewards import Reward, make_reward
from amc_env.studies.pictures import Bar, draw_forest
from amc_env.studies.plan import Plan
from amc_env.studies.results import NOTHING
from amc_env.studies.works.work import Bench, Found, Options, Table, Work, figures_of, kept
from amc_env.training import DivergedError, fit_
from amc_env.trust import (
    bootstrap_interval,
    partial_bootstrap_interval,
    partial_rank_correlation,
    predicted,
    rank_correlation,
    spread_policies,
)
from amc_env.trust.measure import PARAMETERS_LEFT

_POLICIES = "policies.csv"

# What predictions are held against, by the keys of a tried policy: the greater the better.
_AGAINST = {
    "realised accuracy": "accuracy",
    "minus realised loss": "score",
    "fine-tuned accuracy": "tuned",
}
_GIVEN = ", parameters held fixed"

LEGEND = (
    "Spearman's rank correlation over random policies of one budget, with bootstrap intervals of "
    "95 % (Efron and Tibshirani, 1993), and the partial correlation with the parameters left held "
    "fixed: what a prediction says beyond the network's size. Accuracy and loss are of test "
    f"images. {NOTHING}: the prediction is the same for all policies, refuses some of them, or is "
    "what is held fixed, or nothing was fine-tuned."
)


def compute(bench: Bench, options: Options) -> Found:
    """The correlations of every prediction; the policies are in a file beside them."""
    policies = _try(bench, options)
    sizes = [policy["predicted"][PARAMETERS_LEFT] for policy in policies]
    bench.run.folder.write_rows(_POLICIES, *_listed(policies))
    names = list(policies[0]["predicted"])
    return {"correlations": {name: _correlations(policies, name, sizes) for name in names}}


def table(plan: Plan) -> Table:
    """A row for every prediction of every run."""
    runs = list(figures_of(plan))
    # Networks that were not fine-tuned have fewer figures than others.
    found_in = [found for _, figures in runs for found in figures["correlations"].values()]
    against = list(dict.fromkeys(title for found in found_in for title in found))
    axes = list(runs[0][0].cell.values)
    lines = [
        [
            *run.cell.values.values(),
            str(run.cell.seed),
            name,
            *(_shown(found.get(title)) for title in against),
        ]
        for run, figures in runs
        for name, found in _ordered(figures["correlations"])
    ]
    return [*axes, "seed", "prediction", *against], lines


def draw(plan: Plan) -> Iterator[Path]:
    """A picture of every run: all correlations with their intervals."""
    for number, (run, figures) in enumerate(figures_of(plan)):
        found = dict(_ordered(figures["correlations"]))
        groups = {
            title: {n: Bar(x=0.0, **_bar(f[title])) for n, f in found.items() if f[title]}
            for title in next(iter(found.values()))
            if title.startswith("minus")
        }
        named = ", ".join(run.cell.values.values())
        label = f"{named}: rank correlation\nwith minus the realised loss"
        yield draw_forest(groups, plan.folder / f"correlations-{number}", label=label)


def _try(bench: Bench, options: Options) -> list[dict[str, Any]]:
    """The policies with all that is predicted of their networks and measured on them."""
    rewards = _rewards(options["rewards"])
    env, seed = bench.env, bench.run.config.seed
    policies = spread_policies(env.graph, env.keeper, options["policies"], seed=seed)
    # In the format of the run's evaluations: there are hundreds of networks.
    judge = Evaluator(bench.data.test, precision=env.evaluator.choice or "auto")
    found = []
    with progress("trying policies", total=len(policies)) as advance:
        for counts in policies:
            tried = kept(bench, f"policy {counts}", _tried, bench, judge, rewards, counts)
            found.append(tried)
            advance(f"realised accuracy {tried['accuracy']:.2%}")
    return found


def _rewards(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Reward]:
    for name, reward in given.items():
        for key in reward:
            check_name(f"setting of the reward {name}", key, ("name", "options"))
    return {name: make_reward(r["name"], r.get("options")) for name, r in given.items()}


def _tried(
    bench: Bench, judge: Evaluator, rewards: Mapping[str, Reward], counts: Mapping[str, int]
) -> dict[str, Any]:
    policy = asdict(predicted(bench.env, counts, rewards))
    network = bench.env.pruner.realise(counts)
    outputs, labels, task = judge.outputs(network), judge.split.labels, judge.task
    measured = {
        "accuracy": task.evaluate(outputs, labels),
        "score": -float(task.loss(outputs, labels)),
    }
    return {**policy, **measured, **_tuned(bench, judge, network)}


def _tuned(bench: Bench, judge: Evaluator, network: nn.Module) -> dict[str, float]:
    """The accuracy after fine-tuning, where the settings ask for it."""
    config = bench.run.config
    if not config.finetune.epochs:
        return {}
    tuned = copy.deepcopy(network)
    fitted, _ = fine_tuning_split(bench.run, bench.data)
    try:
        fit_(tuned, fitted, config.finetune, teacher=bench.env.graph.model, seed=config.seed)
    except DivergedError:
        # A network that cannot be trained is a bad one, and no reason to end the study.
        return {"tuned": 0.0}
    return {"tuned": judge.evaluate(tuned)}


def _correlations(
    policies: Sequence[Mapping[str, Any]], name: str, sizes: Sequence[float]
) -> dict[str, Any]:
    """With everything that is measured, plain and with the parameters held fixed."""
    paid = [policy["predicted"][name] for policy in policies]
    found: dict[str, Any] = {}
    for title, key in _AGAINST.items():
        if key not in policies[0]:
            continue
        scores = [policy[key] for policy in policies]
        value = rank_correlation(paid, scores)
        found[title] = _noted(value, bootstrap_interval(paid, scores))
        # Of parameters, nothing is left when parameters are held fixed.
        rest = nan if name == PARAMETERS_LEFT else partial_rank_correlation(paid, scores, sizes)
        interval = (nan, nan) if isnan(rest) else partial_bootstrap_interval(paid, scores, sizes)
        found[title + _GIVEN] = _noted(rest, interval)
    return found


def _noted(value: float, interval: tuple[float, float]) -> dict[str, float] | None:
    low, high = interval
    return None if isnan(value) else {"middle": value, "low": low, "high": high}


def _ordered(correlations: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The predictions that rank best first; what ranks nothing comes last."""

    def order(item: tuple[str, Any]) -> float:
        found = item[1]["minus realised loss"]
        return 2.0 if found is None else -float(found["middle"])

    return sorted(correlations.items(), key=order)


def _shown(found: Mapping[str, float] | None) -> str:
    if found is None:
        return NOTHING
    return f"{found['middle']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def _bar(found: Mapping[str, float]) -> dict[str, float]:
    """The interval of a correlation; a quantile may lie a rounding beyond the middle."""
    middle = found["middle"]
    return {
        "middle": middle,
        "low": min(found["low"], middle),
        "high": max(found["high"], middle),
    }


def _listed(policies: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """The policies as rows of a file."""
    measured = [key for key in _AGAINST.values() if key in policies[0]]
    first = policies[0]
    header = ["flops_ratio", "params_ratio", *measured, *first["predicted"], *first["counts"]]
    rows = [
        [p["flops_ratio"], p["params_ratio"], *(p[key] for key in measured),
         *p["predicted"].values(), *p["counts"].values()]
        for p in policies
    ]  # fmt: skip
    return header, rows


VALIDITY = Work(compute=compute, table=table, draw=draw, legend=LEGEND)
