from pathlib import Path

import pytest

from amc_env.pipeline import CONFIGS
from amc_env.pipeline.overrides import Settings, quoted

SETTINGS = Settings(CONFIGS)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("serach.episodes=3", "no setting 'serach.episodes'; the nearest is 'search.episodes'"),
        ("agent.options.sigm=1", "the nearest is 'agent.options.sigma'"),
        ("reward=spatial_entrpy", "the nearest is 'spatial_entropy'"),
        ("agent=dpg", "agent 'dpg' does not exist; the nearest is 'ddpg'"),
        ("experiment=cifar_resnet56", "the nearest is 'cifar10_resnet56'"),
        ("model=resnet18", "a network of torchvision or timm, .* is model.name=resnet18$"),
        ("search.episodes=many", "search.episodes is 'many'; give a whole number"),
        ("search.episodes=1.5", "search.episodes is 1.5; give a whole number"),
        ("base.flip=1", "base.flip is 1; give true or false"),
        ("env.ridge=little", "env.ridge is 'little'; give a number"),
        ("env.ignore=conv1", r"env.ignore is 'conv1'; give a list, such as \[a,b\]"),
        ("device=0", "device is 0; give text"),
        ("agent.options.tau=small", "agent.options.tau is 'small'; give a number"),
        ("seed=0,1", "seed is '0,1'; give a whole number; several values are run by .* -m"),
    ],
)
def test_misspelt_and_ill_typed_settings_are_refused(argument: str, message: str) -> None:
    (job,) = SETTINGS.expand([argument], is_sweep=False)
    with pytest.raises(ValueError, match=message):
        SETTINGS.compose(list(job.values()))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("quick", "'quick' is no setting; write NAME=VALUE"),
        ("hydra.run.dir=x", "write folder=x"),
        ("hydra.sweep.dir=x", "write folder=x"),
        ("hydra.verbose=true", "leave it out"),
        ("env.ignore=[ä]", r"cannot be read; write a value .* in quotes"),
        ("seed=range(3)", "seed=range\\(3\\) gives several values; run each of them by"),
    ],
)
def test_what_is_no_setting_is_refused(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SETTINGS.expand([argument], is_sweep=False)


def test_a_type_is_that_of_the_chosen_file() -> None:
    config = SETTINGS.compose(["criterion=mi_aura", "criterion.options.bins=auto"])
    assert config.criterion.options.bins == "auto"
    with pytest.raises(ValueError, match=r"no setting 'agent\.options\.tau'"):
        SETTINGS.compose(["agent=td3", "agent.options.tau=0.1"])


def test_null_stands_for_any_type() -> None:
    assert SETTINGS.compose(["env.sampled_positions=null"]).env.sampled_positions is None
    assert SETTINGS.compose(["model.checkpoint=a.th"]).model.checkpoint == "a.th"


@pytest.mark.parametrize(
    "path",
    [
        "/my data/dör/file.npz",
        "/data/a (copy)/x.npz",
        "/data/it's/file.npz",
        "C:\\data\\x y",
        "a,b.npz",
        "/data/a=b.npz",
        "/data/ends\\",
    ],
)
def test_paths_need_no_quotes(path: str) -> None:
    (job,) = SETTINGS.expand([f"data.options.path={path}", "data=arrays"], is_sweep=False)
    assert SETTINGS.compose(list(job.values())).data.options.path == path


def test_a_function_of_a_file_needs_no_quotes() -> None:
    (job,) = SETTINGS.expand(["model.name=/my nets/größe.py:net"], is_sweep=False)
    assert SETTINGS.compose(list(job.values())).model.name == "/my nets/größe.py:net"


def test_plain_values_and_those_of_the_grammar_stay_as_they_are() -> None:
    for value in ("0.5", "1e-4", "[a, b]", "{a: 1}", "'a b'", "range(0,3)", "${seed}", "null"):
        assert quoted(value, is_sweep=False) == value


def test_a_sweep_has_every_combination() -> None:
    arguments = ["seed=range(2)", "reward=accuracy,random", "data.options.path=a b.npz,ö.npz"]
    jobs = SETTINGS.expand([*arguments, "data=arrays"], is_sweep=True)
    assert len(jobs) == 8
    last = SETTINGS.compose(list(jobs[-1].values()))
    assert (last.seed, last.reward.name, last.data.options.path) == (1, "random", "ö.npz")


def test_own_parts_do_not_get_the_default_s_options() -> None:
    config = SETTINGS.compose(["agent._target_=mine.Agent", "agent.options.patience=5"])
    assert config.agent == {"name": None, "_target_": "mine.Agent", "options": {"patience": 5}}
    for group in ("criterion", "reward", "data", "model"):
        config = SETTINGS.compose([f"{group}._target_=mine.part"])
        assert config[group]["_target_"] == "mine.part"
        assert config[group].options == {}
    with pytest.raises(ValueError, match=r"agent=td3 and agent\._target_ are both given"):
        SETTINGS.compose(["agent=td3", "agent._target_=mine.Agent"])


def test_measures_are_added_without_a_plus() -> None:
    config = SETTINGS.compose(
        ["budget.measures.size._target_=a.b", "budget.measures.size.ratio=0.5"]
    )
    assert config.budget.measures == {"size": {"_target_": "a.b", "ratio": 0.5}}


def test_a_group_of_the_experiment_can_be_replaced() -> None:
    arguments = ["experiment=cifar10_resnet56", "reward._target_=mine.reward", "seed=2"]
    config = SETTINGS.compose(arguments)
    assert (config.reward._target_, config.model.name) == ("mine.reward", "cifar_resnet56")


def test_settings_are_added_and_groups_taken_away() -> None:
    assert SETTINGS.compose(["+x=1", "~reward"]) == SETTINGS.compose(["~reward", "+x=1"])
    with pytest.raises(ValueError, match="x"):
        SETTINGS.compose(["~x"])


def test_the_folder_of_configurations_is_that_of_this_package() -> None:
    assert Path(__file__).resolve().parents[2] / "amc_env" / "configs" == CONFIGS


def test_a_list_of_budgets_is_one_job_and_values_of_a_sweep_are_several() -> None:
    (job,) = SETTINGS.expand(["budget.flops=[0.7,0.5]"], is_sweep=False)
    assert SETTINGS.compose(list(job.values())).budget.flops == [0.7, 0.5]
    assert SETTINGS.compose(["budget=params", "budget.params=[0.7, 0.5]"]).budget.params == [
        0.7,
        0.5,
    ]
    (swept,) = SETTINGS.expand(["budget.flops=[0.7,0.5]"], is_sweep=True)
    assert swept == job
    jobs = SETTINGS.expand(["budget.flops=[0.7,0.5],0.3"], is_sweep=True)
    assert [j["budget.flops"] for j in jobs] == ["budget.flops=[0.7,0.5]", "budget.flops=0.3"]


def test_budgets_that_are_no_list_are_told_how_to_be_one() -> None:
    (job,) = SETTINGS.expand(["budget.flops=0.7,0.5"], is_sweep=False)
    with pytest.raises(ValueError, match=r"-m, several budgets of one run as 'budget.flops=\[0.7"):
        SETTINGS.compose(list(job.values()))
    with pytest.raises(ValueError, match=r"budget.flops is \['a'\]; give a number"):
        SETTINGS.compose(["budget.flops=[a]"])
    with pytest.raises(ValueError, match=r"search.episodes is .*; give a whole number"):
        SETTINGS.compose(["search.episodes=[3,4]"])
