from dataclasses import fields
from pathlib import Path

import pytest
import torch
from latency_tables import conditions, in_eights, table_by
from omegaconf import OmegaConf

from amc_env import ChannelGraph, EnvSettings, RepairSettings
from amc_env.agents import AGENTS, make_agent
from amc_env.criteria import CRITERIA
from amc_env.data.datasets import DATASET, DATASETS
from amc_env.latency import LatencyTable
from amc_env.models import MODELS, build_model
from amc_env.models.lookup import MODEL
from amc_env.names import name_of
from amc_env.pipeline import CONFIGS
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.overrides import Settings
from amc_env.rewards import REWARDS, make_reward
from amc_env.structure import Cost
from amc_env.tasks import TASKS

# A study is no part of a run's settings.
FILES = sorted(
    str(p.relative_to(CONFIGS).with_suffix(""))
    for p in CONFIGS.glob("*/*.yaml")
    if p.parent.name != "study"
)
MINE = """
from dataclasses import dataclass
from amc_env.criteria import Criterion
from amc_env.agents import Searcher

def paid(context, power=1):
    return power

def weight(cost, factor=1.0):
    return cost.params * factor

def data(share=0.5):
    from amc_env.data.datasets import digits
    return digits(test_share=share)

def net(width=4):
    from torch import nn
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten(), nn.Linear(36 * width, 10))

@dataclass(frozen=True, kw_only=True)
class Middle(Criterion):
    name = "middle"
    power: int = 1
    def scores(self, group, calibration):
        raise NotImplementedError

@dataclass(frozen=True, kw_only=True)
class Idle(Searcher):
    patience: int = 3
    def run(self, recorder, *, episodes, seed):
        raise NotImplementedError
"""

SETTINGS = Settings(CONFIGS)


def composed(*overrides: str) -> RunConfig:
    return RunConfig.of(SETTINGS.compose(overrides))


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of a user's own, and an installed package that offers it under entry points."""
    (tmp_path / "my_parts.py").write_text(MINE)
    info = tmp_path / "my_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[amc_env.criteria]\nmiddle = my_parts:Middle\n"
        "[amc_env.rewards]\npaid = my_parts:paid\n"
        "[amc_env.measures]\nweight = my_parts:weight\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


# A budget for latency needs a table, which has a test of its own.
@pytest.mark.parametrize("file", [f for f in FILES if not f.endswith(("/own", "/latency"))])
def test_every_file_composes_and_what_it_names_can_be_made(file: str) -> None:
    group, name = file.split("/")
    # Some experiments are for a card that the machine of the tests need not have.
    parts = composed(f"{group}={name}", "device=cpu").make()
    if group in ("model", "data", "criterion", "reward"):
        assert parts.names[group] == name


@pytest.mark.parametrize(
    ("group", "known"),
    [
        ("criterion", {*CRITERIA}),
        ("reward", {*REWARDS, "auto"}),
        ("agent", {*AGENTS}),
        ("data", {*DATASETS}),
        ("task", {*TASKS}),
    ],
)
def test_every_name_has_a_file(group: str, known: set[str]) -> None:
    assert {p.stem for p in (CONFIGS / group).glob("*.yaml")} == known | {"own"}


def test_models_have_files_of_their_names() -> None:
    for path in (CONFIGS / "model").glob("*.yaml"):
        if path.stem != "own":
            assert path.stem in MODELS
            assert OmegaConf.load(path).name == path.stem


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_s_file_states_its_code_s_defaults(name: str) -> None:
    # A file that lists a default must list the default itself, or changing it would do nothing.
    assert composed(f"criterion={name}").make().criterion == CRITERIA[name]()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_s_file_states_its_code_s_defaults(name: str) -> None:
    assert composed(f"task={name}").make().task == TASKS[name]()


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_s_file_states_its_code_s_defaults(name: str) -> None:
    options = {"accuracy": 1.0, "spatial_entropy": 0.5} if name == "weighted" else None
    assert composed(f"reward={name}").make().reward == make_reward(name, options)


