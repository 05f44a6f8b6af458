"""The answer of a search: which channels of which layers stay, as a file checked when read."""

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from amc_env.files import write_text
from amc_env.structure import ChannelGraph


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupChoice(_Record):
    """What was decided for one group.

    Attributes:
        name: The group's name.
        layers: Layers that make its channels.
        channels: How many there were.
        kept: Indices of those that stay, ascending.
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


class Policy(_Record):
    """A pruned architecture, and what is needed to make it again from the original network.

    Attributes:
        format: Version of the file.
        model: The network's name, or its class.
        criterion: What ranked the channels.
        groups: One choice for each group.
        inputs: Shapes of an example input, by which the network's structure is found again.
        ignore: Modules whose channels were not to be touched.
        round_to: Multiples that numbers of channels were rounded to.
        budget: Ratio asked for, by limit; empty without a budget.
        reached: Ratio of the original's ``flops`` and ``params`` that is left.
        seed: Of the search.
        versions: Of the libraries.
    """

    format: Literal[1] = 1
    model: str
    criterion: str
    groups: tuple[GroupChoice, ...]
    inputs: tuple[tuple[int, ...], ...]
    ignore: tuple[str, ...] = ()
    round_to: int = 1
    budget: dict[str, float] = Field(default_factory=dict)
    reached: dict[str, float] = Field(default_factory=dict)
    seed: int = 0
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def kept(self) -> dict[str, Tensor]:
        """Channel indices that stay, by group."""
        return {group.name: torch.tensor(group.kept) for group in self.groups}

    @property
    def counts(self) -> dict[str, int]:
        """How many channels stay, by group."""
        return {group.name: len(group.kept) for group in self.groups}

    def apply(self, model: nn.Module) -> nn.Module:
        """The compact network: a copy of ``model`` with only the channels kept, unrepaired.

        Raises:
            ValueError: The policy is of another network.
        """
        parameter = next(model.parameters(), torch.zeros(()))
        inputs = tuple(
            torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
            for shape in self.inputs
        )
        graph = ChannelGraph(model, inputs, ignore=self.ignore, round_to=self.round_to)
        known = {group.name: group.channels for group in graph.groups}
        for choice in self.groups:
            if known.get(choice.name) != choice.channels:
                raise ValueError(
                    f"the policy is of {self.model!r} with {choice.channels} channels in group "
                    f"{choice.name!r}; this network has "
                    f"{known.get(choice.name, 'no such group')}"
                )
        return graph.compact(self.kept)

    def save(self, path: str | Path) -> None:
        """Write the policy as JSON, whole or not at all."""
        write_text(Path(path), self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Policy":
        """Read a policy.

        Raises:
            ValueError: The file is none; the message names the field.
        """
        text = Path(path).read_text(encoding="utf-8")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ValueError(f"{path} is no policy: {where}: {first['msg']}") from error


def make_policy(
    graph: ChannelGraph,
    kept: Mapping[str, Tensor],
    *,
    criterion: str,
    budget: Mapping[str, float],
    seed: int,
) -> Policy:
    """The policy of a network whose groups keep some channels."""
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
        ignore=graph.ignore,
        round_to=graph.round_to,
        budget=dict(budget),
        reached={"flops": cost.flops / full.flops, "params": cost.params / full.params},
        seed=seed,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {"torch": str(torch.__version__)}
    # A checkout that is not installed has no version.
    with suppress(PackageNotFoundError):
        found["amc-env"] = version("amc-env")
    return found
