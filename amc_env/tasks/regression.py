"""Regression: numbers for each sample."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from amc_env.batches import Batch
from amc_env.metric import Metric
from amc_env.tasks.task import Task, part_of, tensors_of


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """Each sample has numbers (samples, ...), and the network gives as many.

    Attributes:
        output: The key, field or index of the numbers in the network's output; None where the
            output holds no other tensor.
    """

    name = "regression"
    metric = Metric(name="R^2", is_share=False)
    output: str | int | None = None

    @override
    def tensors(self, output: object) -> Tensor:
        numbers = tensors_of(part_of(output, self.output))
        if not isinstance(numbers, Tensor):
            raise ValueError(
                f"the network gives {type(output).__name__} with several tensors; the task's "
                "option output must name one"
            )
        return numbers

    @override
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(outputs.reshape(labels.shape), labels.to(outputs.dtype))

    @override
    def evaluate(self, outputs: Tensor, labels: Tensor) -> float:
        return r_squared(outputs.reshape(labels.shape), labels)

    @override
    def check_labels(self, labels: Batch | None, *, samples: int) -> None:
        super().check_labels(labels, samples=samples)
        if not isinstance(labels, Tensor) or not labels.isfinite().all():
            raise ValueError(
                f"labels are a {type(labels).__name__}; give a tensor of finite numbers "
                "(samples, ...)"
            )

    @override
    def check(self, outputs: Tensor, labels: Tensor) -> None:
        if outputs[0].numel() != labels[0].numel():
            raise ValueError(
                f"the network gives {outputs[0].numel()} numbers for a sample, but the labels have "
                f"{labels[0].numel()}"
            )


def r_squared(predicted: Tensor, labels: Tensor) -> float:
    r"""The share of the labels' variance that predictions explain; 1 is best, and it has no least.

    .. math:: R^2 = 1 - \frac{\sum_n \|y_n - f_n\|^2}{\sum_n \|y_n - \bar y\|^2}

    ``y`` are the labels, ``f`` the predictions, and the mean is that of each number over the
    samples.

    Raises:
        ValueError: The labels do not vary.
    """
    wanted = labels.double()
    total = float((wanted - wanted.mean(0)).square().sum())
    if not total > 0:
        raise ValueError(
            f"the labels of the {len(labels)} samples do not vary, so there is no R^2; give "
            "different samples"
        )
    return 1.0 - float((wanted - predicted.double()).square().sum()) / total
