"""Labels, values and pictures on their way into a network: rows, formulas, gradients, refusals."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn import FourierMlpConfig, MlpConfig, ResidualUNetConfig, StepMlpConfig
from sfumato.nn.conditioning import ClassEmbedding, ConditionEmbedding, ValueEmbedding, joined, require_understood

LABELS = torch.tensor([2, 0, 2, 1])
DROPPED = torch.tensor([False, True, False, True])


def values(seed: int = 3) -> Tensor:
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- labels ----------------------------------------------------------------------------------------------------------


def test_a_label_is_its_row_and_a_dropped_one_the_last() -> None:
    embedding = ClassEmbedding(3, 5)
    assert embedding.weight.shape == (4, 5)
    assert torch.equal(embedding(Condition(labels=LABELS), 4), embedding.weight[[2, 0, 2, 1]])
    assert torch.equal(embedding(Condition(labels=LABELS, dropped=DROPPED), 4), embedding.weight[[2, 3, 2, 3]])


@pytest.mark.parametrize("cond", [None, Condition(), Condition(dropped=DROPPED)], ids=["None", "empty", "dropped"])
def test_without_labels_all_are_the_null_row(cond: Condition | None) -> None:
    embedding = ClassEmbedding(3, 5)
    assert torch.equal(embedding(cond, 4), embedding.weight[[3, 3, 3, 3]])


def test_the_label_of_a_dropped_example_may_be_anything() -> None:
    embedding = ClassEmbedding(3, 5)
    strange = torch.where(DROPPED, -7, LABELS)
    assert torch.equal(
        embedding(Condition(labels=strange, dropped=DROPPED), 4),
        embedding(Condition(labels=LABELS, dropped=DROPPED), 4),
    )


def test_the_null_row_learns_from_dropped_examples_only() -> None:
    """d/dw of Σ_b g_b · row_b is g_b summed over the examples that show the row."""
    embedding = ClassEmbedding(3, 2)
    slopes = torch.tensor([[1.0, 2.0], [10.0, 20.0], [3.0, 4.0], [30.0, 40.0]])
    (slopes * embedding(Condition(labels=LABELS, dropped=DROPPED), 4)).sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.tolist() == [[0, 0], [0, 0], [4, 6], [40, 60]]
    embedding.weight.grad = None
    (slopes * embedding(Condition(labels=LABELS), 4)).sum().backward()
    assert embedding.weight.grad.tolist() == [[10, 20], [30, 40], [4, 6], [0, 0]]


# --- values ----------------------------------------------------------------------------------------------------------


def test_values_go_through_the_perceptron() -> None:
    embedding = ValueEmbedding(2, 5).double()
    w = {name: p.numpy() for name, p in embedding.state_dict().items()}
    hidden = values().numpy() @ w["linear_1.weight"].T + w["linear_1.bias"]
    expected = hidden / (1 + np.exp(-hidden)) @ w["linear_2.weight"].T + w["linear_2.bias"]
    given = embedding(Condition(values=values()), 4).detach().numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("unknown", [0.0, float("nan"), float("inf")])
def test_dropped_values_are_the_null_row_whatever_they_are(unknown: float) -> None:
    """Their gradient too: a NaN that `where` discards comes back as NaN unless it never entered."""
    embedding = ValueEmbedding(2, 5).double()
    torch.nn.init.normal_(embedding.null)
    given = embedding(Condition(values=values().masked_fill(DROPPED[:, None], unknown), dropped=DROPPED), 4)
    told = embedding(Condition(values=values()), 4)
    assert torch.equal(given[~DROPPED], told[~DROPPED])
    assert torch.equal(given[DROPPED], embedding.null.expand(2, -1))
    given.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in embedding.parameters())
    assert embedding.null.grad is not None
    assert embedding.null.grad.tolist() == [2.0] * 5  # two dropped examples
    assert torch.equal(embedding(None, 4), embedding.null.expand(4, -1))


def test_the_mean_of_the_data_is_not_the_same_as_no_values() -> None:
    """Normalised values of 0 are a legitimate request."""
    embedding = ValueEmbedding(2, 5)
    assert not torch.allclose(embedding(Condition(values=torch.zeros(1, 2)), 1), embedding(None, 1))


# --- both ------------------------------------------------------------------------------------------------------------


def test_the_embedding_is_the_sum_of_what_the_shape_asks_for() -> None:
    both = ConditionEmbedding(ConditionShape(num_classes=3, num_values=2), 5).double()
    cond = Condition(labels=LABELS, values=values(), dropped=DROPPED)
    assert both.class_embedding is not None
    assert both.value_embedding is not None
    torch.testing.assert_close(both(cond, 4), both.class_embedding(cond, 4) + both.value_embedding(cond, 4))
    torch.testing.assert_close(both(cond.unconditional(), 4), both(None, 4), rtol=0, atol=0)
    alone = ConditionEmbedding(ConditionShape(num_classes=3), 5)
    assert alone.class_embedding is not None
    assert torch.equal(alone(Condition(labels=LABELS), 4), alone.class_embedding(Condition(labels=LABELS), 4))


@pytest.mark.parametrize("shape", [NO_CONDITION, ConditionShape(image_channels=2)], ids=["nothing", "a picture"])
def test_nothing_to_embed_costs_nothing(shape: ConditionShape) -> None:
    nothing = ConditionEmbedding(shape, 5)
    assert list(nothing.parameters()) == []
    assert nothing(None, 4) is None


# --- the picture -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [(3, 5), (7,)], ids=["image", "sequence"])
def test_the_picture_comes_behind_the_channels(space: tuple[int, ...]) -> None:
    x, image = torch.randn(4, 2, *space, dtype=torch.float64), torch.randn(4, 3, *space)
    both = joined(x, Condition(image=image), 3)
    assert both.dtype == torch.float64
    assert torch.equal(both[:, :2], x)
    assert torch.equal(both[:, 2:], image.double())
    assert joined(x, None, 0) is x


@pytest.mark.parametrize(
    ("cond", "said"),
    [
        (None, "no picture"),
        (Condition(labels=LABELS), "no picture"),
        (Condition(image=torch.zeros(4, 2, 3, 5)), r"\(4, 2, 3, 5\)"),
        (Condition(image=torch.zeros(4, 3, 6, 10)), r"\(4, 3, 6, 10\)"),
        (Condition(image=torch.zeros(1, 3, 3, 5)), r"\(1, 3, 3, 5\)"),
    ],
    ids=["no condition", "labels only", "channels", "size", "batch"],
)
def test_a_picture_that_is_missing_or_does_not_fit_is_refused(cond: Condition | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        joined(torch.zeros(4, 1, 3, 5), cond, 3)
    assert "(4, 3, 3, 5)" in caught.value.expected


# --- refusals --------------------------------------------------------------------------------------------------------

ALL = ConditionShape(num_classes=3, num_values=2, image_channels=1)


@pytest.mark.parametrize(
    ("part", "takes"),
    [
        ("labels", ConditionShape(num_values=2, image_channels=1)),
        ("values", ConditionShape(num_classes=3, image_channels=1)),
        ("image", ConditionShape(num_classes=3, num_values=2)),
    ],
)
def test_a_part_without_an_input_is_refused(part: str, takes: ConditionShape) -> None:
    cond = Condition(labels=LABELS, values=values(), image=torch.zeros(4, 1, 2, 2))
    require_understood(torch.nn.Identity(), cond, ALL, 4)
    with pytest.raises(ConfigError, match=f"{part}.*no input"):
        require_understood(torch.nn.Identity(), cond, takes, 4)
    require_understood(torch.nn.Identity(), Condition(dropped=DROPPED), NO_CONDITION, 4)  # says nothing


@pytest.mark.parametrize(
    ("cond", "said"),
    [
        (Condition(labels=LABELS[:3]), r"labels of shape \(3,\) for 4"),
        (Condition(labels=LABELS[:, None]), r"labels of shape \(4, 1\)"),
        (Condition(values=torch.zeros(4, 3)), r"values of shape \(4, 3\)"),
        (Condition(values=torch.zeros(4)), r"values of shape \(4,\)"),
        (Condition(dropped=DROPPED[:1]), r"dropped of shape \(1,\)"),
    ],
    ids=["too few labels", "labels in a column", "too many values", "a value without its axis", "dropped"],
)
def test_parts_of_another_shape_are_refused(cond: Condition, said: str) -> None:
    """Broadcasting would give all examples the label of one."""
    with pytest.raises(ConfigError, match=said):
        require_understood(torch.nn.Identity(), cond, ALL, 4)


@pytest.mark.parametrize("config", [StepMlpConfig(), FourierMlpConfig()], ids=lambda c: type(c).__name__)
def test_networks_of_points_take_no_picture(config: StepMlpConfig | FourierMlpConfig) -> None:
    config.check_condition(ConditionShape(num_classes=3, num_values=2))
    with pytest.raises(ConfigError, match="no place for a picture"):
        config.check_condition(ConditionShape(image_channels=1))
    with pytest.raises(ConfigError, match="no place for a picture"):
        config.build((2,), steps=9, time_span=9, condition=ConditionShape(image_channels=1))


@pytest.mark.parametrize(
    "shape", [ConditionShape(num_classes=2), ConditionShape(num_values=1), ConditionShape(image_channels=1)], ids=str
)
def test_a_network_that_sees_x_alone_is_told_nothing(shape: ConditionShape) -> None:
    MlpConfig().check_condition(NO_CONDITION)
    for refuse in (
        lambda: MlpConfig().check_condition(shape),
        lambda: MlpConfig().build((2,), steps=None, time_span=1.0, condition=shape),
    ):
        with pytest.raises(ConfigError, match="no input for a condition") as caught:
            refuse()
        assert "FourierMlp" in caught.value.fix


# --- where the embedding goes in the older networks ------------------------------------------------------------------


def test_falbels_planes_hold_the_sum_of_both_embeddings() -> None:
    shape = ConditionShape(num_classes=10)
    network = ResidualUNetConfig().build((3, 64, 64), steps=None, time_span=1.0, condition=shape).eval()
    assert sum(p.numel() for p in network.parameters()) == 3_562_211 + 11 * 32
    assert network.condition_embedding.class_embedding is not None
    seen: list[Tensor] = []
    network.down[0].blocks[0].register_forward_pre_hook(lambda m, args: seen.append(args[0][:, 32:]))
    x, time, labels = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.8]), torch.tensor([4, 9])
    network(x, time)
    network(x, time, Condition(labels=labels))
    rows = network.condition_embedding.class_embedding.weight
    change = (rows[labels] - rows[[10, 10]])[:, :, None, None].expand(-1, -1, 16, 16)
    # float32 numbers of size 1
    torch.testing.assert_close(seen[1] - seen[0], change, rtol=0, atol=1e-6)


def test_unconditional_networks_do_not_know_of_conditions() -> None:
    """Neither a parameter nor a draw: the weights of a seed are those of a network without the option."""
    for config, shape in (
        (ResidualUNetConfig(widths=(8,)), (1, 4, 4)),
        (StepMlpConfig(), (2,)),
        (FourierMlpConfig(), (2,)),
    ):
        torch.manual_seed(5)
        network = config.build(shape, steps=9, time_span=9)
        after = torch.get_rng_state()
        assert not [name for name in network.state_dict() if "condition" in name]
        torch.manual_seed(5)
        config.build(shape, steps=9, time_span=9, condition=NO_CONDITION)
        assert torch.equal(after, torch.get_rng_state())


def test_step_mlp_hears_the_condition_beside_the_data() -> None:
    """h_1 = softplus(g_1[k] · (W_1 x + b_1 + c)), and no other layer hears it."""
    shape = ConditionShape(num_classes=3, num_values=2)
    network = StepMlpConfig(widths=(6, 6)).build((2,), steps=9, time_span=9, condition=shape).double()
    w = {name: p.numpy() for name, p in network.state_dict().items()}
    x, step, cond = values(1), torch.tensor([0, 3, 8, 8]).double(), Condition(labels=LABELS, values=values())
    told = network.condition_embedding(cond, 4)
    assert told is not None
    h = x.numpy() @ w["hidden.0.linear.weight"].T + w["hidden.0.linear.bias"] + told.detach().numpy()
    h = np.logaddexp(0, w["hidden.0.gain.weight"][[0, 3, 8, 8]] * h)
    h = h @ w["hidden.1.linear.weight"].T + w["hidden.1.linear.bias"]
    h = np.logaddexp(0, w["hidden.1.gain.weight"][[0, 3, 8, 8]] * h)
    expected = h @ w["out.weight"].T + w["out.bias"]
    # torch's softplus is the identity above 20, an error of 2e-9 at most
    np.testing.assert_allclose(network(x, step, cond).detach().numpy(), expected, rtol=1e-8, atol=1e-8)


def test_fourier_mlp_hears_the_condition_beside_the_time() -> None:
    """The embedding joins the features of the time: with equal features the condition alone moves the output."""
    shape = ConditionShape(num_classes=3, num_values=2)
    network = FourierMlpConfig(width=6, depth=2).build((2,), steps=None, time_span=1.0, condition=shape).double()
    torch.nn.init.normal_(network.out.weight)
    seen: list[Tensor] = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda m, args: seen.append(args[1]))
    cond = Condition(labels=LABELS, values=values(), dropped=DROPPED)
    network(values(1), torch.full((4,), 0.3, dtype=torch.float64), cond)
    told = network.condition_embedding(cond, 4)
    assert told is not None
    for features in seen:
        assert torch.equal(features[:, -6:], told)
        assert torch.equal(features[:, :-6], features[:1, :-6].expand(4, -1))
    assert len(seen) == 2