def test_the_layers_of_an_entropy_are_given_as_a_word_or_as_names() -> None:
    for text, layers in (
        ("outputs", "outputs"),
        ("[layer1.0.conv2,conv1]", ("layer1.0.conv2", "conv1")),
        ("[0,4]", ("0", "4")),
    ):
        reward = composed("reward=spatial_entropy", f"reward.options.layers={text}").make().reward
        assert reward == make_reward("spatial_entropy", {"layers": layers})
    options = ("before_activation=true", "pool=sample", "dead=zero", "bins=auto")
    texts = [f"reward.options.{option}" for option in options]
    reward = composed("reward=spatial_entropy_max", *texts).make().reward
    assert reward == make_reward(
        "spatial_entropy_max",
        {"before_activation": True, "pool": "sample", "dead": "zero", "bins": "auto"},
    )
    assert composed("reward=random", "reward.options.fresh=true").make().reward == make_reward(
        "random", {"fresh": True}
    )


def as_lists(node: object) -> object:
    """Records and tuples as dictionaries and lists, which is what a file can hold."""
    if hasattr(node, "__dataclass_fields__"):
        return {f.name: as_lists(getattr(node, f.name)) for f in fields(node)}
    if isinstance(node, tuple | list):
        return [as_lists(each) for each in node]
    return node


@pytest.mark.parametrize("name", [a for a in AGENTS if a not in ("td3", "sac", "ppo", "tqc")])
def test_an_agent_s_file_states_its_code_s_defaults(name: str) -> None:
    assert as_lists(composed(f"agent={name}").make().agent) == as_lists(make_agent(name))


@pytest.mark.parametrize("name", ["td3", "sac", "ppo", "tqc", "ddpg", "ddpg_amc"])
def test_a_compared_agent_is_that_of_its_file(name: str) -> None:
    parts = composed(f"agent={name}", f"search.compare=[{name}]").make()
    assert parts.compared[name] == parts.agent


def test_the_environment_s_section_states_its_code_s_defaults() -> None:
    assert composed().env == EnvSettings()


OTHER = {
    "min_keep": 0.3,
    "budgeting": "clip",
    "observe_errors": True,
    "max_keep": 0.9,
    "ignore": ("conv1",),
    "precision": "float32",
    "repair": "plain",
    "match_residual_sums": False,
    "ridge": 0.5,
}


@pytest.mark.parametrize("record", [EnvSettings, RepairSettings])
def test_every_field_of_the_environment_can_be_set(record: type) -> None:
    for field in fields(record):
        if field.name == "seed" or (record is EnvSettings and field.name == "repair"):
            continue
        value = OTHER.get(field.name, 7)
        text = "[conv1]" if field.name == "ignore" else value
        plain = ["env.repair=plain"] if field.name == "norm_samples" else []
        env = composed(f"env.{field.name}={text}", *plain).make().env
        holder = env if record is EnvSettings else env.repair
        assert getattr(holder, field.name) == value, field.name
    env = composed("seed=9").make().env
    assert env.seed == env.repair.seed == 9


def test_a_file_has_every_setting_flat() -> None:
    plain = composed("env.ridge=0.5", "search.compare=[td3]").as_plain()
    assert plain["env"]["ridge"] == 0.5
    assert plain["env"]["repair"] == "sequential"
    assert "seed" not in plain["env"]
    assert plain["compared"]["td3"]["options"]["batch_size"] == 64
    assert plain["base"]["epochs"] == 12
    assert plain["iterative"]["rounds"] == 0
    assert plain["iterative"]["distil"] == plain["finetune"]["distil"] == 0.5
    assert "training" not in plain["iterative"]


@pytest.mark.usefixtures("mine")
def test_own_parts_come_by_target_without_the_default_s_options() -> None:
    parts = composed(
        "criterion._target_=my_parts.Middle",
        "criterion.options.power=2",
        "reward._target_=my_parts.paid",
        "reward.options.power=3",
        "agent._target_=my_parts.Idle",
        "agent.options.patience=5",
        "budget.measures.size._target_=my_parts.weight",
        "budget.measures.size.options.factor=2.0",
        "budget.measures.size.ratio=0.25",
    ).make()
    assert (parts.criterion.name, parts.criterion.power) == ("middle", 2)  # type: ignore[attr-defined]
    assert parts.reward(None) == 3  # type: ignore[arg-type]
    assert (parts.names["reward"], parts.names["criterion"]) == ("paid", "middle")
    assert parts.agent.patience == 5  # type: ignore[attr-defined]
    (budget,) = parts.budgets.values()
    assert budget is not None
    measure, ratio = budget.limits()["size"]
    assert ratio == 0.25
    assert measure(Cost(flops=1, params=10, layers={})) == 20.0


