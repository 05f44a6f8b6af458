import pytest
import torch

from amc_env.models.lenet import LeNet5


def test_it_reads_32x32_images_without_padding_by_the_same_weights() -> None:
    # a 28x28 image with a border of 2 zeros is a 32x32 image
    small, large = LeNet5().eval(), LeNet5(image_size=32).eval()
    large.load_state_dict(small.state_dict())
    image = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    bordered = torch.zeros(1, 1, 32, 32)
    bordered[:, :, 2:-2, 2:-2] = image
    assert torch.allclose(large(bordered), small(image), atol=1e-6)


def test_an_image_size_other_than_28_or_32_is_refused() -> None:
    with pytest.raises(ValueError, match="28 or 32, not 30"):
        LeNet5(image_size=30)
