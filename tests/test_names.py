"""All seven kinds of things are given in the same four ways."""

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pruning import tiny, tiny_data, tiny_env

from amc_env import ChannelPruningEnv
from amc_env.agents.table import AGENT
from amc_env.criteria import CRITERION, make_criterion
from amc_env.data.datasets import DATASET
from amc_env.env.budget import MEASURE
from amc_env.models import MODEL, find_model
from amc_env.names import Kind, name_of
from amc_env.rewards import REWARD, make_reward
from amc_env.tasks import TASK

MODULE = """
from dataclasses import dataclass

import torch
from torch import nn

from amc_env.agents import Searcher
from amc_env.criteria import Criterion
from amc_env.data import Split
from amc_env.data.datasets import Dataset
from amc_env.tasks import Task

class Middle(Criterion):
    def __init__(self, centre: float = 0.5) -> None:
        self.centre = centre

    def scores(self, group, calibration):
        return -(torch.linspace(0, 1, group.channels) - self.centre).abs()

def saved(context, power: float = 1.0):
    return (1 - context.cost.flops / context.original_cost.flops) ** power

def smallness(power: float = 1.0):
    return lambda context: saved(context, power)

@dataclass(frozen=True)
class Lazy(Searcher):
    effort: float = 1.0

    def run(self, recorder, **_):
        raise NotImplementedError

def stripes(height: int = 8) -> Dataset:
    images = torch.arange(16.0).repeat(height).view(16, 1, height)
    split = Split(inputs=images, labels=torch.arange(16) % 2)
    return Dataset(train=split, test=split)

def net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 3))

def memory(cost, bits: int = 32) -> float:
    return cost.params * bits

class Depth(Task):
    def __init__(self, power: float = 2.0) -> None:
        self.power = power

    def loss(self, outputs, labels):
        return (outputs - labels).abs().pow(self.power).mean()

    def evaluate(self, outputs, labels):
        return -float(self.loss(outputs, labels))

middle = Middle(0.25)
number = 3
"""
ENTRY_POINTS = """
[amc_env.criteria]
middle = amc_env_plugin:Middle
l2 = amc_env_plugin:Middle
lost = amc_env_plugin:Nowhere

[amc_env.rewards]
smallness = amc_env_plugin:smallness
saved = amc_env_plugin:saved

[amc_env.agents]
lazy = amc_env_plugin:Lazy

[amc_env.datasets]
stripes = amc_env_plugin:stripes

[amc_env.models]
net = amc_env_plugin:net

[amc_env.measures]
memory = amc_env_plugin:memory

[amc_env.tasks]
depth = amc_env_plugin:Depth
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind: a name of ours, and something of the plugin with an option that it has."""

    kind: Kind[Any]
    ours: str
    installed: str
    own: str
    option: tuple[str, float]


