"""What is computed once about a network, before its first policy, as tensors that can be kept.

These are the scores of all channels and the factored problems of all layers. They depend on the
network, the calibration samples and a few settings, and a key is made of all of these.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from amc_env.batches import call, tensors_in
from amc_env.calibration.hooks import evaluating
from amc_env.checksums import checksum, weights_of
from amc_env.data import Source
from amc_env.devices import solving_device
from amc_env.repair.layer_plan import parted
from amc_env.repair.least_squares import Factors, NormalEquations, Problem
from amc_env.structure import ChannelGraph
from amc_env.tensor_store import Tensors, TensorStore

_SCORES = "scores"
_SECONDS = "ranking_seconds"
# Samples whose outputs tell networks apart that have the same weights and other code.
_FEW = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Preparation:
    """What is computed once.

    Attributes:
        scores: The criterion's score of every channel, by group.
        ranking_seconds: How long the criterion took for all groups together.
        problems: The problems of each part of a layer, factored where they are, by layer.
    """

    scores: dict[str, Tensor]
    ranking_seconds: float
    problems: Mapping[str, Sequence[Problem]]

    def keep(self, store: TensorStore, key: str) -> None:
        """Keep it in a store."""
        seconds = torch.tensor(self.ranking_seconds, dtype=torch.float64)
        first_part = {f"{_SCORES}.{name}": x for name, x in self.scores.items()}
        first_part[_SECONDS] = seconds
        parts: dict[str, Callable[[], Tensors]] = {
            _SCORES: lambda: first_part,
            **{
                f"layer {name}": partial(_layer_tensors, problems)
                for name, problems in self.problems.items()
            },
        }
        every = [p for problems in self.problems.values() for p in problems]
        store.write(key, parts, size=sum(map(_bytes, every)))

    @classmethod
    def read(cls, store: TensorStore, key: str, graph: ChannelGraph) -> "Preparation | None":
        """What a store keeps by a key, if it does."""
        parts = store.read(key)
        if parts is None:
            return None
        scores = parts.pop(_SCORES)
        modules = dict(graph.model.named_modules())
        problems = {}
        for name in [*parts]:
            layer = name.removeprefix("layer ")
            # Taken out one after the other: what is packed is not to be held beside all factors.
            problems[layer] = _problems(parts.pop(name), modules[layer])
        return cls(
            scores={group.name: scores[f"{_SCORES}.{group.name}"] for group in graph.groups},
            ranking_seconds=float(scores[_SECONDS]),
            problems=problems,
        )


def is_known(part: object) -> bool:
    """Whether all that a criterion or task depends on can be told.

    A dataclass has it in its fields, if these are plain values; of a tensor only some numbers show.
    """
    if not is_dataclass(part) or isinstance(part, type):
        return False
    return _is_plain(asdict(part))


def preparation_key(
    graph: ChannelGraph, samples: Source, parts: Sequence[Any], settings: Mapping[str, object]
) -> str:
    """What a preparation depends on, as a checksum.

    Args:
        graph: The structure of the network.
        samples: The calibration samples.
        parts: What else is read, such as a criterion, for which ``is_known`` holds.
        settings: Settings of the calibration and the repair.
    """
    model = graph.model
    # Two networks of the same weights may still differ in their code, which their outputs tell.
    with evaluating(model):
        few = call(model, samples.first(_FEW))
    tensors = {
        **weights_of(model),
        **samples.content(),
        **{f"output {number}": x for number, x in enumerate(tensors_in(few))},
    }
    groups = [(g.name, g.channels, [m.module for m in g.consumers]) for g in graph.groups]
    facts = {
        "model": repr(model),
        "groups": repr(groups),
        "parts": repr([_facts(part) for part in parts]),
        "settings": repr(sorted(settings.items())),
        "machine": repr(_machine()),
    }
    return checksum(facts, tensors)


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _facts(part: Any) -> tuple[str, str, str]:
    """The class of a dataclass, its code and its fields."""
    kind = type(part)
    try:
        code = inspect.getsource(kind)
    # There is none of a class that was typed into an interpreter.
    except (OSError, TypeError):
        code = ""
    return f"{kind.__module__}.{kind.__qualname__}", code, repr(asdict(part))


def _machine() -> tuple[object, ...]:
    """What decides how products are rounded."""
    try:
        own = version("amc-env")
    # A checkout that is not installed has no version.
    except PackageNotFoundError:
        own = ""
    capability = torch.backends.cpu.get_cpu_capability()
    return own, torch.__version__, capability, torch.get_num_threads()


def _layer_tensors(problems: Sequence[Problem]) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": x
        for number, problem in enumerate(problems)
        for name, x in _tensors(problem).items()
    }


def _tensors(problem: Problem) -> dict[str, Tensor]:
    """A problem without the weights, which the network has."""
    if isinstance(problem, NormalEquations):
        return {"gram": problem.gram, "cross": problem.cross, "target": problem.target}
    return {
        # Half of a factor is zeros.
        "factor": torch.cat([column[n:] for n, column in enumerate(problem.factor.mT)]),
        "solved": problem.solved.mT,
        "target": problem.target,
        "penalty": torch.tensor(problem.penalty, dtype=torch.float64),
        "order": problem.order,
    }


def _problems(tensors: Mapping[str, Tensor], layer: torch.nn.Module) -> list[Problem]:
    """The problems of each part of a layer, on the device where it is solved for."""
    by_part: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        by_part.setdefault(int(number), {})[name] = tensor
    device = solving_device(next(layer.parameters()).device)
    anchors = parted(layer, len(by_part), device=device)
    return [_problem(by_part[n], anchor.double()) for n, anchor in enumerate(anchors)]


def _problem(tensors: Mapping[str, Tensor], anchor: Tensor) -> Problem:
    there = {name: x if name == "order" else x.to(anchor.device) for name, x in tensors.items()}
    if "gram" in there:
        return NormalEquations(**there, anchor=anchor, is_own=True)
    columns = there["factor"].new_zeros(len(anchor), len(anchor))
    packed = there["factor"].split([*range(len(anchor), 0, -1)])
    for number, (column, values) in enumerate(zip(columns, packed, strict=True)):
        column[number:] = values
    # A factorisation leaves one column after the other in memory. Products of matrices that lie
    # otherwise in memory may be rounded otherwise, and nothing is to change by being kept.
    return Factors(
        factor=columns.mT,
        solved=there["solved"].mT,
        anchor=anchor[there["order"]],
        target=there["target"],
        penalty=float(there["penalty"]),
        is_own=True,
        order=there["order"],
    )


def _bytes(problem: Problem) -> int:
    columns, outputs = problem.anchor.shape
    matrix = columns * (columns + 1) // 2 if isinstance(problem, Factors) else columns**2
    return torch.float64.itemsize * (matrix + columns * outputs)
