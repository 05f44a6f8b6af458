"""The groups that have to be left out are found, in few trials."""

from collections.abc import Sequence

import pytest

from amc_env.structure.search import Failure, failing_groups

NAMES = [f"g{number}" for number in range(40)]


class Trials:
    """Fails whenever all groups of one of ``conflicts`` are tried together."""

    def __init__(self, *conflicts: set[str], named: bool = False) -> None:
        self.conflicts = conflicts
        self.named = named
        self.count = 0

    def __call__(self, names: Sequence[str]) -> Failure | None:
        self.count += 1
        for conflict in self.conflicts:
            if conflict <= set(names):
                suspects = frozenset(conflict) if self.named else frozenset()
                return Failure(reason="+".join(sorted(conflict)), suspects=suspects)
        return None


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("conflicts", "refused"),
    [
        ([], {}),
        ([{"g0"}], {"g0": "g0"}),
        ([{"g39"}], {"g39": "g39"}),
        ([{"g7"}, {"g23"}], {"g7": "g7", "g23": "g23"}),
        ([{"g3", "g31"}], {"g31": "g3+g31"}),
        ([{"g3", "g31"}, {"g3"}], {"g3": "g3"}),
    ],
)
def test_the_groups_that_fail_are_refused(
    conflicts: list[set[str]], refused: dict[str, str], named: bool
) -> None:
    trials = Trials(*conflicts, named=named)
    assert failing_groups(NAMES, trials, what="a test") == refused


def test_one_of_many_is_found_in_few_trials() -> None:
    hidden, named = Trials({"g29"}), Trials({"g29"}, named=True)
    failing_groups(NAMES, hidden, what="a test")
    failing_groups(NAMES, named, what="a test")
    assert hidden.count <= 15
    assert named.count == 4


def test_all_that_fail_are_found_in_about_two_trials_each() -> None:
    trials = Trials(*({name} for name in NAMES))
    assert len(failing_groups(NAMES, trials, what="a test")) == 40
    assert trials.count <= 82


def test_a_trial_that_fails_without_any_group_refuses_all_at_once() -> None:
    trials = Trials(set())
    assert set(failing_groups(NAMES, trials, what="a test")) == set(NAMES)
    assert trials.count == 2


def test_no_groups_need_no_trial() -> None:
    assert failing_groups([], Trials(set()), what="a test") == {}


def test_a_suspect_that_fails_only_in_company_is_found_in_few_trials() -> None:
    class Beside(Trials):
        def __call__(self, names: Sequence[str]) -> Failure | None:
            self.count += 1
            if "g29" in names and len(names) > 2:
                return Failure(reason="beside others", suspects=frozenset({"g29"}))
            return None

    trials = Beside()
    assert failing_groups(NAMES, trials, what="a test") == {"g29": "beside others"}
    assert trials.count <= 6
