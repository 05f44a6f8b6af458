from collections.abc import Sequence
from importlib import import_module

import pytest
import torch
from torch.nn import functional

from amc_env.models import build_model
from amc_env.models.digits_cnn import DigitsCnn

# scikit-learn carries no types, and a plain import would be an error to mypy
datasets = import_module("sklearn.datasets")


def test_it_learns_the_digits_in_seconds() -> None:
    data = datasets.load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    model = build_model("digits_cnn", seed=0)
    for start in [*range(0, 1024, 32)] * 2:
        batch = slice(start, start + 32)
        loss = functional.cross_entropy(model(images[batch]), labels[batch])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), gradients, strict=True):
                weight.sub_(0.1 * gradient)
    model.eval()
    with torch.no_grad():
        predicted = model(images[1024:]).argmax(1)
    assert (predicted == labels[1024:]).float().mean() > 0.7


@pytest.mark.parametrize("widths", [(8, 8, 8), (8, 8, 8, 0)])
def test_widths_that_cannot_be_are_refused(widths: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="four numbers >= 1"):
        DigitsCnn(widths=widths)
