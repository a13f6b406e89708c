"""Data sets: reading, preparing, packing, splitting, normalising and batching."""

from sfumato.data.batches import Batch, Batches, batch_indices, order
from sfumato.data.loading import declared_classes, declared_shape, load_data, require_there
from sfumato.data.normalization import Normalization, data_std, measure
from sfumato.data.packed import (
    Description,
    Packed,
    Split,
    describe,
    evenly_from,
    fingerprint_of,
    pack,
    shared_examples,
    split,
)
from sfumato.data.seeding import generator
from sfumato.data.settings import EMBEDDED_SOURCES, NORMALIZATIONS, POINT_SOURCES, SET_SOURCES, SOURCES, DataConfig

__all__ = [
    "EMBEDDED_SOURCES",
    "NORMALIZATIONS",
    "POINT_SOURCES",
    "SET_SOURCES",
    "SOURCES",
    "Batch",
    "Batches",
    "DataConfig",
    "Description",
    "Normalization",
    "Packed",
    "Split",
    "batch_indices",
    "data_std",
    "declared_classes",
    "declared_shape",
    "describe",
    "evenly_from",
    "fingerprint_of",
    "generator",
    "load_data",
    "measure",
    "order",
    "pack",
    "require_there",
    "shared_examples",
    "split",
]
