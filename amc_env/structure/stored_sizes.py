"""Numbers of channels that a module keeps as plain attributes and splits, slices or views by.

A forward such as ``torch.split(x, self.width, 1)`` or ``x[:, : self.width]`` goes on working in a
cut network if ``self.width`` is cut with the channels that it counts. Whether it does is proved by
the cuts, as everything else; here only candidates are found.
"""

from typing import Self

from torch import Tensor, nn

from amc_env.structure.channel_ids import narrow_repeats
from amc_env.structure.tracer import Call, Tracer


class StoredSize(int):
    """A number that knows which module keeps it; what is computed from it is a plain number."""

    # By value alone, a width could not be told from a number of heads that happens to equal it.
    module: str
    attribute: str
    index: int | None

    @classmethod
    def of(cls, number: int, module: str, attribute: str, index: int | None = None) -> Self:
        """The number, marked with the place where it is kept."""
        marked = cls(number)
        marked.module, marked.attribute, marked.index = module, attribute, index
        return marked


def mark_stored_sizes_(model: nn.Module) -> None:
    """Mark every whole number that a module of the model keeps, by itself or in a list or tuple."""
    for name, module in model.named_modules():
        own = vars(module)
        for attribute, value in own.items():
            # Exactly these types: a bool is an int as well, and a named tuple has its own fields.
            if type(value) is int:
                own[attribute] = StoredSize.of(value, name, attribute)
            elif type(value) in (list, tuple) and all(type(item) is int for item in value):
                own[attribute] = type(value)(
                    StoredSize.of(item, name, attribute, index) for index, item in enumerate(value)
                )


def store_split_sizes(trace: Tracer, call: Call) -> bool:
    """Note the kept sizes that a split is made by, and say whether each part has its own."""
    keywords = ("split_size_or_sections", "split_size", "split_sizes")
    given = next((call.kwargs[name] for name in keywords if name in call.kwargs), None)
    sizes, dim = call.arg(1, "", given), call.arg(2, "dim", 0)
    sizes = [sizes] if isinstance(sizes, int) else sizes
    for size, part in zip(sizes, call.outputs, strict=False):
        _store(trace, size, trace.ids(part), dim)
    places = {(s.module, s.attribute, s.index) for s in sizes if isinstance(s, StoredSize)}
    return len(places) == len(call.outputs)


def store_slice_bounds(trace: Tracer, call: Call) -> None:
    """Note the kept bounds of an index along channels."""
    index = call.arg(1, "index")
    ids = trace.ids(call.subject)
    for dim, part in enumerate(index if isinstance(index, tuple) else (index,)):
        # Behind an ellipsis, a mask or a new axis, places in the index are no dimensions.
        if not isinstance(part, (slice, int)):
            return
        for bound in (part.start, part.stop) if isinstance(part, slice) else ():
            _store_beginning(trace, bound, ids, dim)


def store_narrow_bounds(trace: Tracer, call: Call) -> None:
    """Note the kept start and length of ``x.narrow(dim, start, length)`` along channels."""
    dim = call.arg(1, "dim")
    _store_beginning(trace, call.arg(2, "start"), trace.ids(call.subject), dim)
    _store(trace, call.arg(3, "length"), trace.ids(call.out), dim)


def store_count(trace: Tracer, size: object, channels: Tensor) -> None:
    """Note a kept number that counts these channels, as the groups of a depthwise convolution."""
    _store(trace, size, channels, 0)


def store_shape(trace: Tracer, call: Call) -> None:
    """Note the kept sizes of a view's or reshape's result."""
    shape = call.args[1:] or call.kwargs.get("shape", call.kwargs.get("size", ()))
    if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
        (shape,) = shape
    # A flatten has dimensions for arguments; only a full shape has a place for every dimension.
    if len(shape) == call.out.dim():
        for dim, size in enumerate(shape):
            _store(trace, size, trace.ids(call.out), dim)


def _store_beginning(trace: Tracer, bound: object, ids: Tensor, dim: int) -> None:
    if isinstance(bound, StoredSize) and 0 < bound <= ids.shape[dim]:
        _store(trace, bound, ids.narrow(dim, 0, bound), dim)


def _store(trace: Tracer, size: object, ids: Tensor, dim: int) -> None:
    channels = _channels(trace, ids, dim) if isinstance(size, StoredSize) else None
    if isinstance(size, StoredSize) and channels is not None and len(channels) == size:
        trace.ledger.attribute(size.module, size.attribute, channels, index=size.index)


def _channels(trace: Tracer, ids: Tensor, dim: int) -> Tensor | None:
    """One id for each place along ``dim``, None if channels lie along others."""
    (narrow,) = narrow_repeats(trace.ledger.canonical(ids))
    others = [d for d in range(narrow.dim()) if d != dim % narrow.dim()]
    if any(narrow.shape[d] > 1 for d in others):
        return None
    # Ids that are equal everywhere have been narrowed to one, which says nothing about ``dim``.
    return narrow.flatten() if narrow.shape[dim] == ids.shape[dim] else None
