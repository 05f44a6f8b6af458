import json
from pathlib import Path

import pytest

from amc_env.__main__ import main

OWN_MODEL = """
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))

number = 3

def nothing():
    return None
"""


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(OWN_MODEL)
    return path


def test_json_holds_groups_costs_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "cifar_resnet20", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["flops"] == 40_551_040
    assert shown["params"] == 269_722
    assert shown["groups"][0]["name"] == "conv1"
    assert len(shown["groups"]) == 10
    assert shown["frozen"][-1]["reason"] == "they are the network's output"
    assert sum(layer["flops"] for layer in shown["layers"]) == shown["flops"]


def test_the_table_names_groups_and_says_what_macs_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["inspect", "lenet5"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "lenet5, input 1 x 28 x 28: 4 groups" in out
    assert "416,520 MACs (multiply-accumulates of conv and linear layers" in out


def test_ones_own_model_is_found_by_file(
    own_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", f"{own_model}:network", "--input-shape", "1,8,8", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert (group["name"], group["channels"]) == ("0", 4)
    # Nine weights and a bias make a channel, two outputs read its 36 pixels.
    assert group["params"] == 4 * (9 + 1 + 2 * 36)


def test_names_of_timm_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    assert main(["inspect", "resnet10t", "--input-shape", "3,32,32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "resnet10t"


def test_ignored_modules_are_listed_as_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "lenet5", "--ignore", "conv1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["frozen"][0] == {"name": "conv1", "channels": 6, "reason": "conv1 is in ignore"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet19"], "model 'resnet19' does not exist; the nearest is 'resnet18'"),
        (["nowhere.py:network"], "there is no file nowhere.py"),
        (["nowhere.py"], "names no function; write nowhere.py:FUNCTION"),
        (["{own}:network"], "give the shape of one sample of"),
        (["{own}:number"], "number' is an object of int, which is no model"),
        (["{own}:nothing"], "nothing' is an object of NoneType, which is no model"),
        (["lenet5", "--ignore", "conv9"], "ignore names no module 'conv9'; the nearest is 'conv"),
        (["lenet5", "--input-shape", "3,28,28"], "does not run on an example_input of shape"),
    ],
)
def test_bad_arguments_get_one_sentence(
    own_model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.replace("{own}", str(own_model)) for argument in arguments]
    assert main(["inspect", *filled]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_a_misspelt_shape_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["inspect", "lenet5", "--input-shape", "28x28"])
    assert "'28x28' is no shape; write it like 3,224,224" in capsys.readouterr().err
