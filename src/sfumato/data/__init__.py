"""Data sets: reading, preparing, packing, splitting, normalising and batching."""

from sfumato.data.packed import Description, Packed, Split, describe, pack, shared_examples, split
from sfumato.data.seeding import generator
from sfumato.data.settings import DataConfig

__all__ = ["DataConfig", "Description", "Packed", "Split", "describe", "generator", "pack", "shared_examples", "split"]
