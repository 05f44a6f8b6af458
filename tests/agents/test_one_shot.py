"""Networks of given numbers of channels."""

from typing import Any

import pytest
from pruning import tiny_env

from amc_env import Budget, EnvSettings
from amc_env.agents import make_agent

GROUPS = tiny_env().graph.groups
WHOLE = {group.name: group.channels for group in GROUPS}
FIRST = GROUPS[0].name


def kept(options: dict[str, Any], **env: Any) -> dict[str, int]:
    found = make_agent("one_shot", options).search(tiny_env(**env), episodes=5, seed=0)
    assert len(found.episodes) == 1
    return dict(found.best.counts)


def test_half_of_every_group_goes_by_default() -> None:
    assert kept({}) == {name: round(0.5 * channels) for name, channels in WHOLE.items()}


@pytest.mark.parametrize("way", ["counts", "rates"])
def test_numbers_are_given_in_order_or_by_name(way: str) -> None:
    ordered = [n - 1 if way == "counts" else 1 / n for n in WHOLE.values()]
    fewer = {name: channels - 1 for name, channels in WHOLE.items()}
    assert kept({way: ordered}) == fewer
    assert kept({way: {FIRST: ordered[0]}}) == {**WHOLE, FIRST: fewer[FIRST]}


def test_groups_of_a_width_keep_the_same() -> None:
    width = WHOLE[FIRST]
    expected = {name: 3 if channels == width else channels for name, channels in WHOLE.items()}
    assert kept({"widths": {width: 3}}) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": [1]}, f"counts has 1 numbers, but the network has {len(GROUPS)} groups"),
        ({"rates": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, "rates has 6 numbers, but the network has"),
        ({"counts": {"stam": 2}}, "group 'stam' does not exist"),
        ({"counts": {FIRST: WHOLE[FIRST] + 1}}, f"group '{FIRST}' is to keep {WHOLE[FIRST] + 1}"),
        ({"rates": 1.0}, "is to keep 0 channels; give 1 to"),
        ({"counts": [1], "widths": {8: 4}}, "is given counts and widths; give one of them"),
    ],
)
def test_numbers_that_fit_no_group_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kept(options)


def test_bounds_that_forbid_the_numbers_are_named() -> None:
    with pytest.raises(ValueError, match=r"the bounds and the budget lead to .*budget=none"):
        kept({"rates": 0.1}, budget=Budget(flops=0.5))
    with pytest.raises(ValueError, match=r"is to keep 1 channels, but .* smaller env.min_keep"):
        kept({"counts": {FIRST: 1}}, settings=EnvSettings(min_keep=0.5))