@pytest.mark.usefixtures("mine")
def test_own_data_and_networks_come_by_target() -> None:
    config = composed(
        "data._target_=my_parts.data",
        "data.options.share=0.25",
        "model._target_=my_parts.net",
        "model.options.width=6",
    )
    assert len(config.data.make(DATASET).test) == pytest.approx(1797 / 4, abs=1)
    assert config.model.make(MODEL)[0].out_channels == 6  # type: ignore[index]
    assert (config.data.title(), config.model.title()) == ("data", "net")


@pytest.mark.usefixtures("mine")
def test_installed_parts_come_by_name() -> None:
    parts = composed(
        "criterion=middle",
        "criterion.options.power=2",
        "reward=paid",
        "budget.measures.weight.ratio=0.25",
    ).make()
    assert name_of(parts.criterion) == "middle"
    assert parts.names["reward"] == "paid"
    (budget,) = parts.budgets.values()
    assert budget is not None
    assert set(budget.limits()) == {"flops", "weight"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed is -1"),
        ("env.precision=half", "env.precision is 'half'"),
        ("+colour=red", "colour is 'red': Extra inputs"),
        ("+env.colour=red", "setting 'colour' does not exist; the nearest is"),
        ("+base.epoch=3", "setting 'epoch' does not exist; the nearest is 'epochs'"),
        ("finetune.epochs=-2", "epochs is -2"),
        ("search.episodes=0", "search.episodes is 0"),
        ("search.finalists=0", "search.finalists is 0"),
        ("split.calibration=0", "split.calibration is 0"),
        ("split.validation=-1", "split.validation is -1"),
        ("split.selection=-1", "split.selection is -1"),
        ("trust=-1", "trust is -1: give 0 for none, or at least 8 policies"),
        ("trust=7", "trust is 7: give 0 for none, or at least 8 policies"),
        ("env.evaluation_batch=0", "evaluation_batch is 0"),
        ("env.calibration_batch=0", "calibration_batch is 0"),
        ("env.sampled_positions=0", "sampled_positions is 0"),
        ("env.ridge=-1", "ridge is -1"),
        ("env.repair=some", "env.repair is 'some': Input should be 'none', 'plain' or"),
        ("env.norm_samples=5", "norm_samples is 5 and repair is 'sequential'; give 0"),
        ("env.sequential=false", r"^env.sequential is now env.repair=sequential\|plain$"),
        ("+env.sequential=false", r"^env.sequential is now env.repair=sequential\|plain$"),
        ("iterative.rounds=-1", "rounds is -1; give 0 for none, or the number of rounds"),
        ("iterative.epochs=-1", "^iterative: epochs is -1; it must be at least 0"),
        ("+iterative.epoch=3", "setting 'epoch' does not exist; the nearest is 'epochs'"),
        ("masks=[all]", "^masks.0 is 'all': Input should be 'global' or 'local'"),
        ("env.round_to=0", "round_to is 0"),
        ("env.min_keep=2", "min_keep is 2"),
        ("finetune.batch=0", "^finetune: batch is 0; it must be at least 1"),
        ("finetune.distil=2", "^finetune: distil is 2.0; it must be from 0 to 1"),
        ("finetune.temperature=0", "^finetune: temperature is 0.0; it must be positive"),
        ("finetune.precision=half", "^finetune.precision is 'half': Input should be 'auto'"),
        ("+base.distil=0.5", "^base: distil is 0.5, but the base network has no teacher"),
    ],
)
def test_values_out_of_range_are_refused(override: str, message: str) -> None:
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
        ("device=gpu", "device 'gpu' cannot be used here: Expected one of cpu"),
        ("criterion._target_=amc_env.criteria.Nothing", "amc_env.criteria"),
        ("criterion=own", "no criterion is named"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_work(override: str, message: str) -> None:
    config = composed(override)
    with pytest.raises(ValueError, match=message):
        config.make()


def test_a_budget_of_none_is_none() -> None:
    assert composed("budget=none").make().budgets == {"": None}
    (both,) = composed("budget.params=0.4").make().budgets.values()
    assert both is not None
    assert {n: r for n, (_, r) in both.limits().items()} == {"flops": 0.5, "params": 0.4}


def limits_of(config: RunConfig) -> dict[str, dict[str, float]]:
    budgets = config.make().budgets
    return {key: {n: r for n, (_, r) in b.limits().items()} for key, b in budgets.items() if b}


def test_a_list_is_a_budget_for_each_ratio_the_greatest_first() -> None:
    config = composed("budget.flops=[0.3,0.7,0.5]", "budget.params=0.8")
    assert limits_of(config) == {
        "budget.flops=0.7": {"flops": 0.7, "params": 0.8},
        "budget.flops=0.5": {"flops": 0.5, "params": 0.8},
        "budget.flops=0.3": {"flops": 0.3, "params": 0.8},
    }
    assert list(limits_of(config)) == ["budget.flops=0.7", "budget.flops=0.5", "budget.flops=0.3"]
    # The configuration of each is the one that its ratio alone would have given.
    for ratio in (0.7, 0.5, 0.3):
        alone = composed(f"budget.flops={ratio}", "budget.params=0.8")
        assert config.each_budget()[f"budget.flops={ratio}"].as_plain() == alone.as_plain()
    assert limits_of(composed("budget=params", "budget.params=[0.4,0.6]")) == {
        "budget.params=0.6": {"params": 0.6},
        "budget.params=0.4": {"params": 0.4},
    }


@pytest.mark.usefixtures("mine")
def test_a_measure_s_ratio_can_be_a_list_too() -> None:
    config = composed(
        "budget.measures.size._target_=my_parts.weight", "budget.measures.size.ratio=[0.2,0.4]"
    )
    assert limits_of(config) == {
        "budget.measures.size.ratio=0.4": {"flops": 0.5, "size": 0.4},
        "budget.measures.size.ratio=0.2": {"flops": 0.5, "size": 0.2},
    }


def test_a_list_of_one_is_the_ratio() -> None:
    assert composed("budget.flops=[0.3]").as_plain() == composed("budget.flops=0.3").as_plain()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget.flops=[]"], r"^budget.flops is \[\]: the list is empty; give a ratio"),
        (["budget.flops=[0.5,0.3,0.5]"], r"^budget.flops is .*: 0.5 is there twice"),
        (["budget=params", "budget.flops=[a]"], r"^budget.flops is \['a'\]: 'a' is no ratio"),
        (["budget=params", "budget.flops=a"], r"^budget.flops is 'a': 'a' is no ratio; give a"),
        (["budget.flops=[0.5,1.5]"], r"^the budget for flops is 1.5; give a ratio"),
        (["budget.flops=[0.5,0]"], r"^the budget for flops is 0.0; give a ratio"),
        (
            ["budget.flops=[0.5,0.3]", "budget.params=[0.5,0.3]"],
            "^budget: flops and params are both lists; give several ratios for one of them",
        ),
    ],
)
def test_lists_that_are_no_budgets_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        composed(*overrides).make()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The file of a table of the digits' network."""
    graph = ChannelGraph(build_model("digits_cnn").eval(), torch.zeros(2, 1, 8, 8))
    path = tmp_path / "table.json"
    table_by(in_eights, graph).save(path)
    return path


