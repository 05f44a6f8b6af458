"""Episodes as the trials of an Optuna study."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

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


def answer(application: Any, path: str) -> Any:
    """What a web server answers, as it does to a browser."""
    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    status: list[str] = []
    body = b"".join(application(environ, lambda given, *_: status.append(given)))
    assert status[0].startswith("200"), status
    return json.loads(body)


# What the packages below the dashboard warn of is no matter of ours.
@pytest.mark.filterwarnings("ignore")
def test_optuna_dashboard_shows_the_history_and_which_groups_matter(storage: str) -> None:
    from amc_env.pipeline.trials import _opened

    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    add = mirror(storage, "runs/one", GROUPS)
    numbers = range(1, 41)
    for number in numbers:
        add(replace(episode(number), sparsities=(0.1 * (number % 2), number / 40)))
    shown = dashboard.wsgi(_opened(storage))
    (study,) = answer(shown, "/api/studies")["study_summaries"]
    assert study["study_name"] == "runs/one"
    place = f"/api/studies/{study['study_id']}"
    values = [trial["values"] for trial in answer(shown, place)["trials"]]
    assert values == [[episode(number).reward] for number in numbers]
    ((first, second),) = answer(shown, f"{place}/param_importances")["param_importances"]
    assert {first["name"], second["name"]} == {*GROUPS}
    assert first["importance"] > second["importance"]
    assert first["name"] == "b"


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
