"""Copies: exact ones by their bytes, near ones by a hash that proposes and a distance that decides."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from sfumato.data import DataConfig, Packed, Split, load_data, pack, split
from sfumato.data import copies as module
from sfumato.data.copies import MOST_BITS, NEAR, find_copies, hashes, leakage

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def sprites() -> Pixels:
    """Some 300 different tiles of 32x32, of which the squeezing to 32x32 changes nothing; none is blank."""
    values = load_data(DataConfig(source="sprites", limit=300), seed=0).values.numpy()
    return np.unique(values[values.std(axis=(1, 2, 3)) > 0], axis=0)


@pytest.fixture(scope="module")
def photos() -> Pixels:
    """100 smooth pictures of 32x32, their amplitudes falling as 1/f², in three correlated channels."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    frequency[0, 0] = 1
    noise = rng.normal(size=(100, 3, 32, 32)) + 3 * rng.normal(size=(100, 1, 32, 32))
    fields = np.fft.ifft2(np.fft.fft2(noise) / frequency**2).real
    fields -= fields.mean(axis=(2, 3), keepdims=True)
    pixels = 128 + 45 * fields / fields.std(axis=(1, 2, 3), keepdims=True)
    return np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def brute_hash(pictures: Pixels) -> NDArray[np.bool_]:
    """The hash of 32x32 pictures, by another library's cosine transform, in float64."""
    grey = pictures @ np.array([0.299, 0.587, 0.114])
    spectrum = dctn(grey, axes=(1, 2))[:, :8, :8].reshape(len(pictures), -1)[:, 1:]
    middle = np.sort(spectrum, axis=1)[:, 31:32]
    return spectrum - middle > 1e-4 * np.linalg.norm(spectrum, axis=1, keepdims=True)


def brute_thumbnails(pictures: Pixels) -> NDArray[np.float64]:
    """Means over 2x2 pixels of 32x32 pictures, each channel's mean taken away, as rows, float64."""
    thumbs = pictures.reshape(len(pictures), 16, 2, 16, 2, 3).mean(axis=(2, 4))
    return (thumbs - thumbs.mean(axis=(1, 2), keepdims=True)).reshape(len(pictures), -1)


def jpeg(picture: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(picture: Pixels, side: int) -> Pixels:
    small = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((32, 32), Image.Resampling.BILINEAR))


CHANGES = {
    "compressed": lambda p: jpeg(p, 80),
    "resized": lambda p: resized(p, 28),
    "brighter": lambda p: np.clip(p.astype(int) + 15, 0, 255).astype(np.uint8),
    "contrast": lambda p: np.asarray(ImageEnhance.Contrast(Image.fromarray(p)).enhance(0.6)),
    "noisy": lambda p: np.clip(p + np.random.default_rng(0).normal(0, 4, p.shape), 0, 255).astype(np.uint8),
}


def test_the_hash_is_the_cosine_transforms(sprites: Pixels, photos: Pixels) -> None:
    """Symmetric tiles have many equal coefficients, which lie on the median: rounding may not decide them."""
    for pictures in (sprites, photos):
        got = np.unpackbits(hashes(torch.from_numpy(pictures), torch.arange(len(pictures))), axis=1)
        assert not got[:, 63].any()
        wrong = (got[:, :63].astype(bool) != brute_hash(pictures)).sum()
        assert wrong <= 2  # float32 against float64: of 25,000 bits a few may lie within 1e-7 of the threshold


