"""Accuracies on the test data, on all of it and on original images."""

from dataclasses import replace

import pytest
import torch

from amc_env.data.datasets import digits
from amc_env.models import build_model
from amc_env.pipeline.accuracies import Examiner
from amc_env.tasks import Classification


def test_marks_of_original_images_stand_beside_the_network_of_that_name() -> None:
    data = digits()
    marks = torch.arange(len(data.test)) % 3 == 0
    examiner = Examiner(replace(data, test_originals=marks), Classification())
    examined = examiner.examine(build_model("digits_cnn", seed=0).eval())
    columns = examiner.predictions({"original": examined})
    assert list(columns) == ["label", "is_original", "original"]
    label, is_original, predicted = map(torch.tensor, columns.values())
    is_right = (label == predicted).double()
    assert examined.whole == pytest.approx(float(is_right.mean()))
    assert examined.originals == pytest.approx(float(is_right[is_original == 1].mean()))
