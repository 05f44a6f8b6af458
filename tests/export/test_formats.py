import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from exported import computed_elsewhere, difference, leave_run
from torch import Tensor, nn

import amc_env
from amc_env import extras
from amc_env.__main__ import main
from amc_env.export import programs
from amc_env.export.finished import Finished, read_finished
from amc_env.export.formats import FORMATS
from amc_env.models import build_model, model_entry
from amc_env.policy import ModelSource
from amc_env.structure.changes import layer_changes

NAMES = ("digits_cnn", "lenet5", "cifar_resnet20")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each network, as a finished run leaves it."""
    root = tmp_path_factory.mktemp("runs")
    for name in NAMES:
        x = torch.randn(2, *model_entry(name).input_shape)
        source = ModelSource(name=name)
        leave_run(root / name, build_model(name, seed=0).eval(), x, source=source)
    return root


@pytest.fixture
def lenet(runs: Path, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return Path(
        shutil.copytree(runs / "lenet5", tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    )


@pytest.fixture(scope="module")
def exported(runs: Path) -> list[Path]:
    for name in NAMES:
        assert main(["export", str(runs / name)]) == 0
    return [runs / name / "export" for name in NAMES]


def test_exports_compute_the_same_in_a_process_without_the_package(
    exported: list[Path], runs: Path
) -> None:
    for name, folder in zip(NAMES, exported, strict=True):
        torch.save(torch.randn(5, *model_entry(name).input_shape), folder / "x.pt")
    found = computed_elsewhere(exported)
    for name, folder, outputs in zip(NAMES, exported, found, strict=True):
        with torch.no_grad():
            wanted = amc_env.load(runs / name)(torch.load(folder / "x.pt"))
        assert len(outputs) == 3
        assert max(difference(output, wanted) for output in outputs.values()) <= 1e-4


def test_an_exported_folder_is_loaded_as_the_run_is(exported: list[Path], runs: Path) -> None:
    for name, folder in zip(NAMES, exported, strict=True):
        given, wanted = amc_env.load(folder).state_dict(), amc_env.load(runs / name).state_dict()
        assert given.keys() == wanted.keys()
        assert all(torch.equal(given[key], wanted[key]) for key in wanted)


def test_tables_say_what_every_layer_keeps_and_costs(exported: list[Path], runs: Path) -> None:
    for name, folder in zip(NAMES, exported, strict=True):
        compact = amc_env.load(runs / name)
        table = yaml.safe_load((folder / "layers.yaml").read_text())
        with (folder / "layers.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [list(map(str, layer.values())) for layer in table["layers"]] == [
            list(row.values()) for row in rows
        ]
        assert table["accuracy"] == 0.5
        assert sum(layer["macs_after"] for layer in table["layers"]) == table["macs_after"]
        for layer in table["layers"]:
            module = compact.get_submodule(layer["layer"])
            assert layer["kept"] == _outputs(module)
            assert layer["params_after"] == sum(p.numel() for p in module.parameters())
            assert layer["sparsity"] == round(1 - layer["kept"] / layer["channels"], 4)
            assert bool(layer["group"]) == (layer["kept"] < layer["channels"])


def _outputs(module: nn.Module) -> Any:
    return module.out_channels if isinstance(module, nn.Conv2d) else module.out_features


def test_a_layer_of_two_groups_keeps_what_both_leave(tmp_path: Path) -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 6, 1)
            self.depthwise = nn.Conv2d(10, 10, 1, groups=10)
            self.head = nn.Conv2d(10, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.depthwise(torch.cat([self.a(x), self.b(x)], 1)))
            return out

    model, x = Joined().eval(), torch.randn(2, 1, 4, 4)
    compact = leave_run(tmp_path, model, x)
    policy = amc_env.Policy.load(tmp_path / "policy.json")
    run = Finished(folder=tmp_path, policy=policy, graph=policy.graph(model), network=compact)
    depthwise = layer_changes(run.graph, run.policy.kept)[2]
    assert (depthwise.group, depthwise.channels, depthwise.kept) == ("a b", 10, 5)


@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_a_program_that_does_not_agree_is_not_left(
    name: str, lenet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(programs, "TOLERANCE", -1.0)
    assert main(["export", str(lenet), "--to", name]) == 2
    told = capsys.readouterr()
    assert "is not written, because its outputs differ from those of PyTorch by" in told.err
    assert told.out == ""
    assert list((lenet / "export").iterdir()) == []


def test_other_shapes_and_no_numbers_do_not_agree(lenet: Path) -> None:
    run = read_finished(lenet, None)
    with pytest.raises(ValueError, match="its outputs have other shapes than the network's"):
        programs.check_agrees(run, Path("network.onnx"), lambda _: [torch.zeros(1)])
    with pytest.raises(ValueError, match="its outputs differ from those of PyTorch by nan"):
        programs.check_agrees(
            run, Path("network.onnx"), lambda inputs: [torch.full((len(inputs[0]), 10), torch.nan)]
        )


def test_a_network_that_torch_cannot_export_is_refused(tmp_path: Path) -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.conv(x))
            # Which way is known from the samples alone.
            return out if x.sum() > 0 else -out

    model, x = Choosing().eval(), torch.ones(2, 1, 4, 4)
    compact = leave_run(tmp_path, model, x)
    policy = amc_env.Policy.load(tmp_path / "policy.json")
    run = Finished(folder=tmp_path, policy=policy, graph=policy.graph(model), network=compact)
    with pytest.raises(ValueError, match="Choosing cannot be exported for batches of any size"):
        programs.write_program(run, tmp_path)


def test_a_missing_package_is_named_with_its_extra(
    lenet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: name != "onnx" or None)
    assert main(["export", str(lenet), "--to", "onnx"]) == 2
    assert "the format onnx needs onnx, which is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--to", "onx"], "format 'onx' does not exist; the nearest is 'onnx'"),
        (["{run}", "--to", "csv", "--model", "no.py:net"], "there is no file no.py"),
        (
            ["{run}", "--to", "csv", "--model", "digits_cnn"],
            "the policy belongs to 'LeNet5' with 6 ch",
        ),
        (["{run}/..", "--to", "csv"], "give the folder of a run that has finished, such as {run}"),
    ],
)
def test_bad_arguments_get_one_sentence(
    lenet: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (lenet.parent / "run").resolve()
    assert main(["export", *(argument.format(run=run) for argument in arguments)]) == 2
    err = capsys.readouterr().err
    assert message.format(run=f"{run}/../run" if ".." in arguments[0] else run) in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (lenet / "export").exists()


def test_the_files_of_another_run_are_not_replaced(
    runs: Path, lenet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = runs / "digits_cnn" / "policy.json"
    before = other.read_bytes()
    arguments = ["export", str(lenet), "--to", "safetensors", "--out", str(other.parent)]
    assert main(arguments) == 2
    assert "holds policy.json of another run; give another folder as --out" in (
        capsys.readouterr().err
    )
    assert other.read_bytes() == before


@pytest.mark.parametrize("name", ["policy.json", "pruned.safetensors"])
def test_damaged_files_are_refused(
    name: str, lenet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((lenet / name).read_bytes())
    (lenet / name).write_bytes(content[: len(content) // 2])
    assert main(["export", str(lenet)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert name in err
    with pytest.raises(ValueError, match=name):
        amc_env.load(lenet)


def test_all_formats_that_any_network_has_are_written_by_default(
    exported: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert ",".join(name for name in FORMATS if name != "yolo") in capsys.readouterr().out
    assert json.loads((exported[1] / "policy.json").read_text())["source"]["name"] == "lenet5"