def test_all_pairs_are_found_and_no_others(sprites: Pixels) -> None:
    """Against every pair, by the definitions: hashes within seven bits, d at most 0.01."""
    changed = np.stack([change(p) for p, change in zip(sprites, list(CHANGES.values()) * 60, strict=False)])
    values = np.unique(np.concatenate([sprites, changed]), axis=0)
    found = find_copies(pack(torch.from_numpy(values)))
    bits, thumbs = brute_hash(values), brute_thumbnails(values)
    power = (thumbs**2).sum(axis=1)
    varied = power >= 256
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    d = 1 - thumbs @ thumbs.T / np.sqrt(np.maximum(power[:, None] * power[None], 1e-12))
    wanted = np.triu((apart <= MOST_BITS) & (d <= NEAR) & varied[:, None] & varied[None], k=1)
    got = np.zeros_like(wanted)
    got[found.pairs[:, 0], found.pairs[:, 1]] = True
    assert found.compared == varied.sum()
    assert 100 < wanted.sum() < len(values)
    sure = np.abs(d - NEAR) > 1e-5  # float32 sums of 768 terms
    assert np.array_equal(got[sure], wanted[sure])
    assert np.all(np.diff(found.distances) >= 0)
    np.testing.assert_allclose(found.distances, d[found.pairs[:, 0], found.pairs[:, 1]], atol=1e-6)  # float32


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(photos: Pixels, change: str) -> None:
    """Nineteen of twenty changed copies, and nothing else."""
    changed = np.stack([CHANGES[change](p) for p in photos])
    found = find_copies(pack(torch.from_numpy(np.concatenate([photos, changed]))))
    assert len(found.pairs) >= 95
    assert all(second - first == len(photos) for first, second in found.pairs.tolist())


def test_different_pictures_are_not_near(sprites: Pixels) -> None:
    """Real digits that look alike are no copies: of 1,797, no more than one in a hundred is in a pair."""
    digits = load_data(DataConfig(source="digits"), seed=0)
    assert find_copies(digits).num_near <= 0.01 * len(digits)


def test_exact_groups_are_by_content(sprites: Pixels) -> None:
    order = [0, 1, 0, 2, 1, 0]
    found = find_copies(pack(torch.from_numpy(sprites[order])))
    assert found.exact == ((0, 2, 5), (1, 4))
    assert found.num_exact == 3
    assert found.compared == 3
    points = find_copies(pack(torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])))
    assert (points.exact, points.compared, len(points.pairs)) == (((0, 1),), None, 0)


def test_pictures_of_one_colour_are_no_near_copies() -> None:
    values = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 8, 8, 3).contiguous()
    values[:, 0, 0, 0] += 1
    found = find_copies(pack(values))
    assert (found.num_exact, len(found.pairs), found.compared) == (0, 0, 0)


def test_too_many_pairs_are_cut_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty versions of one picture make 780 pairs; there is room for 100."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 200, (8, 8, 1)).repeat(4, 0).repeat(4, 1)
    values = np.stack([base + i for i in range(40)]).astype(np.uint8)
    whole = find_copies(pack(torch.from_numpy(values)))
    assert (len(whole.pairs), whole.num_near, whole.complete) == (780, 40, True)
    monkeypatch.setattr(module, "MOST_PAIRS", 100)
    cut = find_copies(pack(torch.from_numpy(values)))
    assert not cut.complete
    assert 0 < len(cut.pairs) <= 100


