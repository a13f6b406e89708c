"""The map between stored data and model space is what it says, and is undone exactly."""

import json

import numpy as np
import pytest
import torch

from sfumato.data import DataConfig, Normalization, Packed, data_std, measure, pack, split
from sfumato.errors import ConfigError, DataError


def pictures(count: int = 64, channels: int = 3, **settings: object) -> Packed:
    source = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (count, 6, 10, channels), generator=source, dtype=torch.uint8)
    values[..., 0] //= 2  # channels of different statistics
    return pack(values, **settings)  # type: ignore[arg-type]


def measured(packed: Packed, kind: str, held_out: float = 0.25) -> Normalization:
    return measure(packed, split(packed, held_out, seed=0), DataConfig(normalize=kind))


@pytest.mark.parametrize("kind", ["range", "standardize", "none"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pad", [None, (6, 10), (8, 15)])
def test_all_256_values_survive_the_way_there_and_back(kind: str, channels: int, pad: tuple | None) -> None:
    packed = pictures(channels=channels, pad=pad)
    normalization = measured(packed, kind)
    levels = torch.arange(60 * 5 * channels, dtype=torch.int64).remainder(256).to(torch.uint8)
    raw = levels.reshape(5, 6, 10, channels)
    kept = raw.clone()
    x = normalization.to_model(raw)
    assert x.shape == (5, *packed.shape)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalization.to_data(x), raw)
    assert torch.equal(raw, kept)


def test_the_range_is_minus_one_to_one_exactly() -> None:
    normalization = measured(pictures(), "range")
    x = normalization.to_model(torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(180).reshape(2, 6, 10, 3))
    assert x.unique().tolist() == [-1.0, 1.0]
    assert normalization.low is not None
    assert normalization.high is not None
    assert (normalization.low.tolist(), normalization.high.tolist()) == ([[[-1.0]]] * 3, [[[1.0]]] * 3)


def test_standardizing_gives_mean_0_and_std_1_on_the_training_part() -> None:
    packed = pictures()
    parts = split(packed, 0.25, seed=0)
    normalization = measured(packed, "standardize")
    train = packed.values[parts.train].double().reshape(-1, 3)
    assert normalization.mean == pytest.approx(train.mean(0).tolist(), rel=1e-12)  # an exact histogram
    assert normalization.scale == pytest.approx(train.std(0, correction=0).tolist(), rel=1e-12)
    x = normalization.to_model(packed.values[parts.train])
    assert x.mean((0, 2, 3)).abs().max() < 1e-5  # float32
    assert (x.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    assert normalization.low is not None
    black = normalization.to_model(torch.zeros(1, 6, 10, 3, dtype=torch.uint8))
    assert torch.allclose(black[0], normalization.low.expand(3, 6, 10), rtol=1e-6)


def test_the_held_out_part_has_no_say() -> None:
    packed = pictures()
    held_out = split(packed, 0.25, seed=0).held_out
    changed = packed.values.clone()
    changed[held_out] = 255
    assert measured(pack(changed), "standardize") == measured(packed, "standardize")


def test_points_in_every_kind() -> None:
    source = torch.Generator().manual_seed(0)
    values = torch.randn(200, 2, generator=source) * torch.tensor([1.0, 5.0]) + torch.tensor([3.0, 0.0])
    packed = pack(values)
    parts = split(packed, 0.1, seed=0)
    train = values[parts.train]
    for kind in ("range", "standardize", "none"):
        normalization = measured(packed, kind, 0.1)
        x = normalization.to_model(train)
        assert (normalization.low, normalization.high) == (None, None)
        assert torch.allclose(normalization.to_data(x), train, atol=1e-5)
        if kind == "range":
            assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
            assert len(set(normalization.scale)) == 1  # one map for all coordinates keeps the shape
        elif kind == "standardize":
            assert torch.allclose(x.std(0, correction=0), torch.ones(2), atol=1e-5)
        else:
            assert torch.equal(x, train)
    assert torch.equal(train, values[parts.train])  # to_model writes into its own copy


def test_values_of_more_dimensions_have_the_channel_first() -> None:
    values = torch.randn(50, 3, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0])[:, None]
    normalization = measured(pack(values), "standardize", 0.0)
    x = normalization.to_model(values)
    assert torch.allclose(x.std((0, 2), correction=0), torch.ones(3), atol=1e-5)
    assert torch.allclose(normalization.to_data(x), values, atol=1e-5)


def test_padding_repeats_the_border_and_is_cropped_back() -> None:
    packed = pictures(channels=1, pad=(9, 12))
    raw = packed.values[:4]
    x = measured(packed, "range").to_model(raw)
    expected = np.pad(raw.numpy()[..., 0], ((0, 0), (1, 2), (1, 1)), mode="edge")
    assert torch.equal(x[:, 0], (torch.from_numpy(expected).float() - 127.5) / 127.5)


def test_out_of_range_values_are_clipped_on_the_way_back() -> None:
    normalization = measured(pictures(), "range")
    x = torch.tensor([-7.0, 7.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 6, 10)
    assert normalization.to_data(x)[0, 0, 0].tolist() == [0, 255, 128]


def test_json_gives_an_equal_object_back() -> None:
    for packed in (pictures(pad=(8, 16)), pack(torch.rand(20, 2))):
        for kind in ("range", "standardize", "none"):
            normalization = measured(packed, kind)
            assert Normalization.from_dict(json.loads(json.dumps(normalization.to_dict()))) == normalization


def test_nonsense_is_refused() -> None:
    for mean, scale in (((0.0,), (0.0,)), ((0.0,), (1.0, 1.0)), ((float("nan"),), (1.0,)), ((), ())):
        with pytest.raises(ConfigError):
            Normalization("range", mean, scale)


def test_data_std_is_the_std_of_everything_in_model_space() -> None:
    packed = pictures(pad=(8, 12))
    parts = split(packed, 0.25, seed=0)
    normalization = measured(packed, "range")
    x = normalization.to_model(packed.values[parts.train]).double()  # of float32 values; data_std rounds nothing
    assert data_std(packed, normalization, parts.train) == pytest.approx(float(x.std(correction=0)), rel=1e-6)


def test_constant_data_are_refused_and_a_constant_channel_is_not() -> None:
    values = torch.full((8, 6, 10, 3), 7, dtype=torch.uint8)
    packed = pack(values)
    normalization = measured(packed, "standardize")
    assert normalization.scale == (1.0, 1.0, 1.0)
    with pytest.raises(DataError, match="every value of the training data is the same"):
        data_std(packed, normalization, torch.arange(8))
    values[:, :, 5:, 1] = 100
    packed = pack(values)
    normalization = measured(packed, "standardize")
    assert torch.equal(normalization.to_data(normalization.to_model(values)), values)
    assert data_std(packed, normalization, torch.arange(8)) > 0


def test_constants_first_made_while_sampling_serve_gradients() -> None:
    """They are cached; made under inference_mode they could not be saved for a backward pass."""
    normalization = Normalization("standardize", (1.0, 2.0, 3.5), (1.5, 2.5, 3.5))
    with torch.inference_mode():
        normalization.to_model(torch.zeros(1, 3))
    points = torch.zeros(1, 3, requires_grad=True)
    normalization.to_model(points).sum().backward()
    assert points.grad is not None
    assert torch.allclose(points.grad, 1 / torch.tensor([[1.5, 2.5, 3.5]]))
