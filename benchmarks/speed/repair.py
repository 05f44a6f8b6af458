"""Calibration, repair at a new ratio vector, and how both grow."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from sklearn.linear_model import LinearRegression, Ridge
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.calibration import Calibration, calibrate
from amc_env.calibration.hooks import evaluating
from amc_env.criteria.ranking import ranking
from amc_env.models import build_model
from amc_env.models.zoo import model_entry
from amc_env.repair.plan import Reconstruction, repaired_layers
from benchmarks.bench_memory import CASES, MIB, in_fresh_process
from benchmarks.bench_repair import Layer, sampled_rows
from benchmarks.speed.records import Case, Size, Way, medians
from benchmarks.vgg16_episode import forward_seconds

RIDGE = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A network with its calibration, factored, and channels that stay."""

    graph: ChannelGraph
    images: Tensor
    sums: Calibration
    plan: Reconstruction
    kept: dict[str, Tensor]

    @classmethod
    def of(cls, name: str, images: int, device: str) -> "Problem":
        """Half the channels of a network, the best by the L2 norm of their filters."""
        model = build_model(name, seed=0).eval()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(images, *model_entry(name).input_shape, generator=generator).to(device)
        graph = ChannelGraph(model.to(device), x[:2])
        sums = calibrate(model, x.split(50), layers=repaired_layers(graph))
        modules = dict(model.named_modules())
        orders = {
            g.name: ranking(modules[g.name].weight.flatten(1).norm(dim=1)) for g in graph.groups
        }
        plan = Reconstruction(graph, sums, orders, ridge=RIDGE)
        kept = plan.kept({g.name: g.round_count(g.channels / 2) for g in graph.groups})
        return cls(graph=graph, images=x, sums=sums, plan=plan, kept=kept)

    def layers(self) -> list[Layer]:
        """The plain layers that read one group, with what they read, on the CPU."""
        modules = dict(self.graph.model.named_modules())
        inputs = _inputs_of(self.graph.model, self.images)
        found = []
        for group in self.graph.groups:
            for member in group.consumers:
                module = modules[member.module]
                # Behind a flatten a channel is several columns, which are gathered otherwise.
                if member.layer and member.layer.groups == 1 and member.positions.shape[1] == 1:
                    x = inputs[member.module].cpu()
                    outputs = self.kept.get(member.module, torch.arange(len(module.weight)))
                    found.append(
                        Layer(
                            name=member.module,
                            module=copy.deepcopy(module).cpu(),
                            images=x,
                            held_out=x[:0],
                            inputs=self.kept[group.name],
                            outputs=outputs,
                        )
                    )
        return found


@torch.no_grad()
def _inputs_of(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    hooks = [
        layer.register_forward_pre_hook(partial(_note_, found, name))
        for name, layer in layers.items()
    ]
    with evaluating(model):
        model(images)
    for hook in hooks:
        hook.remove()
    return found


def _note_(found: dict[str, Tensor], name: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
    found.setdefault(name, given[0])


def _fit(rows: Sequence[tuple[Any, Any]], model: Any) -> None:
    for x, y in rows:
        model.fit(x, y)


def _anew(problem: Problem, layers: list[Layer]) -> None:
    """The same systems as the plan's, each factored from its sums at these channels."""
    for layer in layers:
        gram = problem.sums.grams[layer.name][0]
        weight = layer.module.weight[layer.outputs].flatten(1).to(gram)
        each = weight.shape[1] // layer.module.weight.shape[1]
        columns = (layer.inputs[:, None] * each + torch.arange(each)).flatten().to(gram.device)
        mine = gram[columns]
        shift = RIDGE * gram.diagonal().mean()
        left = mine[:, columns] + shift * torch.eye(len(columns), dtype=gram.dtype).to(gram)
        right = mine @ weight.mT + shift * weight[:, columns].mT
        torch.cholesky_solve(right, torch.linalg.cholesky(left))


def _planned(layers: Sequence[Callable[[Mapping[str, Tensor]], Tensor]], problem: Problem) -> None:
    for weights in layers:
        weights(problem.kept)


@torch.no_grad()
def repair(size: Size) -> Iterator[Case]:
    """All layers at one new ratio vector: from the plan, by Cholesky anew, and by scikit-learn."""
    for name in size.of(("cifar_vgg16", "cifar_resnet56"), ("digits_cnn",)):
        problem = Problem.of(name, 50 if size.short else 300, size.device)
        layers = problem.layers()
        sampled = [sampled_rows(layer, 0) for layer in layers]
        rows = [(x.numpy(), y.numpy()) for x, y in sampled]
        solve = [problem.plan._layers[layer.name].weights for layer in layers]

        ways: dict[str, Way] = {
            "plan s": partial(_planned, solve, problem),
            "Cholesky anew s": partial(_anew, problem, layers),
            "Ridge s": partial(_fit, rows, Ridge(fit_intercept=False)),
            "LinearRegression s": partial(_fit, rows, LinearRegression(fit_intercept=False)),
        }
        with threadpool_limits(torch.get_num_threads()):
            taken = medians(ways, size)
        for way in list(ways)[1:]:
            taken[f"{way.removesuffix(' s')} / plan"] = taken[way] / taken["plan s"]
        yield Case(name=f"{name}, {len(layers)} layers", values=taken)


def calibration(size: Size) -> Iterator[Case]:
    """Images a second, beside a plain forward pass, and the peak of memory over what was before."""
    for name in size.of(("cifar_vgg16", "cifar_resnet56"), ("digits_cnn",)):
        problem = Problem.of(name, 50, size.device)
        layers = repaired_layers(problem.graph)
        model, x = problem.graph.model, problem.images

        ways: dict[str, Way] = {
            "calibration": partial(calibrate, model, [x], layers=layers),
            "forward": partial(forward_seconds, model, x),
        }
        taken = medians(ways, size)
        values = {f"{way}, images/s": len(x) / s for way, s in taken.items()}
        values["forward passes"] = taken["calibration"] / taken["forward"]
        yield Case(name=name, values=values)


def memory(_: Size) -> Iterator[Case]:
    """Each network in a fresh process."""
    yield from _peaks(("cifar_vgg16", "resnet50"))


def growth(_: Size) -> Iterator[Case]:
    """Depth, width and number of images, one at a time, each in a fresh process."""
    yield from _peaks(tuple(name for name in CASES if "," in name))


def _peaks(names: tuple[str, ...]) -> Iterator[Case]:
    for name in names:
        peak = in_fresh_process(name)
        yield Case(
            name=name,
            values={
                "images": CASES[name].images,
                "analysis s": peak.analysis_s,
                "calibration s": peak.calibration_s,
                "images/s": CASES[name].images / peak.calibration_s,
                "factoring s": peak.plan_s,
                "forward MiB": peak.forward_bytes / MIB,
                "Gram MiB": peak.grams_bytes / MIB,
                "peak MiB": max(peak.calibration_bytes, peak.plan_bytes) / MIB,
            },
        )
