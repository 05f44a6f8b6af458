"""Episodes as the trials of an Optuna study."""

import warnings
from pathlib import Path

import pytest

from amc_env import extras
from amc_env.agents import Episode
from amc_env.pipeline.trials import check_storage, mirror

with warnings.catch_warnings():
    # What Optuna's own dependencies warn of when they are imported is no matter of ours.
    warnings.simplefilter("ignore")
    import optuna

GROUPS = ("a", "b")


def episode(number: int) -> Episode:
    return Episode(
        number=number, reward=0.5 - 0.1 * number, accuracy=0.4, flops_ratio=0.5, params_ratio=0.6,
        counts={"a": 1, "b": 2}, sparsities=(0.25, 0.1 * number), seconds={}, samples=7,
        reward_parts={}, at_seconds=1.5,
    )  # fmt: skip


@pytest.fixture(params=["studies.log", "sqlite:///{}/studies.db"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    given: str = request.param
    return given.format(tmp_path) if "://" in given else str(tmp_path / "new" / given)


def trials(storage: str, name: str) -> list[optuna.trial.FrozenTrial]:
    from amc_env.pipeline.trials import _opened

    return optuna.load_study(storage=_opened(storage), study_name=name).trials


def test_every_episode_is_a_trial_once_however_often_the_run_goes_on(storage: str) -> None:
    check_storage(storage, "runs/one")
    for last in (2, 4):
        add = mirror(storage, "runs/one", GROUPS)
        for number in range(1, last + 1):
            add(episode(number))
    found = trials(storage, "runs/one")
    assert [trial.user_attrs["number"] for trial in found] == [1, 2, 3, 4]
    assert [trial.value for trial in found] == [episode(n).reward for n in (1, 2, 3, 4)]
    assert found[3].params == {"a": 0.25, "b": pytest.approx(0.4)}
    facts = {"accuracy": 0.4, "samples": 7, "flops_ratio": 0.5, "params_ratio": 0.6}
    assert facts.items() <= found[0].user_attrs.items()


def test_the_study_of_another_run_is_not_added_to(storage: str) -> None:
    mirror(storage, "runs/one/budget.flops=0.5", GROUPS)(episode(1))
    check_storage(storage, "runs/on")
    with pytest.raises(ValueError, match=r"has a study 'runs/one/budget.flops=0.5' of an earlier"):
        check_storage(storage, "runs/one")


@pytest.mark.parametrize("given", ["nothing://there", "sqlite:////no/such/folder/studies.db", "."])
def test_what_cannot_be_opened_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^search.storage=.* cannot be opened: .*; give a URL"):
        check_storage(given, "run")
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"search.storage needs optuna, .*amc-env\[agents\]"):
        mirror(given, "run", GROUPS)