CASES = {
    "criterion": Case(
        kind=CRITERION, ours="l2", installed="middle", own="Middle", option=("centre", 0.25)
    ),
    "reward": Case(
        kind=REWARD, ours="accuracy", installed="saved", own="saved", option=("power", 2.0)
    ),
    "data set": Case(
        kind=DATASET, ours="digits", installed="stripes", own="stripes", option=("height", 4)
    ),
    "model": Case(kind=MODEL, ours="digits_cnn", installed="net", own="net", option=("width", 6)),
    "agent": Case(kind=AGENT, ours="uniform", installed="lazy", own="Lazy", option=("effort", 2.0)),
    "task": Case(
        kind=TASK, ours="segmentation", installed="depth", own="Depth", option=("power", 1.0)
    ),
    "budget measure": Case(
        kind=MEASURE, ours="flops", installed="memory", own="memory", option=("bits", 8)
    ),
}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package as pip leaves it, with entry points; the name of its module."""
    (tmp_path / "amc_env_plugin.py").write_text(MODULE)
    info = tmp_path / "amc_env_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: amc-env-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "amc_env_plugin", raising=False)
    return "amc_env_plugin"


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_every_kind_is_given_by_name(case: Case) -> None:
    assert case.kind.is_made(case.kind.make(case.ours))
    assert case.ours in case.kind.makers
    assert case.installed not in case.kind.makers


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_every_kind_is_given_by_entry_point(case: Case) -> None:
    made = case.kind.make(case.installed, dict([case.option]))
    assert case.kind.is_made(made)
    assert differs(made, case.kind.make(case.installed))


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_every_kind_is_given_by_path(case: Case, plugin: str, tmp_path: Path) -> None:
    folder = tmp_path / "meine Teile, größer"
    folder.mkdir()
    (folder / "own parts.py").write_text(MODULE)
    for target in (f"{plugin}.{case.own}", f"{folder}/own parts.py:{case.own}"):
        made = case.kind.make_target(target, dict([case.option]))
        assert case.kind.is_made(made)
        assert differs(made, case.kind.make(target))
        assert name_of(made, target=target) == case.own


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_every_kind_is_given_as_an_object(case: Case) -> None:
    made = case.kind.make(case.installed)
    assert case.kind.make(made) is made
    with pytest.raises(ValueError, match=f"the {case.kind.title} is made already, so the options "):
        case.kind.make(made, dict([case.option]))


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_every_kind_refuses_what_it_is_not_in_one_sentence(case: Case, plugin: str) -> None:
    kind, title = case.kind, case.kind.title
    misspelt = case.ours[:-1] + "_"
    with pytest.raises(
        ValueError, match=f"^{title} '{misspelt}' does not exist; the nearest is '{case.ours}'"
    ):
        kind.make(misspelt)
    option = case.option[0]
    for make in (
        partial(kind.make, case.installed),
        partial(kind.make_target, f"{plugin}.{case.own}"),
    ):
        with pytest.raises(
            ValueError, match=f"cannot take '{option}s'; the nearest option is '{option}'"
        ):
            make({f"{option}s": 1})
    with pytest.raises(
        ValueError, match=f"{plugin}.number' is an object of int, which is no {title}"
    ):
        kind.make_target(f"{plugin}.number")
    with pytest.raises(ValueError, match=f"which is no {title}"):
        kind.make(3)


def differs(one: object, other: object) -> bool:
    """Whether an option had an effect on a thing, or on what it was bound to."""
    if isinstance(one, partial):
        return not isinstance(other, partial)
    return repr(vars(one)) != repr(vars(other))


@pytest.mark.usefixtures("plugin")
def test_an_installed_package_adds_criteria_and_rewards() -> None:
    env = ChannelPruningEnv(model=tiny(), data=tiny_data(), criterion="middle", reward="smallness")
    env.reset()
    for _ in env.graph.groups:
        *_, reward, done, _, info = env.step(np.array([0.5], np.float32))
    assert done
    assert reward == pytest.approx(1 - info["flops_ratio"])
    assert info["policy"].kept["stem"].tolist() == [2, 3, 4, 5]


def test_a_criterion_without_a_name_goes_by_its_class(plugin: str) -> None:
    criterion = make_criterion(f"{plugin}.Middle")
    assert criterion.name == "Middle"
    env = ChannelPruningEnv(model=tiny(), data=tiny_data(), criterion=criterion)
    assert env.policy({g.name: 4 for g in env.graph.groups}).criterion == "Middle"


def test_a_plain_function_is_a_reward_by_every_way(plugin: str) -> None:
    own = REWARD.make_target(f"{plugin}.saved", {"power": 2.0})
    parts = {f"{plugin}.saved": 2.0, "saved": 1.0, "accuracy": 0.0}
    values = []
    for reward in (own, "saved", parts):
        env = tiny_env(reward=reward)
        env.reset()
        for _ in env.graph.groups:
            *_, paid, _, _, info = env.step(np.array([0.5], np.float32))
        values.append(float(paid))
    saved = 1 - info["flops_ratio"]
    assert values == pytest.approx([saved**2, saved, 3 * saved])


def test_what_has_no_name_goes_by_its_function_or_class(plugin: str) -> None:
    assert name_of(REWARD.make("smallness")) == "smallness"
    assert name_of(REWARD.make_target(f"{plugin}.saved", {"power": 2.0})) == "saved"
    assert name_of(make_reward("spatial_entropy_max")) == "spatial_entropy_max"
    assert name_of(make_reward({"loss": 1.0})) == "weighted"
    assert name_of(make_reward("loss")) == "loss"
    assert name_of(find_model("digits_cnn").model) == "DigitsCnn"


def test_a_path_is_no_name() -> None:
    assert MODEL.has_name("lenet5")
    assert MODEL.has_name("resnet18")
    assert not MODEL.has_name("lenet5.py:lenet5")
    assert not MODEL.has_name("torch.nn.Identity")


@pytest.mark.usefixtures("plugin")
def test_a_wrong_name_lists_what_packages_add() -> None:
    with pytest.raises(ValueError, match=r"the nearest is 'middle', choose one of l1, .*middle"):
        make_criterion("midle")


@pytest.mark.usefixtures("plugin")
def test_a_package_does_not_replace_a_criterion_of_ours() -> None:
    assert make_criterion("l2").name == "l2"


@pytest.mark.usefixtures("plugin")
def test_a_package_that_declares_what_it_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="'lost' is amc_env_plugin:Nowhere, which cannot be"):
        make_criterion("lost")


def test_an_object_in_a_module_is_the_thing_itself(plugin: str) -> None:
    assert CRITERION.make_target(f"{plugin}.middle").centre == 0.25
    with pytest.raises(ValueError, match="is made already, so the options centre come too late"):
        CRITERION.make_target(f"{plugin}.middle", {"centre": 1.0})


def test_a_class_where_an_object_is_due_is_named() -> None:
    with pytest.raises(ValueError, match=r"'type' is a class, .* give an object of it"):
        CRITERION.make(type)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\ny = undefined\n", r"{file}, line 2: NameError: name 'undefined' is not defined"),
        ("def net(:\n", r"{file}, line 1: SyntaxError: "),
        ("import nowhere_at_all\n", r"{file}, line 1: ModuleNotFoundError: No module named 'nowh"),
        (
            "from torch import nn\n\ndef net():\n    return nn.Conv2d(1, 2)\n",
            "{file}, line 4: Type",
        ),
        ("def net():\n    return int('many')\n", "{file}, line 2: ValueError: invalid literal"),
        ("class net:\n    def __init__(self):\n        self.x = {}['k']\n", "{file}, line 3: KeyE"),
        ("def other():\n    pass\n", "{file} has no function or class 'net'"),
    ],
)
def test_mistakes_in_a_users_file_are_told_with_its_line(
    code: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mein Netz für morgen.py"
    file.write_text(code)
    with pytest.raises(ValueError, match="net") as refusal:
        find_model(f"{file}:net")
    assert message.format(file=file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_does_not_replace_a_module_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\n\n"
        "@dataclass\nclass Widths:\n    first: int = 3\n\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(Widths().first, 2)\n"
    )
    model = find_model(f"{tmp_path}/torch.py:Net").model
    assert model.weight.shape == (2, 3)
    assert sys.modules["torch"].Tensor is not None


def test_modules_that_take_long_to_import_are_left_for_their_use() -> None:
    root = Path(__file__).resolve().parent.parent
    heavy = {"torchvision", "timm", "sklearn", "numba"}
    for path in sorted((root / "amc_env").rglob("*.py")):
        # This module is itself imported where it is used.
        if path.name != "pair_tables.py":
            top = [
                n
                for n in ast.parse(path.read_text()).body
                if isinstance(n, ast.Import | ast.ImportFrom)
            ]
            names = {a.name for n in top for a in n.names} | {
                n.module or "" for n in top if isinstance(n, ast.ImportFrom)
            }
            assert not heavy & {name.partition(".")[0] for name in names}, path


@pytest.mark.slow
def test_a_name_of_ours_imports_no_other_library() -> None:
    code = (
        "import sys; from amc_env.models import find_model; "
        "from amc_env.rewards import make_reward; "
        "from amc_env.criteria import CRITERIA, make_criterion; import amc_env.data.datasets; "
        "find_model('lenet5'); make_reward('loss'); [make_criterion(name) for name in CRITERIA]; "
        "print({'torchvision', 'timm', 'sklearn', 'numba'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
