"""The stage before the search that finds out which reward can be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from math import isnan
from typing import Any

from amc_env import ChannelPruningEnv
from amc_env.pipeline.failures import explained
from amc_env.pipeline.run import Run
from amc_env.pipeline.screen import progress, say, show_cells
from amc_env.rewards import Reward, rewards_by_name
from amc_env.trust import (
    Agreement,
    TriedPolicy,
    Trust,
    best_reward,
    measure,
    spread_policies,
    tried,
)

# A reward that ranks policies less well than this says little about the networks that are kept.
_WEAK = 0.5


def trust(run: Run, env: ChannelPruningEnv) -> None:
    """Try policies at the budget, and say how well each reward ranks their realised networks.

    The figures are in the run and in its folder. A run whose reward is to be chosen goes on with
    the one that ranks best; otherwise a reward that ranks badly is named.

    Raises:
        ValueError: Policies cannot be tried, or no reward is to be chosen from ranks them.
    """
    if not run.config.tried_policies:
        return
    policies = _try(run, env)
    run.trust = tuple(measure(policies, seed=run.config.seed))
    _write(run, policies)
    show_cells(
        ("prediction", "loss", "95 % from, to", run.metric.name, "95 % from, to"),
        [(t.name, *_cells(t.loss), *_cells(t.accuracy)) for t in run.trust],
        title=f"rank correlation with {len(policies)} realised networks on the selection images",
    )
    if run.config.chooses_reward:
        _choose(run, env)
    else:
        _warn(run)


def figures(found: Sequence[Trust]) -> dict[str, dict[str, dict[str, float | None]]]:
    """The correlations by the name of the prediction, as a JSON file holds them: NaN as null."""
    return {t.name: {"loss": _plain(t.loss), "accuracy": _plain(t.accuracy)} for t in found}


def _try(run: Run, env: ChannelPruningEnv) -> list[TriedPolicy]:
    number = run.config.tried_policies
    policies = spread_policies(env.graph, env.keeper, number, seed=run.config.seed)
    found = []
    with (
        explained("trying policies", smaller="split.calibration, validation or selection"),
        progress("trying rewards", total=number) as advance,
    ):
        for counts in policies:
            policy = TriedPolicy(
                **run.journal(f"tried {counts}", partial(_plainly, run, env, counts))
            )
            found.append(policy)
            advance(f"realised {run.metric.name} {run.metric.text(policy.accuracy)}")
    return found


def _plainly(run: Run, env: ChannelPruningEnv, counts: Mapping[str, int]) -> dict[str, Any]:
    (policy,) = tried(env, [counts], _rewards(run))
    return asdict(policy)


def _rewards(run: Run) -> Mapping[str, Reward]:
    """All rewards that need no options, and the run's own as it is configured."""
    own = {} if run.config.chooses_reward else {run.parts.names["reward"]: run.parts.reward}
    return {**rewards_by_name(), **own}


def _choose(run: Run, env: ChannelPruningEnv) -> None:
    best = best_reward(run.trust)
    reward = rewards_by_name()[best.name]
    run.parts = replace(run.parts, reward=reward, names={**run.parts.names, "reward": best.name})
    env.use_reward_(reward)
    say(f"the reward {best.name} ranks the networks best and is used")


def _warn(run: Run) -> None:
    own = next(found for found in run.trust if found.name == run.parts.names["reward"])
    # NaN is no good ranking either.
    if not own.loss.correlation >= _WEAK:
        say(
            f"warning: the reward {own.name} has a rank correlation of "
            f"{_number(own.loss.correlation)} with how good the realised networks are, below "
            f"{_WEAK}; reward=auto chooses the reward that ranks them best"
        )


def _write(run: Run, policies: Sequence[TriedPolicy]) -> None:
    """The correlations and the policies that they are of, each as a file of the run."""
    scores = ("loss", "accuracy")
    columns = [f"{score}_{key}" for score in scores for key in ("correlation", "low", "high")]
    rows = [[t.name, *asdict(t.loss).values(), *asdict(t.accuracy).values()] for t in run.trust]
    run.folder.write_rows("trust.csv", ["prediction", *columns], rows)
    # Rewards have the names of scores too, so every column says which of both it is.
    measured = {
        "flops_ratio": [p.flops_ratio for p in policies],
        "params_ratio": [p.params_ratio for p in policies],
        "realised/loss": [p.loss for p in policies],
        "realised/accuracy": [p.accuracy for p in policies],
        **{f"predicted/{n}": [p.predicted[n] for p in policies] for n in policies[0].predicted},
        **{f"kept/{n}": [p.counts[n] for p in policies] for n in policies[0].counts},
    }
    run.folder.write_rows(
        "trust_policies.csv", [*measured], [*zip(*measured.values(), strict=True)]
    )


def _cells(agreement: Agreement) -> tuple[str, str]:
    interval = f"{_number(agreement.low)}, {_number(agreement.high)}"
    return _number(agreement.correlation), interval


def _number(value: float) -> str:
    return "none" if isnan(value) else f"{value:.2f}"


def _plain(agreement: Agreement) -> dict[str, float | None]:
    return {key: None if isnan(x) else x for key, x in asdict(agreement).items()}
