from pathlib import Path

import pytest
import torch
from exported import leave_run
from safetensors import safe_open
from safetensors.torch import save_model

import amc_env
from amc_env.__main__ import main
from amc_env.data.datasets import digits
from amc_env.models import build_model
from amc_env.policy import ModelSource

SHAPE = (2, 1, 8, 8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    model, source = build_model("digits_cnn", seed=0).eval(), ModelSource(name="digits_cnn")
    leave_run(tmp_path / "run", model, torch.randn(SHAPE), source=source)
    return tmp_path / "run"


def test_a_policy_cuts_other_weights(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = build_model("digits_cnn", seed=5).eval(), tmp_path / "out"
    save_model(other, str(tmp_path / "other.safetensors"))
    weights = ["--weights", str(tmp_path / "other.safetensors")]
    assert main(["apply", str(run / "policy.json"), "digits_cnn", *weights, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "they were only cut and are not repaired: give --data with training images" in told
    x = torch.randn(SHAPE)
    loaded, policy = amc_env.load(out), amc_env.Policy.load(out / "policy.json")
    with torch.no_grad():
        assert torch.equal(loaded(x), policy.apply(other)(x))
    before = amc_env.Policy.load(run / "policy.json")
    assert policy.groups == before.groups
    # The accuracy was that of other weights.
    assert policy.accuracy is None
    with safe_open(out / "pruned.safetensors", framework="pt") as file:
        assert "accuracy" not in file.metadata()


def test_other_weights_are_repaired_on_training_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = build_model("digits_cnn", seed=5).eval(), tmp_path / "out"
    save_model(other, str(tmp_path / "other.safetensors"))
    given = [str(run), "digits_cnn", "--weights", str(tmp_path / "other.safetensors")]
    assert main(["apply", *given, "--data", "digits", "--images", "100", "--out", str(out)]) == 0
    assert "they were repaired on training images of digits" in capsys.readouterr().out
    images = digits().test.inputs[:100]
    with torch.no_grad():
        wanted = other(images)
        cut, repaired = (
            (network(images) - wanted).square().sum()
            for network in (
                amc_env.Policy.load(run / "policy.json").apply(other),
                amc_env.load(out),
            )
        )
    assert repaired < 0.8 * cut
    assert main(["apply", *given, "--data", "digit", "--out", str(tmp_path / "no")]) == 2
    assert "'digit' does not exist; the nearest is 'digits'" in capsys.readouterr().err


def test_a_folder_of_a_run_is_not_overwritten_and_other_networks_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, out, message in (
        ("digits_cnn", run, "holds a policy.json already; give another folder as --out"),
        ("lenet5", tmp_path / "out", "does not run on an example_input"),
        ("no.py:net", tmp_path / "out", "there is no file no.py"),
    ):
        assert main(["apply", str(run), model, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    missing = ["--weights", str(tmp_path / "no.pt"), "--out", str(tmp_path / "out")]
    assert main(["apply", str(run), "digits_cnn", *missing]) == 2
    assert "no.pt does not exist; check the path" in capsys.readouterr().err


def test_without_weights_the_command_says_whose_they_are(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["apply", str(run), "digits_cnn", "--out", str(tmp_path / "out")]) == 0
    assert "those that digits_cnn is built with; give --weights FILE" in capsys.readouterr().out
