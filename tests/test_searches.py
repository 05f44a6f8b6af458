"""The benchmark of searches: its records, and the tables that are made of them."""

import base64
from pathlib import Path

import numpy as np
import pytest
from pruning import samples, tiny_env

from amc_env import Budget
from amc_env.evaluation import Evaluator
from amc_env.training import TrainingSettings
from benchmarks.searches.report import markdown, reached
from benchmarks.searches.search import Found, adjusted_again, search

WITHOUT_LABELS = TrainingSettings(epochs=1, distil=1.0, precision="float32")
DESCRIBED = {
    "network": "tiny", "flops": 0.5, "agent": "random", "options": "race=true", "reward": "loss",
    "seed": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Found:
    env = tiny_env(budget=Budget(flops=0.5), selection=samples(24, seed=2))
    test = Evaluator(samples(30, seed=3), precision="float32")
    return search(env, test, DESCRIBED, episodes=3, adjustment=WITHOUT_LABELS)


def test_a_search_is_read_back_as_it_was_written(found: Found, tmp_path: Path) -> None:
    found.write(tmp_path)
    (path,) = tmp_path.iterdir()
    assert Found.model_validate_json(path.read_text(encoding="utf-8")) == found


def test_a_search_says_which_test_images_its_networks_get_right(found: Found) -> None:
    assert found.title == "random race=true"
    assert len(found.rewards) == 3
    assert found.flops_ratio <= 0.5
    for stage in ("repaired", "adjusted"):
        assert found.right(stage).shape == (30,)
        # The classes of random images are guessed, neither all right nor all wrong.
        assert 0 < found.right(stage).sum() < 30


def test_a_network_is_adjusted_again_from_its_policy_alone(found: Found) -> None:
    env = tiny_env(budget=Budget(flops=0.5), selection=samples(24, seed=2))
    test = Evaluator(samples(30, seed=3), precision="float32")
    again = adjusted_again(env, test, found, WITHOUT_LABELS)
    for stage in ("repaired", "adjusted"):
        assert (again.right(stage) == found.right(stage)).all()
    assert again.rewards == found.rewards


def with_right(found: Found, agent: str, seed: int, bits: list[bool]) -> Found:
    packed = base64.b64encode(np.packbits(bits).tobytes()).decode()
    changes = {
        "agent": agent, "options": "", "seed": seed, "tests": len(bits),
        "is_right": {"repaired": packed, "adjusted": packed},
    }  # fmt: skip
    return found.model_copy(update=changes)


def compared(*found: Found) -> list[list[str]]:
    """The cells of the table's lines, of all images that there are."""
    table = markdown(found, {"all": np.ones(found[0].tests, dtype=bool)}, reference="ours")
    return [[c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_differences_are_paired_over_images_and_seeds(found: Found) -> None:
    ours, other = compared(
        with_right(found, "ours", 0, [True, True, True, False]),
        with_right(found, "ours", 1, [True, True, False, False]),
        # Of a seed that the other has not.
        with_right(found, "ours", 2, [True, True, True, True]),
        with_right(found, "other", 0, [True, False, True, False]),
        with_right(found, "other", 1, [True, False, False, True]),
    )
    assert ours[7:] == ["75.00 (50.00 to 100.00)"] * 2 + [""]
    gained = np.array([0.0, -1.0, 0.0, 0.5])
    half = 1.96 * gained.std(ddof=1) / 2
    assert other[2] == "2"
    assert other[7:] == ["50.00 (50.00 to 50.00)"] * 2 + [f"-12.50 ± {100 * half:.2f}"]


def test_where_no_seed_is_shared_there_is_no_difference(found: Found) -> None:
    one = with_right(found, "ours", 0, [True, False])
    assert compared(one, with_right(found, "other", 1, [True, True]))[1][-1] == ""


def test_an_agent_is_compared_with_itself_under_another_reward(found: Found) -> None:
    one = with_right(found, "ours", 0, [True, False])
    other = with_right(found, "ours", 0, [True, True]).model_copy(update={"reward": "accuracy"})
    first, second = compared(one, other)
    assert first[-1] == ""
    assert second[1] == "accuracy"
    assert second[-1].startswith("+50.00 ± ")


def test_without_an_adjustment_repaired_networks_are_compared(found: Found) -> None:
    env = tiny_env(budget=Budget(flops=0.5), selection=samples(24, seed=2))
    test = Evaluator(samples(30, seed=3), precision="float32")
    short = search(env, test, DESCRIBED, episodes=3, adjustment=None)
    assert short.is_right == {"repaired": found.is_right["repaired"]}
    other = with_right(short, "ours", 1, [*map(bool, ~short.right("repaired"))])
    table = markdown([short, other], {"own": np.ones(30, dtype=bool)}, reference="ours")
    head, _, mine, theirs = (line.split("|")[1:-1] for line in table.splitlines())
    assert [name.strip() for name in head[7:]] == ["repaired, own", "to ours, own"]
    share = 100 * short.right("repaired").mean()
    assert mine[7].strip() == f"{share:.2f}"
    assert mine[8].strip().startswith(f"{share - (100 - share):+.2f} ± ")
    assert theirs[8].strip() == ""


def test_rewards_are_shown_after_so_many_episodes(found: Found) -> None:
    line = reached([found.model_copy(update={"rewards": [-3.0, -1.0, -2.0, 0.5]})], ends=(1, 3))
    cells = [cell.strip() for cell in line.splitlines()[2].split("|")[1:-1]]
    assert cells == ["random race=true", "loss", "-3.000", "-1.000", "0.500"]
