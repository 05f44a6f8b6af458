import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from amc_env.models import build_model, load_checkpoint_, read_checkpoint


def make_model(*, seed: int, num_classes: int = 10) -> nn.Module:
    return build_model("digits_cnn", seed=seed, num_classes=num_classes)


@pytest.fixture
def trained() -> nn.Module:
    return make_model(seed=1)


@pytest.fixture
def model() -> nn.Module:
    return make_model(seed=2)


def is_same(one: nn.Module, two: nn.Module) -> bool:
    values = two.state_dict()
    return all(torch.equal(value, values[name]) for name, value in one.state_dict().items())


def saved(content: object, folder: Path, name: str = "weights.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


class Named(nn.Module):
    """A module whose own names begin with a prefix that checkpoints often carry."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 3)


class TestLoading:
    @pytest.mark.parametrize("suffix", ["th", "pt", "pth"])
    def test_a_torch_file_gives_its_weights(
        self, tmp_path: Path, model: nn.Module, trained: nn.Module, suffix: str
    ) -> None:
        load_checkpoint_(model, saved(trained.state_dict(), tmp_path, f"weights.{suffix}"))
        assert is_same(model, trained)

    @pytest.mark.parametrize("suffix", ["pt", "safetensors"])
    def test_a_network_that_asks_for_the_version_of_its_modules_is_loaded(
        self, tmp_path: Path, suffix: str
    ) -> None:
        trained = torchvision.models.mnasnet0_5()
        save = torch.save if suffix == "pt" else save_file
        save(dict(trained.state_dict()), tmp_path / f"weights.{suffix}")
        model = torchvision.models.mnasnet0_5()
        assert not is_same(model, trained)
        load_checkpoint_(model, tmp_path / f"weights.{suffix}")
        assert is_same(model, trained)

    def test_a_safetensors_file_gives_its_weights(
        self, tmp_path: Path, model: nn.Module, trained: nn.Module
    ) -> None:
        save_file(prefixed(trained.state_dict(), "model."), tmp_path / "weights.safetensors")
        load_checkpoint_(model, tmp_path / "weights.safetensors")
        assert is_same(model, trained)

    def test_the_path_may_be_a_string(
        self, tmp_path: Path, model: nn.Module, trained: nn.Module
    ) -> None:
        load_checkpoint_(model, str(saved(trained.state_dict(), tmp_path)))
        assert is_same(model, trained)

    @pytest.mark.parametrize(
        "keys",
        [
            ["state_dict"],
            ["model"],
            ["model_state_dict"],
            ["net"],
            ["state_dict_ema"],
            ["model", "state_dict"],
        ],
    )
    def test_dictionaries_around_the_weights_are_opened(
        self, tmp_path: Path, model: nn.Module, trained: nn.Module, keys: list[str]
    ) -> None:
        content: Any = trained.state_dict()
        for key in reversed(keys):
            content = {"epoch": 3, key: content, "optimizer": {"state": {}}}
        load_checkpoint_(model, saved(content, tmp_path))
        assert is_same(model, trained)

    @pytest.mark.parametrize(
        "prefix", ["module.", "model.", "_orig_mod.", "backbone.", "module._orig_mod.model."]
    )
    def test_a_prefix_that_all_names_carry_is_taken_off(
        self, tmp_path: Path, model: nn.Module, trained: nn.Module, prefix: str
    ) -> None:
        load_checkpoint_(model, saved(prefixed(trained.state_dict(), prefix), tmp_path))
        assert is_same(model, trained)

    def test_a_prefix_that_is_the_models_own_stays(self, tmp_path: Path) -> None:
        one, two = Named(), Named()
        load_checkpoint_(two, saved(prefixed(one.state_dict(), "module."), tmp_path))
        assert is_same(one, two)

    def test_a_prefix_that_only_some_names_carry_stays(
        self, tmp_path: Path, model: nn.Module, trained: nn.Module
    ) -> None:
        weights = trained.state_dict()
        weights["module.classifier.bias"] = weights.pop("classifier.bias")
        with pytest.raises(ValueError, match=r"1 unknown to the model \(module.classifier.bias\)"):
            load_checkpoint_(model, saved(weights, tmp_path))

    def test_counts_of_batches_may_lack(
        self, tmp_path: Path, model: nn.Module, trained: nn.Module
    ) -> None:
        weights = {k: v for k, v in trained.state_dict().items() if "num_batches" not in k}
        load_checkpoint_(model, saved(weights, tmp_path))
        assert is_same(model, trained)

    def test_the_model_keeps_its_dtype(
        self, tmp_path: Path, model: nn.Module, trained: nn.Module
    ) -> None:
        load_checkpoint_(model, saved(trained.double().state_dict(), tmp_path))
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert is_same(model, trained.float())

    @pytest.mark.parametrize("depth", [20, 32, 44, 56])
    def test_published_weights_leave_no_parameter_as_it_was(self, shared: Path, depth: int) -> None:
        model = build_model(f"cifar_resnet{depth}", seed=0)
        path = shared / "models" / f"cifar10_resnet{depth}.th"
        load_checkpoint_(model, path)
        given = read_checkpoint(path)
        for name, value in model.state_dict().items():
            if "num_batches_tracked" not in name:
                assert torch.equal(value, given[f"module.{name}"])


class TestWeightsOfAnotherModel:
    def test_the_message_counts_and_names_every_kind_of_difference(
        self, tmp_path: Path, model: nn.Module
    ) -> None:
        weights = make_model(seed=1, num_classes=100).state_dict()
        for layer in ("0", "3"):
            weights[f"old.{layer}"] = weights.pop(f"features.{layer}.weight")
        path = saved(weights, tmp_path)
        with pytest.raises(ValueError, match="does not fit DigitsCnn") as refusal:
            load_checkpoint_(model, path)
        assert str(refusal.value) == (
            f"checkpoint {path} does not fit DigitsCnn: "
            "2 missing from the checkpoint (features.0.weight, features.3.weight); "
            "2 unknown to the model (old.0, old.3); "
            "2 of another form (classifier.weight is (100, 64) in the checkpoint and (10, 64) in "
            "the model, classifier.bias is (100,) in the checkpoint and (10,) in the model). "
            "Build the model as it was when the checkpoint was saved (same architecture, widths, "
            "num_classes and in_channels), or choose its own checkpoint"
        )

    def test_of_many_names_the_first_three_are_shown(
        self, tmp_path: Path, model: nn.Module
    ) -> None:
        path = saved(build_model("lenet5", seed=0).state_dict(), tmp_path)
        with pytest.raises(
            ValueError, match=r"10 unknown to the model \(conv1.weight, conv1.bias, \S+, \.\.\.\)"
        ):
            load_checkpoint_(model, path)

    def test_whole_numbers_for_real_ones_are_refused(
        self, tmp_path: Path, model: nn.Module, trained: nn.Module
    ) -> None:
        weights = trained.state_dict()
        weights["classifier.bias"] = weights["classifier.bias"].to(torch.int8)
        with pytest.raises(ValueError, match=r"classifier.bias is \(10,\) of int8 in the check"):
            load_checkpoint_(model, saved(weights, tmp_path))

    def test_values_that_are_not_finite_are_refused(
        self, tmp_path: Path, model: nn.Module, trained: nn.Module
    ) -> None:
        nn.init.constant_(trained.get_parameter("classifier.bias"), float("nan"))
        with pytest.raises(ValueError, match=r"NaN or infinite values in classifier.bias; choose"):
            load_checkpoint_(model, saved(trained.state_dict(), tmp_path))

    def test_nothing_is_copied_when_one_weight_does_not_fit(
        self, tmp_path: Path, model: nn.Module
    ) -> None:
        path = saved(make_model(seed=1, num_classes=7).state_dict(), tmp_path)
        with pytest.raises(ValueError, match="does not fit"):
            load_checkpoint_(model, path)
        assert is_same(model, make_model(seed=2))


class TestNoWeights:
    def test_a_path_with_nothing_there(self, tmp_path: Path, model: nn.Module) -> None:
        with pytest.raises(FileNotFoundError, match=r"gone.pt does not exist; check the path"):
            load_checkpoint_(model, tmp_path / "gone.pt")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="is a folder; give the path of a file in it"):
            read_checkpoint(tmp_path)

    def test_an_unknown_suffix(self, tmp_path: Path) -> None:
        (tmp_path / "weights.onnx").touch()
        with pytest.raises(ValueError, match=r"unknown suffix '.onnx'; known are .th, .pt, .pth,"):
            read_checkpoint(tmp_path / "weights.onnx")

    @pytest.mark.parametrize(
        "content", [b"", b"hello, I am no checkpoint", b"<html>404</html>", bytes(range(256))]
    )
    @pytest.mark.parametrize("suffix", ["pt", "safetensors"])
    def test_other_bytes(self, tmp_path: Path, content: bytes, suffix: str) -> None:
        path = tmp_path / f"weights.{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a .* or it is damaged .*; save or copy it"):
            read_checkpoint(path)

    def test_half_a_file(self, tmp_path: Path, trained: nn.Module) -> None:
        path = saved(trained.state_dict(), tmp_path)
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(ValueError, match="or it is damaged"):
            read_checkpoint(path)

    @pytest.mark.parametrize(
        ("content", "culprit"),
        [
            ({"args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
            (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ],
    )
    def test_an_object_that_could_run_code(
        self, tmp_path: Path, content: object, culprit: str
    ) -> None:
        with pytest.raises(ValueError, match=f"a Python object \\({culprit}\\) beside its tensors"):
            read_checkpoint(saved(content, tmp_path))

    def test_a_pickle_that_would_run_a_command(self, tmp_path: Path) -> None:
        ran = tmp_path / "ran"
        command = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
        path = tmp_path / "weights.pt"
        path.write_bytes(command)
        with pytest.raises(ValueError, match=r"a Python object \(os.system\)"):
            read_checkpoint(path)
        assert not ran.exists()

    def test_a_plain_pickle(self, tmp_path: Path) -> None:
        (tmp_path / "weights.pt").write_bytes(pickle.dumps({"a": 1}))
        with pytest.raises(ValueError, match=r"is not a checkpoint that torch.load can read"):
            read_checkpoint(tmp_path / "weights.pt")

    def test_a_torchscript_program(self, tmp_path: Path) -> None:
        # torch knows such an archive by its file constants.pkl
        with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
            for name in ("data.pkl", "constants.pkl", "version"):
                archive.writestr(f"weights/{name}", "3")
        with pytest.raises(ValueError, match="is a TorchScript program, not a checkpoint"):
            read_checkpoint(tmp_path / "weights.pt")

    def test_something_else_than_a_dictionary(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="holds a Tensor, not a dictionary of weights"):
            read_checkpoint(saved(torch.zeros(2), tmp_path))

    def test_a_dictionary_under_an_unknown_name(self, tmp_path: Path) -> None:
        content = {"epoch": 1, "weights": {"a": torch.zeros(2)}}
        with pytest.raises(ValueError, match=r"entries that are no tensors \(epoch, weights\)"):
            read_checkpoint(saved(content, tmp_path))

    def test_an_empty_dictionary(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has no entries where weights should be"):
            read_checkpoint(saved({"state_dict": {}}, tmp_path))

    def test_a_dictionary_inside_itself(self, tmp_path: Path) -> None:
        content: dict[str, Any] = {}
        content["model"] = content
        with pytest.raises(ValueError, match=r"entries that are no tensors \(model\)"):
            read_checkpoint(saved(content, tmp_path))
