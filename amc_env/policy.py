"""The result of a search as files: which channels stay, and the weights of the pruned network."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from amc_env.batches import Batch
from amc_env.checksums import checksum
from amc_env.files import atomic, write_text
from amc_env.models import copy_weights_
from amc_env.structure import ChannelGraph

POLICY_FILE = "policy.json"
WEIGHTS_FILE = "pruned.safetensors"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupChoice(_Record):
    """Which channels of one group stay.

    Attributes:
        name: The group's name.
        layers: Layers whose outputs are the group's channels.
        channels: Number of channels in the original network.
        kept: Indices of the channels that stay, ascending.
        sparsity: 1 - kept / channels.
    """

    name: str
    layers: tuple[str, ...]
    channels: int = Field(ge=1)
    kept: tuple[int, ...] = Field(min_length=1)
    sparsity: float = Field(ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _kept_are_channels(self) -> "GroupChoice":
        if (
            list(self.kept) != sorted(set(self.kept))
            or not 0 <= self.kept[0] <= self.kept[-1] < self.channels
        ):
            raise ValueError(
                f"group {self.name!r} keeps {list(self.kept)}; give ascending indices from 0 to "
                f"{self.channels - 1}"
            )
        return self


class ModelSource(_Record):
    """What builds the original network: a name or a path for ``find_model``, and the options."""

    name: str
    options: dict[str, JsonValue] = Field(default_factory=dict)


class Policy(_Record):
    """A pruned architecture, with all that is needed to build it from the original network.

    Attributes:
        format: Version of the file's format.
        model: Class of the network.
        criterion: Name of the criterion that ranked the channels.
        groups: One choice for each group.
        inputs: Shapes of an example input, from which the network's structure is analysed again.
        arguments: How the network is called with these inputs, each by its number, where it is not
            called with one after the other: arguments by name, or in nested lists and mappings.
        input_types: The types of the inputs, where some are whole numbers.
        ignore: Modules whose output channels were excluded from pruning.
        round_to: Numbers of channels were rounded to multiples of this.
        budget: The ratio that each limit allowed; empty without a budget.
        reached: Ratio of the original network's ``flops`` and ``params`` that is left.
        seed: Seed of the search.
        versions: Versions of the libraries.
        source: What builds the original network, where that is known.
        accuracy: Share of samples that the pruned network classifies correctly, or the metric of
            another task, where it was measured.
        metric: Name of that metric where it is not the accuracy.
        measured_on: The samples of that accuracy.
    """

    format: Literal[1] = 1
    model: str
    criterion: str
    groups: tuple[GroupChoice, ...]
    inputs: tuple[tuple[int, ...], ...]
    arguments: JsonValue = None
    input_types: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    round_to: int = 1
    budget: dict[str, float] = Field(default_factory=dict)
    reached: dict[str, float] = Field(default_factory=dict)
    seed: int = 0
    versions: dict[str, str] = Field(default_factory=dict)
    source: ModelSource | None = None
    accuracy: float | None = Field(default=None, allow_inf_nan=False)
    metric: str | None = None
    measured_on: str | None = None

    @model_validator(mode="after")
    def _accuracy_is_a_share(self) -> "Policy":
        _check_accuracy(self.accuracy, self.metric)
        return self

    @property
    def kept(self) -> dict[str, Tensor]:
        """Indices of the channels that stay, by group."""
        return {group.name: torch.tensor(group.kept) for group in self.groups}

    @property
    def counts(self) -> dict[str, int]:
        """Number of channels that stay, by group."""
        return {group.name: len(group.kept) for group in self.groups}

    @property
    def checksum(self) -> str:
        """SHA-256 of the policy's content, however its file is laid out."""
        content = json.dumps(self._content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def graph(self, model: nn.Module) -> ChannelGraph:
        """The structure of the original network, analysed as it was when the policy was made.

        Raises:
            ValueError: The policy belongs to another network.
        """
        graph = ChannelGraph(
            model, self._example(model), ignore=self.ignore, round_to=self.round_to
        )
        known = {group.name: group.channels for group in graph.groups}
        for choice in self.groups:
            if known.get(choice.name) != choice.channels:
                raise ValueError(
                    f"the policy belongs to {self.model!r} with {choice.channels} channels in "
                    f"group {choice.name!r}; this network has "
                    f"{known.get(choice.name, 'no such group')}"
                )
        return graph

    def _example(self, model: nn.Module) -> Batch:
        """Inputs of zeros, as the network is called with them."""
        parameter = next(model.parameters(), torch.zeros(()))
        own = [parameter.dtype] * len(self.inputs)
        types = [getattr(torch, name) for name in self.input_types] if self.input_types else own
        inputs = [
            torch.zeros(shape, device=parameter.device, dtype=dtype)
            for shape, dtype in zip(self.inputs, types, strict=True)
        ]
        return tuple(inputs) if self.arguments is None else _filled(self.arguments, inputs)

    def apply(self, model: nn.Module) -> nn.Module:
        """The compact architecture with weights that were only cut: nothing in them is repaired.

        They are the slices of the original's weights, and far less accurate than those that a run
        leaves. Repair them with ``amc_env.repair``, or train them. ``amc_env.load`` gives the
        network with the repaired or fine-tuned weights of a run.

        Raises:
            ValueError: The policy belongs to another network.
        """
        return self.graph(model).compact(self.kept)

    def save(self, path: str | Path) -> None:
        """Write the policy as JSON, atomically."""
        write_text(Path(path), _readable(self._content()) + "\n")

    def _content(self) -> dict[str, Any]:
        # A field that says nothing is left out, so that files from before there was such a field
        # keep their checksum.
        content = self.model_dump(mode="json")
        return {name: value for name, value in content.items() if value is not None}

    @classmethod
    def load(cls, path: str | Path) -> "Policy":
        """Read a policy.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file does not hold a policy; the message names the wrong field.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ValueError(f"{path} is not a policy: {where}: {first['msg']}") from error


class PrunedFacts(_Record):
    """What ``pruned.safetensors`` says about its network beside the weights.

    Attributes:
        macs: Multiply-accumulates for one sample.
        accuracy: Share of samples that the network classifies correctly, or the metric of another
            task; None if not measured.
        metric: Name of that metric where it is not the accuracy.
        measured_on: The samples of that accuracy: the validation split or the test data.
    """

    macs: int = Field(ge=0)
    accuracy: float | None = Field(default=None, allow_inf_nan=False)
    metric: str | None = None
    measured_on: str | None = None

    @model_validator(mode="after")
    def _accuracy_is_a_share(self) -> "PrunedFacts":
        _check_accuracy(self.accuracy, self.metric)
        return self


def make_policy(
    graph: ChannelGraph,
    kept: Mapping[str, Tensor],
    *,
    criterion: str,
    budget: Mapping[str, float],
    seed: int,
) -> Policy:
    """The policy that keeps the channels ``kept``, given as indices for each group."""
    cost, full = graph.cost({name: len(k) for name, k in kept.items()}), graph.cost()
    choices = tuple(
        GroupChoice(
            name=group.name,
            layers=tuple(dict.fromkeys(p.module for p in group.producers)),
            channels=group.channels,
            kept=tuple(kept[group.name].tolist()),
            sparsity=1.0 - len(kept[group.name]) / group.channels,
        )
        for group in graph.groups
    )
    return Policy(
        model=type(graph.model).__name__,
        criterion=criterion,
        groups=choices,
        inputs=tuple(tuple(x.shape) for x in graph.inputs),
        arguments=_numbered(graph.example),
        input_types=_types(graph.inputs),
        ignore=graph.ignore,
        round_to=graph.round_to,
        budget=dict(budget),
        reached={"flops": cost.flops / full.flops, "params": cost.params / full.params},
        seed=seed,
        versions=_versions(),
    )


def _numbered(example: Batch) -> JsonValue:
    """The example with the number of each tensor in its place; None for one after the other."""
    numbers = count()

    def number(part: Batch) -> JsonValue:
        if isinstance(part, Tensor):
            return next(numbers)
        if isinstance(part, Mapping):
            return {name: number(inner) for name, inner in part.items()}
        return [number(inner) for inner in part]

    is_named = isinstance(example, Mapping)
    if not is_named and all(isinstance(part, Tensor) for part in example):
        return None
    return number(example)


def _filled(arguments: JsonValue, inputs: Sequence[Tensor]) -> Batch:
    """The example again: each number replaced by its tensor."""
    if isinstance(arguments, dict):
        return {name: _filled(inner, inputs) for name, inner in arguments.items()}
    if isinstance(arguments, list):
        return tuple(_filled(inner, inputs) for inner in arguments)
    if not isinstance(arguments, int) or not 0 <= arguments < len(inputs):
        raise ValueError(
            f"the policy's arguments name input {arguments!r}; give numbers from 0 to "
            f"{len(inputs) - 1}"
        )
    return inputs[arguments]


def _types(inputs: Sequence[Tensor]) -> tuple[str, ...] | None:
    """The types of inputs; None where all are real numbers, which then have that of the weights."""
    if all(x.is_floating_point() for x in inputs):
        return None
    return tuple(str(x.dtype).removeprefix("torch.") for x in inputs)


def save_pruned(folder: str | Path, policy: Policy, compact: nn.Module, facts: PrunedFacts) -> None:
    """Write ``policy.json`` and ``pruned.safetensors``, which :func:`load_pruned` reads.

    Each file is written atomically. The metadata of the weights holds the class of the original
    network, ``facts``, the policy's checksum, and a checksum of all this and the tensors.
    """
    folder = Path(folder)
    policy.save(folder / POLICY_FILE)
    with atomic(folder / WEIGHTS_FILE) as temporary:
        # ``save_model`` decides which of several names for one tensor is stored, so the checksum
        # is taken of what it wrote.
        with torch.no_grad():
            save_model(compact, str(temporary))
        stored = load_file(temporary)
        metadata = {
            "format": "pt",
            "model": policy.model,
            "policy_sha256": policy.checksum,
            **{k: str(value) for k, value in facts.model_dump(exclude_none=True).items()},
        }
        metadata["content_sha256"] = checksum(metadata, stored)
        save_file(stored, temporary, metadata=metadata)


def load_pruned(model: nn.Module, folder: str | Path) -> nn.Module:
    """The pruned network of a run's folder, with its weights, in evaluation mode.

    Args:
        model: The original network, on the device that the result is to be on. Its weights do
            not matter, and it is not modified.
        folder: Where ``policy.json`` and ``pruned.safetensors`` are.

    Raises:
        FileNotFoundError: One of the two files is missing.
        ValueError: A file is damaged or was changed, the two do not belong together, or the
            policy belongs to another network.
    """
    return with_weights(checked_policy(folder).apply(model), folder)


def checked_policy(folder: str | Path) -> Policy:
    """The policy of a run's folder, after its two files were found whole and made for each other.

    Raises:
        FileNotFoundError: One of the two files is missing.
        ValueError: A file is damaged or was changed, or the two do not belong together.
    """
    folder = Path(folder)
    for name in (POLICY_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"there is no {name} in {folder}; give the folder of a run that has finished"
                f"{_inner_folder(folder)}"
            )
    policy = Policy.load(folder / POLICY_FILE)
    _check_weights(folder / WEIGHTS_FILE, policy)
    return policy


def with_weights(compact: nn.Module, folder: str | Path) -> nn.Module:
    """The compact network itself, with the weights of a folder, in evaluation mode.

    Raises:
        ValueError: The weights have other names or shapes.
    """
    path = Path(folder) / WEIGHTS_FILE
    weights = load_file(path)
    try:
        if missing := _missing(compact.state_dict(), weights):
            raise RuntimeError(f"{', '.join(missing)} are missing")
        copy_weights_(compact, weights)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {path} do not fit {type(compact).__name__} pruned by {POLICY_FILE}; "
            "build the original network as it was when it was pruned"
        ) from error
    return compact.eval()


def _missing(state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """The names that no weights are given for; of tensors that share memory, one name is enough."""

    def place(name: str) -> int:
        return state[name].untyped_storage().data_ptr()

    given = {place(name) for name in weights if name in state}
    return [name for name in state if name not in weights and place(name) not in given]


def _check_accuracy(value: float | None, metric: str | None) -> None:
    if value is not None and metric is None and not 0.0 <= value <= 1.0:
        raise ValueError(
            f"accuracy is {value}; give a share from 0 to 1, or the name of another metric"
        )


def _inner_folder(folder: Path) -> str:
    """Where to look instead, if the folder holds one for each of several budgets."""
    inner = sorted(path.parent for path in folder.glob(f"*/{POLICY_FILE}"))
    return f", such as {inner[0]}" if inner else ""


def _check_weights(path: Path, policy: Policy) -> None:
    """Refuse weights that are damaged or were made for another policy."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        stored = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged and cannot be read ({error}); copy it again, or repeat the run"
        ) from error
    if not {"policy_sha256", "content_sha256"} <= metadata.keys():
        raise ValueError(
            f"{path} holds no checksums, so it was not written by save_pruned; load such weights "
            "with safetensors.torch.load_model"
        )
    if checksum(metadata, stored) != metadata["content_sha256"]:
        raise ValueError(
            f"{path} is damaged: its content differs from its checksum; copy it again, or repeat "
            "the run"
        )
    if policy.checksum != metadata["policy_sha256"]:
        raise ValueError(
            f"{path} was not made for the {POLICY_FILE} beside it, or that policy was changed "
            "afterwards; take both files from the same run"
        )


def _readable(value: Any, indent: str = "") -> str:
    """JSON with all that holds nothing nested, such as the kept channels, on one line."""
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list) or not any(isinstance(x, dict | list) for x in items):
        return json.dumps(value, ensure_ascii=False)
    inner = f"{indent}  "
    if isinstance(value, dict):
        lines = [f"{json.dumps(name)}: {_readable(x, inner)}" for name, x in value.items()]
    else:
        lines = [_readable(x, inner) for x in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    body = ",\n".join(f"{inner}{line}" for line in lines)
    return f"{first}\n{body}\n{indent}{last}"


def _versions() -> dict[str, str]:
    found = {"torch": str(torch.__version__)}
    # A checkout that is not installed has no version.
    with suppress(PackageNotFoundError):
        found["amc-env"] = version("amc-env")
    return found