def test_a_budget_for_latency_reads_its_table(table: Path) -> None:
    config = composed("budget=latency", f"budget.table={table}", "env.round_to=auto")
    assert limits_of(config) == {"": {"latency": 0.6}}
    parts = config.make()
    (budget,) = parts.budgets.values()
    assert parts.env.round_to == "auto"
    assert parts.env.multiple(budget) == 8
    both = composed(f"budget.table={table}", "budget.latency=[0.5,0.7]")
    assert limits_of(both) == {
        "budget.latency=0.7": {"flops": 0.5, "latency": 0.7},
        "budget.latency=0.5": {"flops": 0.5, "latency": 0.5},
    }


def test_a_table_that_is_not_there_or_of_elsewhere_is_refused(table: Path) -> None:
    with pytest.raises(ValueError, match="a budget for latency needs a table"):
        composed("budget=latency").make()
    with pytest.raises(ValueError, match=r"budget.table is no\.json, and there is no such file"):
        composed("budget=latency", "budget.table=no.json").make()
    elsewhere = conditions(device_name="a telephone")
    LatencyTable.read(table).model_copy(update={"conditions": elsewhere}).save(table)
    given = ("budget=latency", f"budget.table={table}")
    with pytest.raises(ValueError, match=r"was measured elsewhere: .*budget\.anywhere=true"):
        composed(*given).make()
    assert composed(*given, "budget.anywhere=true").make().budgets
