"""Does a reward rank policies as the networks that are kept do, or only their sizes?

Random policies at one budget, spread over the parameters left, are repaired as an episode repairs
them and paid by every reward; then they are realised on all calibration images and scored on test
images. The table has Spearman's rank correlation of each reward with the accuracy and with minus
the cross-entropy of the realised networks, and its partial correlation with the latter when the
parameters left are held fixed, each with a bootstrap interval of 95 %. The rewards from entropy are
those of Musat and Andonie, "Pruning Convolutional Filters via Reinforcement Learning with Entropy
Minimization", 2023, over several sets of layers.

Policies that ``--out`` holds already are not tried again.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import isnan, nan
from pathlib import Path

import numpy as np
import torch

from amc_env import Budget, ChannelPruningEnv, EnvSettings, PruningData, RepairSettings, Split
from amc_env.rewards import Reward, SpatialEntropy, UnivariateEntropy, make_reward
from amc_env.rewards.layers import LayerSet
from amc_env.trust import TriedPolicy, rank_correlation, spread_policies, tried
from amc_env.trust.measure import PARAMETERS_LEFT
from benchmarks.subjects import Subject, add_published_options, published

SETS: tuple[LayerSet, ...] = ("all", "pruned", "outputs", "last")
_RESAMPLES = 1000


def rewards() -> dict[str, Reward]:
    """The rewards that are compared, by the names of the table's rows."""
    found: dict[str, Reward] = {name: make_reward(name) for name in ("accuracy", "loss")}
    found["kl_to_original"] = make_reward("kl_to_original")
    for layers in SETS:
        found[f"spatial entropy, {layers}"] = SpatialEntropy(layers=layers)
        found[f"spatial entropy, {layers}, before activation"] = SpatialEntropy(
            layers=layers, before_activation=True
        )
    for bins in (32, "auto"):
        found[f"spatial entropy, all, {bins} bins"] = SpatialEntropy(bins=bins)
    found["univariate entropy, all"] = UnivariateEntropy()
    return found


def partial_correlation(x: Sequence[float], y: Sequence[float], given: Sequence[float]) -> float:
    r"""Spearman's correlation of two lists with a third held fixed.

    .. math:: \frac{r_{xy} - r_{xz} r_{yz}}{\sqrt{(1 - r_{xz}^2)(1 - r_{yz}^2)}}
    """
    xy, xz, yz = (rank_correlation(a, b) for a, b in ((x, y), (x, given), (y, given)))
    left = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / left**0.5 if left > 0 else nan


def interval(
    statistic: Callable[..., float], *columns: Sequence[float], seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of a statistic over policies that are drawn again with replacement."""
    generator = np.random.default_rng(seed)
    table = np.array(columns)
    picks = generator.integers(table.shape[1], size=(_RESAMPLES, table.shape[1]))
    values = [statistic(*table[:, pick]) for pick in picks]
    low, high = np.nanquantile(values, (0.025, 0.975))
    return float(low), float(high)


def environment(subject: Subject, options: argparse.Namespace) -> ChannelPruningEnv:
    """An environment whose realised networks are scored on test images."""
    drawn = PruningData.of_training(
        subject.train, calibration=options.calibration, validation=1000, seed=options.seed
    )
    generator = torch.Generator().manual_seed(options.seed)
    chosen = torch.randperm(len(subject.test), generator=generator)[: options.test]
    return ChannelPruningEnv(
        model=subject.model,
        data=PruningData(
            calibration=drawn.calibration,
            validation=drawn.validation,
            selection=Split(inputs=subject.test.inputs[chosen], labels=subject.test.labels[chosen]),
        ),
        criterion=options.criterion,
        reward="loss",
        budget=Budget(flops=options.flops),
        settings=EnvSettings(
            ignore=subject.ignore,
            seed=options.seed,
            repair=RepairSettings(
                seed=options.seed, repair="plain" if options.plain else "sequential"
            ),
        ),
    )


def try_all(env: ChannelPruningEnv, options: argparse.Namespace, out: Path) -> list[TriedPolicy]:
    """The tried policies, of which those in a file are read and the others added to it."""
    keeper = env.keeper
    policies = spread_policies(env.graph, keeper, options.policies, seed=options.seed)
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    found = [TriedPolicy(**json.loads(line)) for line in lines]
    for policy in tried(env, policies[len(found) :], rewards()):
        found.append(policy)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(policy)) + "\n")
        print(f"{len(found)} of {len(policies)}: accuracy {policy.accuracy:.4f}", flush=True)
    return found


def markdown(policies: Sequence[TriedPolicy]) -> str:
    """A row for every reward, the most trustworthy first."""
    scores = [-policy.loss for policy in policies]
    accuracies = [policy.accuracy for policy in policies]
    sizes = [policy.params_ratio for policy in policies]
    rows: list[tuple[float, str]] = []
    for name in policies[0].predicted:
        paid = [policy.predicted[name] for policy in policies]
        cells = [_cell(rank_correlation, paid, y) for y in (accuracies, scores)]
        is_size = name == PARAMETERS_LEFT
        cells.append("" if is_size else _cell(partial_correlation, paid, scores, sizes))
        order = rank_correlation(paid, scores)
        rows.append((2.0 if isnan(order) else -order, f"| {name} | {' | '.join(cells)} |"))
    header = "| reward | with accuracy | with -loss | with -loss, given parameters |"
    return "\n".join([header, "| --- | --: | --: | --: |", *(row for _, row in sorted(rows))])


def _cell(statistic: Callable[..., float], *columns: Sequence[float]) -> str:
    value = statistic(*columns)
    # A reward may have refused a network.
    if isnan(value):
        return ""
    low, high = interval(statistic, *columns)
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    """Try the policies and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_published_options(parser, model="cifar_resnet20")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tried policies")
    parser.add_argument("--criterion", default="l2")
    parser.add_argument("--policies", type=int, default=100)
    parser.add_argument("--calibration", type=int, default=1000)
    parser.add_argument("--test", type=int, default=2500, help="test images")
    parser.add_argument("--plain", action="store_true", help="episodes with the plain repair")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    subject = published(options.folder, options.model, data=options.data)
    kind = "plain" if options.plain else "sequential"
    name = f"{subject.name}-{options.flops}-{options.criterion}-{kind}-{options.seed}.jsonl"
    # Rewards from entropy warn of few pairs of pixels, once for each policy.
    warnings.simplefilter("ignore")
    env = environment(subject, options)
    print("\n" + markdown(try_all(env, options, options.out / name)))


if __name__ == "__main__":
    main()
