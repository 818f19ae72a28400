"""A model's weights as plain data: a small algebra, one canonical byte form, and the check that guards it.

Weights are a mapping from name to tensor. Functions here never change their arguments.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fedmed.errors import MessageRefused

type_names = {"F64": torch.float64, "F32": torch.float32, "I64": torch.int64, "I32": torch.int32}

Weights = Mapping[str, Tensor]

MOST_DIMENSIONS = 8


class Layout(NamedTuple):
    """What a tensor must look like: its safetensors type name and its shape."""

    dtype: str
    shape: tuple[int, ...]


def layout_of(weights: Weights) -> dict[str, Layout]:
    """Name → :class:`Layout` of every tensor, in name order."""
    names = {dtype: name for name, dtype in type_names.items()}
    return {name: Layout(names[weights[name].dtype], tuple(weights[name].shape)) for name in sorted(weights)}


def map_weights(function: Callable[..., Tensor], first: Weights, *others: Weights) -> dict[str, Tensor]:
    """Apply `function` tensor by tensor, in name order.

    Raises:
        ValueError: if the names differ.
    """
    for other in others:
        if other.keys() != first.keys():
            raise ValueError(f"weights with other names: {sorted(first.keys() ^ other.keys())} stand on one side only")
    return {name: function(first[name], *(other[name] for other in others)) for name in sorted(first)}


def add(a: Weights, b: Weights) -> dict[str, Tensor]:
    """A + b."""
    return map_weights(torch.add, a, b)


def subtract(a: Weights, b: Weights) -> dict[str, Tensor]:
    """A − b."""
    return map_weights(torch.sub, a, b)


def scale(a: Weights, factor: float) -> dict[str, Tensor]:
    """Factor · a."""
    return map_weights(lambda tensor: tensor * factor, a)


def squared_norm(a: Weights) -> Tensor:
    """Sum of squares over all tensors, a scalar tensor."""
    return torch.stack([tensor.double().square().sum() for _, tensor in sorted(a.items())]).sum()


def is_finite(a: Weights) -> bool:
    """Whether no tensor holds NaN or an infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in a.values() if tensor.is_floating_point())


def size(a: Weights) -> int:
    """Number of parameters over all tensors."""
    return sum(tensor.numel() for tensor in a.values())


def flatten(a: Weights) -> Tensor:
    """All tensors in name order as one vector of shape `(size,)`."""
    return torch.cat([a[name].reshape(-1) for name in sorted(a)])


def unflatten(vector: Tensor, like: Weights) -> dict[str, Tensor]:
    """The inverse of :func:`flatten` for weights shaped as `like`."""
    if vector.numel() != size(like):
        raise ValueError(f"expected a vector of {size(like)} values, got {vector.numel()}")
    pieces = torch.split(vector, [like[name].numel() for name in sorted(like)])
    return {name: piece.reshape(like[name].shape) for name, piece in zip(sorted(like), pieces, strict=True)}


def to_bytes(weights: Weights) -> bytes:
    """Safetensors bytes; the same weights give the same bytes.

    Guarantees:
        Deterministic: names are written in sorted order and tensors contiguous.
    """
    from safetensors.torch import save

    # Cloned: safetensors refuses tensors that share memory.
    return save({name: weights[name].detach().clone().contiguous() for name in sorted(weights)})


def from_bytes(data: bytes, expected: Mapping[str, Layout]) -> dict[str, Tensor]:
    """Read safetensors bytes after checking their header against what is expected.

    Args:
        data: bytes that another party sent.
        expected: the exact names, types and shapes.

    Raises:
        MessageRefused: if anything differs from `expected`, or a value is not finite.

    Guarantees:
        No tensor is read before names, types, shapes and the total size have been checked. Nothing is unpickled.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    header = _read_header(data)
    if header.keys() != expected.keys():
        raise MessageRefused(
            f"payload tensors: expected {sorted(expected)}, got {len(header)} names of which"
            f" {len(header.keys() & expected.keys())} are expected"
        )
    for name, layout in expected.items():
        entry = header[name]
        if entry != layout:
            raise MessageRefused(
                f"tensor {name!r}: expected {layout.dtype} {layout.shape}, got {entry.dtype} {entry.shape}"
            )
    try:
        weights = load(data)
    except SafetensorError:  # its reader is stricter than ours about the header's JSON
        raise MessageRefused("payload: expected a safetensors header in JSON, got something else") from None
    if not is_finite(weights):
        raise MessageRefused("payload tensors: expected finite numbers, got NaN or an infinity")
    return weights


def layouts_in(data: bytes) -> dict[str, Layout]:
    """What the header of safetensors bytes names: for bytes of one's own, of which no layout is agreed.

    Raises:
        MessageRefused: if the header is not one.
    """
    return _read_header(data)


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`: how payloads are named everywhere."""
    return hashlib.sha256(data).hexdigest()


def _read_header(data: bytes, largest_header: int = 1 << 20) -> dict[str, Layout]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(largest_header, len(data) - 8):
        raise MessageRefused(f"payload: expected safetensors, got {len(data)} bytes whose header claims {length}")
    try:
        raw = json.loads(data[8 : 8 + length])
        entries = {
            str(name): (
                Layout(str(e["dtype"]), tuple(map(int, e["shape"]))),
                [int(offset) for offset in e["data_offsets"]],
            )
            for name, e in raw.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise MessageRefused("payload: expected a safetensors header in JSON, got something else") from None
    end = 0
    for name, (layout, offsets) in sorted(entries.items(), key=lambda item: item[1][1]):
        if layout.dtype not in type_names:
            raise MessageRefused(f"tensor {name[:80]!r}: type {layout.dtype[:10]!r} is none of {sorted(type_names)}")
        if len(layout.shape) > MOST_DIMENSIONS or any(side < 0 for side in layout.shape):
            raise MessageRefused(
                f"tensor {name[:80]!r}: expected a shape of at most {MOST_DIMENSIONS} sides, none negative"
            )
        width = torch.empty((), dtype=type_names[layout.dtype]).element_size()
        count = 1
        for side in layout.shape:
            count *= side
        if offsets != [end, end + count * width]:
            raise MessageRefused(f"tensor {name[:80]!r}: its place in the payload does not fit its shape")
        end += count * width
    if end != len(data) - 8 - length:
        raise MessageRefused(f"payload: expected {end} bytes of tensors, got {len(data) - 8 - length}")
    return {name: layout for name, (layout, _) in entries.items()}
