"""The benchmark of rewards: partial correlations, and tried policies that are kept in a file."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pruning import samples, tiny_env

from amc_env import Budget
from amc_env.trust import TriedPolicy
from benchmarks.reward_validity import interval, markdown, partial_correlation, try_all

OPTIONS = Namespace(policies=5, seed=0)


def test_a_partial_correlation_is_that_of_what_the_third_leaves_of_ranks() -> None:
    generator = np.random.default_rng(0)
    z = generator.standard_normal(60)
    x, y = (z + 0.7 * generator.standard_normal(60) for _ in range(2))
    ranks = [column.argsort().argsort().astype(float) for column in (x, y, z)]
    left = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    assert partial_correlation(x, y, z) == pytest.approx(np.corrcoef(*left)[0, 1])
    assert abs(partial_correlation(x, y, z)) < 0.3 < np.corrcoef(x, y)[0, 1]
    low, high = interval(partial_correlation, x, y, z)
    assert low < partial_correlation(x, y, z) < high


def test_tried_policies_are_kept_and_not_tried_again(tmp_path: Path) -> None:
    env = tiny_env(budget=Budget(flops=0.5), selection=samples(40, seed=2))
    out = tmp_path / "tried.jsonl"
    found = try_all(env, OPTIONS, out)
    lines = out.read_text().splitlines()
    out.write_text("\n".join(lines[:3]) + "\n")
    assert [p.loss for p in try_all(env, OPTIONS, out)] == [p.loss for p in found]
    assert out.read_text().splitlines() == lines
    marked = replace(found[0], accuracy=-1.0)
    out.write_text(out.read_text().replace(f'"accuracy": {found[0].accuracy}', '"accuracy": -1.0'))
    assert try_all(env, OPTIONS, out)[0].accuracy == marked.accuracy


def tried_policy(size: float, loss: float, predicted: dict[str, float]) -> TriedPolicy:
    return TriedPolicy(
        counts={}, flops_ratio=0.5, params_ratio=size, accuracy=1 - loss, loss=loss,
        predicted={**predicted, "parameters left": size},
    )  # fmt: skip


def test_the_table_begins_with_what_ranks_best_and_ends_with_what_ranks_nothing() -> None:
    losses = np.linspace(0.1, 0.6, 12)
    sizes = np.random.default_rng(1).permutation(12) / 12
    rows = markdown(
        [
            tried_policy(s, x, {"good": -x, "bad": x, "refused": float("nan")})
            for s, x in zip(sizes, losses, strict=True)
        ]
    ).splitlines()
    names = [row.split(" | ")[0].strip("| ") for row in rows[2:]]
    assert (names[0], names[-2], names[-1]) == ("good", "bad", "refused")
    assert "| good | +1.00 (+1.00 to +1.00) |" in rows[2]
    assert rows[-1] == "| refused |  |  |  |"
