"""How many samples and moments fit into a page that can be sent by mail: under 10 MB for eight arms of any pictures.

Noise cannot be compressed, so a picture of H x W x C values takes about 4/3 H W C letters, as base64 has it. Where the
wanted number does not fit, fewer moments are shown, then fewer examples, then smaller pictures; of a picture larger
than the largest side only its average is shown.
"""

from dataclasses import dataclass

__all__ = ["FilmRoom", "Room", "film_room", "samples_room", "tile_bytes"]

SAMPLES, FILM = 2_600_000, 3_600_000  # bytes of a page
SIDES = (128, 96, 64, 48, 32, 24, 16)
FILM_SIDES = (64, 48, 32, 24, 16)
MARKUP = 170  # bytes of an element and of a PNG's header


@dataclass(frozen=True, slots=True)
class Room:
    """Samples of each run, their longer side at most `side` pixels."""

    count: int
    side: int


@dataclass(frozen=True, slots=True)
class FilmRoom:
    """Moments of each run, and examples at each, their longer side at most `side` pixels."""

    frames: int
    examples: int
    side: int


def tile_bytes(shape: tuple[int, ...], side: int) -> int:
    """Bytes that a picture (C, H, W) takes on the page, at most."""
    channels, height, width = shape
    shrink = min(1.0, side / max(height, width))
    pixels = max(1, round(height * shrink)) * max(1, round(width * shrink))
    return MARKUP + round(4 / 3 * (pixels * channels + height))


def samples_room(shape: tuple[int, ...], runs: int, wanted: int) -> Room:
    """Room for samples of `runs` runs of pictures (C, H, W): as large as can be, then as many as are wanted."""
    for side in SIDES:
        count = SAMPLES // (runs * tile_bytes(shape, side))
        if count >= wanted:
            return Room(wanted, side)
    return Room(max(1, SAMPLES // (runs * tile_bytes(shape, SIDES[-1]))), SIDES[-1])


def film_room(shape: tuple[int, ...], runs: int, *, frames: int, examples: int, rows: int) -> FilmRoom:
    """Room for films of `runs` runs, with `rows` pictures of each example at each moment."""
    for side in FILM_SIDES:
        for least in (min(12, frames), min(8, frames)):
            for count in range(examples, 0, -1):
                fitting = FILM // (runs * rows * count * tile_bytes(shape, side))
                if fitting >= least:
                    return FilmRoom(min(fitting, frames), count, side)
    return FilmRoom(min(4, frames), 1, FILM_SIDES[-1])