def test_blocks_do_not_matter(sprites: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.concatenate([sprites, np.stack([jpeg(p, 90) for p in sprites[:100]])])
    packed = pack(torch.from_numpy(values))
    whole = find_copies(packed)
    for name, size in (("BLOCK", 3), ("CHUNK", 10_000)):
        monkeypatch.setattr(module, name, size)
    pieces = find_copies(packed)
    assert np.array_equal(whole.pairs, pieces.pairs)
    assert len(whole.pairs) > 30


def copied(sprites: Pixels) -> Packed:
    """0..9 different; 10, 11 copies of 0 and 1; 12, 13 compressed copies of 2 and 3; 14 a compressed copy of 0."""
    varied = np.stack([p for p in sprites if p.std() > 60][:10])
    near = np.stack([jpeg(varied[i], 95) for i in (2, 3, 0)])
    return pack(torch.from_numpy(np.concatenate([varied, varied[:2], near])))


@pytest.mark.parametrize(
    ("held_out", "exact", "near"),
    [
        ([10, 11], 2, 0),
        ([0, 10], 0, 2),  # both of them held out; a compressed copy is trained on
        ([0, 10, 14], 0, 0),
        ([2, 13], 0, 2),
        ([0, 12], 1, 1),
        ([], 0, 0),
        ([14], 0, 1),
    ],
    ids=str,
)
def test_leakage_counts_held_out_examples_once(sprites: Pixels, held_out: list[int], exact: int, near: int) -> None:
    packed = copied(sprites)
    rest = [i for i in range(len(packed)) if i not in held_out]
    found = leakage(find_copies(packed), Split(torch.tensor(rest), torch.tensor(held_out, dtype=torch.int64)))
    assert (found.held_out, found.exact, found.near) == (len(held_out), exact, near)


def test_leakage_agrees_with_the_count_of_exact_copies(sprites: Pixels) -> None:
    from sfumato.data import shared_examples

    rng = np.random.default_rng(0)
    packed = pack(torch.from_numpy(sprites[rng.integers(0, 40, 100)]))
    for seed in range(3):
        parts = split(packed, 0.3, seed)
        assert leakage(find_copies(packed), parts).exact == shared_examples(packed, parts)


def test_photographs_of_flowers(real_data: Path) -> None:
    """Real photographs: 99 of 100 compressed ones are found, and the pairs among 4,542 that a person sees, no more."""
    images = np.load(real_data / "flowers64.npz")["images"]
    few = images[:300]
    found = find_copies(pack(torch.from_numpy(np.concatenate([few, np.stack([jpeg(p, 75) for p in few])]))))
    assert all(second - first == 300 for first, second in found.pairs.tolist())
    assert len(found.pairs) >= 297
    assert len(find_copies(pack(torch.from_numpy(images))).pairs) == 6


def test_mirrored_pairs_are_found_and_no_others(sprites: Pixels) -> None:
    """Against every pair, by the definitions, of a picture and the mirrored other; a pair counts with the smaller d."""
    changed = np.stack([CHANGES["brighter"](p)[:, ::-1] for p in sprites[:150]])
    values = np.unique(np.concatenate([sprites[:150], changed, sprites[:20, :, ::-1]]), axis=0)
    found = find_copies(pack(torch.from_numpy(values)), mirrored=True)
    flipped = np.ascontiguousarray(values[:, :, ::-1])
    thumbs, turned = brute_thumbnails(values), brute_thumbnails(flipped)
    bits, turned_bits = brute_hash(values), brute_hash(flipped)
    power = (thumbs**2).sum(axis=1)
    varied = (power >= 256)[:, None] & (power >= 256)[None]
    scale = np.sqrt(np.maximum(power[:, None] * power[None], 1e-12))
    direct, mirror = 1 - thumbs @ thumbs.T / scale, 1 - thumbs @ turned.T / scale
    near = (bits[:, None] != bits[None]).sum(axis=2) <= MOST_BITS
    across = (bits[:, None] != turned_bits[None]).sum(axis=2) <= MOST_BITS
    smallest = np.minimum(np.where(near, direct, 9), np.where(across | across.T, mirror, 9))
    wanted = np.triu((smallest <= NEAR) & varied, k=1)
    got = np.zeros_like(wanted)
    got[found.pairs[:, 0], found.pairs[:, 1]] = True
    sure = np.abs(smallest - NEAR) > 1e-5  # float32 sums of 768 terms
    assert np.array_equal(got[sure], wanted[sure])
    np.testing.assert_allclose(found.distances, smallest[found.pairs[:, 0], found.pairs[:, 1]], atol=1e-6)  # float32
    assert np.all(np.diff(found.distances) >= 0)
    assert found.mirrored is not None
    first, second = found.pairs[found.mirrored].T
    assert (mirror[first, second] <= direct[first, second] + 1e-6).all() or not near[first, second].all()
    assert found.num_mirrored is not None
    assert found.num_mirrored > 100
    assert find_copies(pack(torch.from_numpy(values))).num_mirrored is None


def test_blocks_do_not_matter_for_mirrored_pairs(sprites: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.concatenate([sprites[:120], np.stack([jpeg(p, 90) for p in sprites[:60, :, ::-1]])])
    packed = pack(torch.from_numpy(values))
    whole = find_copies(packed, mirrored=True)
    monkeypatch.setattr(module, "BLOCK", 3)
    pieces = find_copies(packed, mirrored=True)
    assert np.array_equal(whole.pairs, pieces.pairs)
    assert whole.num_mirrored == pieces.num_mirrored
    assert len(whole.pairs) > 10
