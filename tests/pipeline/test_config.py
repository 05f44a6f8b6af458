from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from agents import AGENTS
from amc_env.criteria import CRITERIA
from amc_env.data.datasets import DATASETS
from amc_env.models import MODELS
from amc_env.rewards import REWARDS
from pipeline.config import RunConfig
from pipeline.overrides import check_overrides

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(str(p.relative_to(CONFIGS).with_suffix("")) for p in CONFIGS.glob("*/*.yaml"))


def composed(*overrides: str) -> RunConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return RunConfig.of(compose("config", list(overrides)))


@pytest.mark.parametrize("file", FILES)
def test_every_file_composes_and_what_it_names_can_be_made(file: str) -> None:
    group, name = file.split("/")
    config = composed(f"{group}={name}" if group != "experiment" else f"experiment={name}")
    config.check()


@pytest.mark.parametrize(
    ("group", "known"),
    [
        ("criterion", {*CRITERIA}),
        ("reward", {*REWARDS, "weighted"}),
        ("agent", {*AGENTS, "ddpg_warm"}),
        ("data", {*DATASETS}),
    ],
)
def test_every_name_has_a_file(group: str, known: set[str]) -> None:
    assert {p.stem for p in (CONFIGS / group).glob("*.yaml")} == known


def test_models_have_files_of_their_names() -> None:
    for path in (CONFIGS / "model").glob("*.yaml"):
        assert path.stem in MODELS
        assert OmegaConf.load(path).name == path.stem


def test_options_are_all_that_there_are() -> None:
    # A file that lists a default must list the default itself, or changing it would do nothing.
    for name in CRITERIA:
        config = composed(f"criterion={name}")
        assert config.make_criterion() == CRITERIA[name](), name


def test_one_s_own_criterion_comes_by_target() -> None:
    config = composed(
        "~criterion",
        "+criterion._target_=amc_env.criteria.by_weights.GeometricMedian",
        "+criterion.options.exact=true",
    )
    assert config.make_criterion().name == "fpgm"
    bad = composed("~criterion", "+criterion._target_=amc_env.criteria.Nothing")
    with pytest.raises(ValueError, match=r"'amc_env.criteria.Nothing' cannot be made"):
        bad.check()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("serach.episodes=3", "no setting 'serach.episodes'; the nearest is 'search.episodes'"),
        ("agent.options.sigm=1", "the nearest is 'agent.options.sigma'"),
        ("reward=spatial_entrpy", "the nearest is 'spatial_entropy'"),
        ("agent=td3,dpg", "agent 'dpg' does not exist; the nearest is 'ddpg'"),
        ("experiment=cifar_resnet56", "the nearest is 'cifar10_resnet56'"),
    ],
)
def test_misspelt_settings_are_refused_with_the_nearest(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_overrides([argument], CONFIGS)


def test_valid_settings_pass() -> None:
    check_overrides(
        ["-m", "seed=0,1", "reward=accuracy,random", "budget.flops=0.3", "+x=1", "~reward",
         "hydra.run.dir=x", "seed=range(3)", "reward=choice(accuracy,loss)", "--help"],
        CONFIGS,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.episodes=many", "search.episodes is 'many'"),
        ("seed=-1", "seed is -1"),
        ("env.precision=half", "env.precision is 'half'"),
        ("+colour=red", "colour is 'red': Extra inputs"),
        ("finetune.epochs=-2", "epochs is -2"),
        ("search.episodes=0", "search.episodes is 0"),
        ("search.finalists=0", "search.finalists is 0"),
        ("split.calibration=0", "split.calibration is 0"),
        ("split.validation=-1", "split.validation is -1"),
        ("env.batch=0", "env.batch is 0"),
        ("env.sampled_positions=0", "env.sampled_positions is 0"),
        ("env.ridge=-1", "env.ridge is -1"),
        ("env.round_to=0", "env.round_to is 0"),
        ("finetune.batch=0", "^finetune: epochs is 6, batch 0"),
    ],
)
def test_ill_typed_settings_are_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        composed(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.flops=0", "the budget for flops is 0"),
        ("budget.flops=1", "the budget for flops is 1"),
        ("budget.flops=2", "the budget for flops is 2"),
        ("criterion.options.axis=up", "axis 'up' does not exist"),
        ("agent.options.tau=0", "tau is 0"),
        ("search.compare=[unifrm]", "the nearest is 'uniform'"),
        ("env.min_keep=2", "min_keep is 2"),
        ("device=gpu", "device 'gpu' cannot be used here: Expected one of cpu"),
    ],
)
def test_values_that_cannot_be_are_refused_before_any_work(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        composed(override).check()


def test_a_budget_of_none_is_none() -> None:
    assert composed("budget=none").make_budget() is None
    both = composed("budget.params=0.4").make_budget()
    assert both is not None
    assert {n: r for n, (_, r) in both.limits().items()} == {"flops": 0.5, "params": 0.4}
