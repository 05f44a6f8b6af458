"""Spatial disorder entropy, from every pair of pixels of a small image."""

from itertools import product
from typing import get_args

from torch import Tensor

from amc_env.information.aura import Base, Scope, quantize, relative_entropy
from amc_env.information.counts import entropy_of_symbols


def sde(
    image: Tensor, *, bins: int, scope: Scope = "map", h0: Base = "pair", normalize: bool = True
) -> float:
    r"""Spatial disorder entropy of one image (H, W).

    .. math:: H_{SDE} = \frac{1}{mn} \sum_{i=1}^m \sum_{j=1}^n \sum_{k=1}^m \sum_{l=1}^n
              H_R(i - k, j - l)

    ``m`` and ``n`` are ``H`` and ``W``, ``H_R`` is as in ``aura``, 0 at the offset (0, 0). Musat
    and Andonie, 2023, "Spatial Aura Entropy", equation 5, and "Entropy Minimization", equation 4.
    Chosen here: divided by the ``(mn)^2 - mn`` ordered pairs of different pixels, which puts it in
    [0, 1]; ``normalize=False`` divides by ``mn`` as printed. The cost grows with the square of the
    number of pixels.

    Raises:
        ValueError: ``image`` is not one finite image, or ``bins``, the scope or ``h0`` is wrong.
    """
    if image.dim() != 2:
        raise ValueError(f"the image has the shape {tuple(image.shape)}; give (height, width)")
    if h0 not in get_args(Base):
        raise ValueError(f"h0 {h0!r} does not exist; choose one of {', '.join(get_args(Base))}")
    symbols = quantize(image[None, None], bins=bins, scope=scope)
    height, width = image.shape
    pixels = None if h0 == "pair" else entropy_of_symbols(symbols.flatten(1), bins=bins)
    total = 0.0
    # The tables of (-k, -l) and (k, l) are transposes: half the offsets count twice.
    for down, right in product(range(height), range(1 - width, width)):
        if down > 0 or right > 0:
            relative = relative_entropy(symbols, offset=(down, right), bins=bins, base=pixels)
            value = float(relative if h0 == "global-raw" else relative.clamp(0.0, 1.0))
            total += 2 * value * (height - down) * (width - abs(right))
    count = height * width
    divisor = count * count - count if normalize else count
    return total / divisor if divisor else 0.0
