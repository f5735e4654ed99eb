"""How are rows of column data picked, mixed and turned into maps? Field by field, for any dataclass of tensors.

Legend: N rows, R chosen rows, M half faces (the N left halves, then the N right halves).
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Columns = TypeVar("Columns", bound="DataclassInstance")


def take(columns: Columns, rows_R: Tensor | slice) -> Columns:
    """The rows at ``rows_R`` (int64 positions or a slice), in that order; columns may be dataclasses of columns."""
    picked = {
        name: take(column, rows_R) if is_dataclass(type(column)) else column[rows_R] for name, column in _items(columns)
    }
    return replace(columns, **picked)


def choose(mask_N: Tensor, chosen: Columns, otherwise: Columns) -> Columns:
    """Rows of ``chosen`` where the mask is True, of ``otherwise`` elsewhere."""
    pairs = zip(_items(chosen), _items(otherwise), strict=True)
    return replace(chosen, **{name: torch.where(_wide(mask_N, a), a, b) for (name, a), (_, b) in pairs})


def as_map(column_N: Tensor) -> Tensor:
    """(N,) or (N, C) as (N, C, 1, 1), to be combined with pictures."""
    return column_N.reshape(len(column_N), -1, 1, 1)


def on_both_halves(column_N: Tensor) -> Tensor:
    """One value per face as (M, C, 1, 1) for its two halves."""
    return as_map(column_N).repeat(2, 1, 1, 1)


def mirrored(column_N: Tensor) -> Tensor:
    """A sideways offset as (M, 1, 1, 1): what is outwards on the right half is inwards on the left one."""
    return as_map(torch.cat([-column_N, column_N]))


def _items(columns: DataclassInstance) -> list[tuple[str, Any]]:
    return [(field.name, getattr(columns, field.name)) for field in fields(columns)]


def _wide(mask_N: Tensor, column: Tensor) -> Tensor:
    return mask_N.reshape(-1, *[1] * (column.dim() - 1))
