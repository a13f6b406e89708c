"""Samples of models that are told classes, numbers or pictures: each is its seed's and its own condition's, to the bit.

The networks have trained for a few steps only, in which labels hardly begin to matter: their embeddings are enlarged,
so that another label is another picture.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sfumato
from sfumato.condition import Condition
from sfumato.core import Optimal
from sfumato.errors import CheckpointError, NumericsError, UsageError
from sfumato.experiment.conditions import Asked
from sfumato.experiment.drawing import draw
from sfumato.experiment.fitted import CACHE, data_of, measure, steering
from sfumato.experiment.guiding import Guide, Requests, guide_of
from sfumato.experiment.preview import preview_condition
from sfumato.guidance import AutoGuided, Clipped, Guided, Thresholded
from sfumato.samplers import Ancestral

SHORT = {
    "training.steps": 2,
    "training.batch_size": 8,
    "training.preview_every": 0,
    "training.evaluate_every": 2,
    "training.checkpoint_every": 1,
    "training.keep_checkpoints": 3,
    "training.precision": "float32",
    "sampling.steps": 3,
    "sampling.micro_batch": 4,
    "evaluation.count": 4,
    "evaluation.noise_levels": 2,
    "data.limit": 60,
}
DIGITS = {**SHORT, "network.widths": (8,), "network.depth": 1, "network.embedding": 8}
LABELS = {**DIGITS, "condition.labels": True}


def enlarged(model: sfumato.Model) -> sfumato.Model:
    """The model with a network whose every part matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.denoiser.network.named_parameters():
            if "embedding" in name or "conv_out" in name:
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conditional")


@pytest.fixture(scope="module")
def folder(runs: Path) -> Path:
    return sfumato.train("digits", LABELS, runs=runs, name="labels").folder


@pytest.fixture(scope="module")
def model(folder: Path) -> sfumato.Model:
    return enlarged(sfumato.load(folder))


@pytest.fixture(scope="module")
def plain(runs: Path) -> sfumato.Model:
    """Trained on the same digits without their labels."""
    return sfumato.load(sfumato.train("digits", DIGITS, runs=runs, name="plain").folder)


def pictures(samples: sfumato.Samples) -> np.ndarray:
    assert samples.images is not None
    return samples.images


def test_a_sample_is_the_same_bits_whatever_the_others_are(model: sfumato.Model) -> None:
    """Seed 5 as a 7: alone, among all classes, last of a padded micro-batch, among samples guided otherwise."""
    alone = pictures(model.sample(1, seed=5, labels=7))[0].tobytes()
    others = pictures(model.sample(4, seed=5, labels=[7, 1, 2, 3]))
    assert others[0].tobytes() == alone
    assert others[1].tobytes() != pictures(model.sample(4, seed=5, labels=7))[1].tobytes()
    many = pictures(model.sample(9, seed=1, labels=[0, 1, 2, 3, 7, 5, 6, 7, 8]))
    assert many[4].tobytes() == alone  # first of its micro-batch, as alone
    mixed = pictures(model.sample(3, seed=5, labels=[7, 7, 7], guidance=[1, 0, 4]))
    assert mixed[0].tobytes() == alone


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "dpmpp2m"])
def test_guidance_one_is_none_and_zero_is_no_label_bit_for_bit(sampler: str, model: sfumato.Model) -> None:
    asked = model.sample(6, sampler=sampler, labels="all")
    one = model.sample(6, sampler=sampler, labels="all", guidance=1)
    zero = model.sample(6, sampler=sampler, labels="all", guidance=0)
    none = model.sample(6, sampler=sampler, labels="none")
    two = model.sample(6, sampler=sampler, labels="all", guidance=2)
    assert pictures(one).tobytes() == pictures(asked).tobytes()
    assert pictures(zero).tobytes() == pictures(none).tobytes()
    assert len({pictures(each).tobytes() for each in (asked, zero, two)}) == 3
    assert none.labels is None
    assert none.class_names is None
    guided_none = model.sample(6, sampler=sampler, labels="none", guidance=3)
    assert pictures(guided_none).tobytes() == pictures(none).tobytes()


def test_each_sample_has_its_own_weight(model: sfumato.Model) -> None:
    """Place for place the bits of the batch that has that weight throughout; the padded tail among them."""
    weights = [0, 1, 2.5, 4, 0, 2.5]
    own = model.sample(6, labels="all", guidance=weights)
    for i, weight in enumerate(weights):
        alike = pictures(model.sample(6, labels="all", guidance=weight))
        assert pictures(own)[i].tobytes() == alike[i].tobytes(), weight
    assert own.guidance is not None
    assert own.guidance.tolist() == weights


def test_samples_say_what_they_were_asked_to_be(model: sfumato.Model) -> None:
    found = model.sample(12, labels="all")
    assert found.labels is not None
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [*range(10), 0, 1]
    assert found.class_names == tuple("0123456789")
    assert found.guidance is None


def test_an_interval_of_guidance_reaches_the_sampler(model: sfumato.Model) -> None:
    """One that holds all levels changes nothing; one that holds none leaves the conditional model."""
    guided = pictures(model.sample(4, labels=3, guidance=3))
    everywhere = model.settings(guidance=3.0, guidance_interval=(0.0, 1e9))
    nowhere = model.settings(guidance=3.0, guidance_interval=(1e8, 1e9))
    assert pictures(model.sample(4, labels=3, config=everywhere)).tobytes() == guided.tobytes()
    conditional = pictures(model.sample(4, labels=3))
    assert pictures(model.sample(4, labels=3, config=nowhere)).tobytes() == conditional.tobytes()


@pytest.mark.parametrize("clip", [True, False])
def test_enormous_guidance_ends_in_finite_pictures(clip: bool, model: sfumato.Model) -> None:
    """E5: within the range of the data and without it."""
    config = replace(model.experiment.sampling, guidance=1e6, clip=clip)
    found = pictures(model.sample(4, labels=3, config=config))
    assert ((found == 0) | (found == 255)).mean() > 0.9  # saturated, and of finite numbers: else it is refused
    with pytest.raises(UsageError, match="guidance is inf"):
        replace(config, guidance=float("inf"))


@pytest.mark.parametrize("clip", [True, False])
def test_one_sample_that_is_not_finite_is_refused(clip: bool, folder: Path) -> None:
    """E10: the row of class 4 is broken, and no other."""
    model = sfumato.load(folder)
    embedding = next(p for name, p in model.denoiser.network.named_parameters() if "class_embedding" in name)
    with torch.no_grad():
        embedding[4] = torch.nan
    config = model.settings(clip=clip)
    assert len(model.sample(3, labels=[3, 5, 6], config=config)) == 3
    with pytest.raises(NumericsError, match="1 of 3 samples are not finite") as caught:
        model.sample(3, labels=[3, 4, 5], config=config)
    assert caught.value.exit_code == 5


def test_guidance_lies_inside_the_range_of_the_data(model: sfumato.Model) -> None:
    config = model.settings(guidance=2.0)
    d = Guide(model.denoiser, model.record, config).steered()
    assert isinstance(d, Clipped)
    assert isinstance(d.denoise, Guided)
    assert d.denoise.denoise is model.denoiser
    thresholded = replace(config, dynamic_threshold=0.9, clip=False)
    d = Guide(model.denoiser, model.record, thresholded).steered(Requests(guidance=torch.tensor([1.0, 3.0])))
    assert isinstance(d, Thresholded)
    assert isinstance(d.denoise, Guided)
    assert torch.equal(torch.as_tensor(d.denoise.weight), torch.tensor([1.0, 3.0]))
    clipped, pulled = (pictures(model.sample(4, labels=3, config=each)) for each in (config, thresholded))
    assert clipped.tobytes() != pulled.tobytes()


def test_autoguidance_by_an_earlier_self(folder: Path, model: sfumato.Model) -> None:
    """1 is the model, 0 the earlier checkpoint, both to the bit; it may be named from the folder of runs."""
    earlier = folder / "checkpoints" / "step-00000001"
    old = sfumato.load(earlier)
    assert old.steps_trained == 1
    for weight, same in ((1.0, model), (0.0, old)):
        config = model.settings(autoguidance=weight, weaker=str(earlier))
        assert pictures(model.sample(4, labels="all", config=config)).tobytes() == (
            pictures(same.sample(4, labels="all")).tobytes()
        )
    by_name = model.settings(autoguidance=0.0, weaker="labels/checkpoints/step-00000001")
    assert pictures(model.sample(4, labels="all", config=by_name)).tobytes() == (
        pictures(old.sample(4, labels="all")).tobytes()
    )


def test_a_weaker_self_may_be_untold_but_not_of_other_data(
    model: sfumato.Model, plain: sfumato.Model, runs: Path
) -> None:
    config = model.settings(autoguidance=0.0, weaker="plain")
    weak = pictures(plain.sample(4))
    assert pictures(model.sample(4, labels="all", config=config)).tobytes() == weak.tobytes()
    points = {**SHORT, "data.count": 60, "data.limit": None, "network.widths": (8,), "sampling.steps": 3}
    sfumato.train("swiss-roll", points, runs=runs, name="points")
    with pytest.raises(UsageError, match=r"shape of the data of 'digits' is \(1, 8, 8\).*weaker self points is \(2,\)"):
        model.sample(4, labels="all", config=model.settings(autoguidance=2.0, weaker="points"))


def test_a_weaker_self_of_other_classes_is_refused(model: sfumato.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 3 of one must be class 3 of the other: the same digits in another order are not."""
    turned = replace(model, record=replace(model.record, label_values=model.record.label_values[::-1]))
    monkeypatch.setattr("sfumato.experiment.load.load", lambda *_, **__: turned)
    with pytest.raises(UsageError, match="list of classes"):
        model.sample(2, labels=1, config=model.settings(autoguidance=2.0, weaker="turned"))


def test_a_classifier_steers_a_model_of_values_that_still_hears_them(
    points: sfumato.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are for the classifier alone, the values for the network: with a flat classifier nothing changes."""
    monkeypatch.setattr("sfumato.experiment.guiding.classifier_of", lambda _: lambda x, t, k: 0 * x.flatten(1).sum(1))
    guide = guide_of(points, points.denoiser, points.settings(classifier_guidance=2.0))
    cond = Condition(torch.tensor([0, 1]), torch.ones(2, 2), dropped=torch.tensor([False, True]))
    x, t = torch.ones(2, 2), torch.tensor(0.5, dtype=torch.float64)
    with torch.no_grad():
        plain = points.denoiser(x, t, replace(cond, labels=None)).x0
        assert torch.equal(guide.steered()(x, t, cond).x0, plain)
        assert not torch.equal(points.denoiser(x, t).x0[0], plain[0])


def test_what_guidance_needs_and_is_not_there(model: sfumato.Model, plain: sfumato.Model, runs: Path) -> None:
    for config, part in (
        (model.settings(classifier_guidance=1.0), "sfumato classifier"),
        (model.settings(ema_width=0.1), "power_ema"),
        (model.settings(autoguidance=2.0, weaker="nobody"), "nobody"),
    ):
        with pytest.raises(CheckpointError, match=part):
            model.sample(2, labels=1, config=config)
    alone = sfumato.load(sfumato.export(model.folder, runs / "alone.safetensors"))
    for setting in ({"classifier_guidance": 1.0}, {"ema_width": 0.1}):
        with pytest.raises(UsageError, match="an exported file holds"):
            alone.sample(2, labels=1, config=alone.settings(**setting))
    with pytest.raises(UsageError, match="trained without labels"):
        plain.sample(2, guidance=[1, 2])


def test_an_exported_file_knows_its_classes(folder: Path, runs: Path) -> None:
    alone = sfumato.load(sfumato.export(folder, runs / "known.safetensors"))
    assert pictures(alone.sample(3, labels="all")).tobytes() == (
        pictures(sfumato.load(folder).sample(3, labels="all")).tobytes()
    )


@pytest.mark.parametrize(
    ("guidance", "part"),
    [(float("nan"), "nan"), (-1, "negative"), ([1, 2], "one for each"), ([1, -1, 2], "0 or more"), ("two", "two")],
    ids=str,
)
def test_weights_that_are_none(guidance: Any, part: str, model: sfumato.Model) -> None:
    """E5: refused in the words of the call."""
    with pytest.raises(UsageError, match=part) as caught:
        model.sample(3, labels=1, guidance=guidance)
    assert "guidance=2 (--guidance 2)" in caught.value.fix or "finite" in caught.value.fix
    assert "overrides" not in str(caught.value)


@pytest.mark.parametrize("given", [{"guidance": 2}, {"steps": 3}, {"sampler": "heun"}, {"weights": "live"}], ids=str)
def test_a_setting_beside_all_settings_is_refused(given: dict[str, Any], model: sfumato.Model) -> None:
    """It would be passed over. Weights of every sample's own are no setting."""
    config = model.settings(steps=2)
    with pytest.raises(UsageError, match="and config were both given") as caught:
        model.sample(2, labels=1, config=config, **given)
    assert next(iter(given)) in caught.value.fix
    assert len(model.sample(2, labels=1, config=config, guidance=[0, 2])) == 2
    ((name, value),) = given.items()
    assert len(model.sample(2, labels=1, config=model.settings(**{"steps": 2, name: value}))) == 2


def test_paths_and_latents_take_labels(model: sfumato.Model) -> None:
    config = model.settings(steps=3)
    path = model.path(2, seed=4, labels=[1, 8], config=config)
    assert path.labels == ("1", "8")
    assert model.path(1, labels="none", config=config).labels is None
    assert path.states[-1].tobytes() == pictures(model.sample(2, seed=4, labels=[1, 8], config=config)).tobytes()
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    encoded = model.encode(images, steps=64, labels=[1, 8])
    back = model.decode(encoded.latents, steps=64, labels=[1, 8])
    assert np.abs(back.astype(int) - images).max() <= 2  # of 255: Heun's error in 64 steps each way
    other = model.decode(encoded.latents, steps=64, labels=[2, 3])
    assert np.abs(other.astype(int) - images).max() > 10
    line = model.interpolate(3, 7, 5, labels=6, sampler="ddim")
    assert np.abs(line[0].astype(int) - pictures(model.sample(1, seed=3, labels=6, sampler="ddim"))[0]).max() <= 1
    for call in (lambda: model.path(1), lambda: model.encode(images), lambda: model.interpolate(0, 1)):
        with pytest.raises(UsageError, match="no label was given"):
            call()


def test_the_optimal_variance_is_that_of_what_is_told(model: sfumato.Model) -> None:
    """Measured with the examples' own labels, or without; each has its entry beside the weights."""
    data = data_of(model)
    guide = Guide(model.denoiser, model.record, model.experiment.sampling)
    tables = [
        measure(guide.steered(), data, torch.device("cpu"), experiment=model.experiment, unlabelled=unlabelled)
        for unlabelled in (False, True)
    ]
    assert tables[0].log_snr == tables[1].log_snr
    assert not np.allclose(tables[0].mmse, tables[1].mmse, rtol=1e-3)
    said = {steering(model, guide, unlabelled=unlabelled) for unlabelled in (False, True)}
    assert len(said) == 2
    assert model.folder is not None
    (model.folder / CACHE).unlink(missing_ok=True)
    model.sample(2, labels=1, sampler=Ancestral(Optimal()))
    model.sample(2, labels="none", sampler=Ancestral(Optimal()))
    assert (model.folder / CACHE).read_text().count("mmse") == 2


def test_an_optimal_variance_of_an_unconditional_model_keeps_its_name(plain: sfumato.Model) -> None:
    """Tables that runs of older versions hold are still found."""
    guide = Guide(plain.denoiser, plain.record, plain.experiment.sampling)
    assert steering(plain, guide, unlabelled=True) == "True"


@pytest.fixture(scope="module")
def points(runs: Path) -> sfumato.Model:
    """Points on a circle, told their angle and radius."""
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0, 6, 80), rng.uniform(1, 2, 80)
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32)
    conditions = np.stack([angle, radius], 1).astype(np.float32)
    np.savez(runs / "ring.npz", values=values, conditions=conditions, condition_names=np.array(["angle", "radius"]))
    settings = {**SHORT, "data.path": str(runs / "ring.npz"), "condition.values": True, "network": "FourierMlp"}
    settings |= {"schedule": "CosineAngle", "times": "UniformTimes", "time_input": "NoiseVarianceInput"}
    run = sfumato.train("swiss-roll", settings, runs=runs, name="ring")
    return enlarged(sfumato.load(run.folder))


def test_values_are_told_and_given_back(points: sfumato.Model) -> None:
    found = points.sample(3, values=[1.5, 1.2])
    assert found.conditions is not None
    np.testing.assert_allclose(found.conditions, [[1.5, 1.2]] * 3, rtol=1e-6)
    assert found.condition_names == ("angle", "radius")
    each = points.sample(3, values=[[1.5, 1.2], [4, 2], [0, 1]])
    assert found.values is not None
    assert each.values is not None
    assert each.values[0].tobytes() == found.values[0].tobytes()
    assert each.values[1].tobytes() != found.values[1].tobytes()
    zero, none = points.sample(3, values=[1.5, 1.2], guidance=0), points.sample(3, values="none")
    assert zero.values is not None
    assert none.values is not None
    assert zero.values.tobytes() == none.values.tobytes() != found.values.tobytes()
    with pytest.raises(UsageError, match="angle, radius"):
        points.sample(3)


def test_a_model_that_goes_by_pictures(runs: Path) -> None:
    """The picture given decides; a small one is what a whole one becomes."""
    settings = {**DIGITS, "condition.image": {"kind": "LowResolution", "factor": 2}, "training.preview_every": 2}
    run = sfumato.train("digits", {**settings, "training.preview_count": 4}, runs=runs, name="super")
    assert len(list((run.folder / "samples").iterdir())) == 1
    model = enlarged(sfumato.load(run.folder))
    small = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), dtype=np.uint8)
    whole = small.repeat(2, axis=1).repeat(2, axis=2)
    drawn = pictures(model.sample(3, images=whole))
    assert np.abs(pictures(model.sample(3, images=small)).astype(int) - drawn).max() <= 1
    assert np.abs(pictures(model.sample(3, images=255 - whole)).astype(int) - drawn).max() > 1
    assert pictures(model.sample(1, images=whole[0]))[0].tobytes() == drawn[0].tobytes()
    refused = {
        "no picture": {},
        "a label": {"images": whole, "labels": 1},
        "guidance": {"images": whole, "guidance": 2},
    }
    for part, asked in refused.items():
        with pytest.raises(UsageError, match=part):
            model.sample(3, **asked)  # type: ignore[arg-type]


def test_previews_show_the_classes_in_turn(runs: Path) -> None:
    from PIL import Image

    settings = {**LABELS, "training.preview_every": 2, "training.preview_count": 12}
    run = sfumato.train("digits", settings, runs=runs, name="shown")
    model = sfumato.load(run.folder)
    (sheet,) = (run.folder / "samples").iterdir()
    config = replace(model.experiment.sampling, micro_batch=12)
    expected = pictures(model.sample(12, labels="all", config=config))
    with Image.open(sheet) as image:
        found = np.asarray(image)
    scale, tall, wide = 6, 8 * 6 + 2 + 14, 8 * 6 + 2  # TILE 48, gutter 2, caption 14, four columns
    for i in (0, 5, 11):
        top, left = 2 + i // 4 * tall, 2 + i % 4 * wide
        tile = found[top : top + 48 : scale, left : left + 48 : scale]
        assert np.abs(tile.astype(int) - expected[i, :, :, 0]).max() <= 1, i
        assert (found[top + 48 : top + 48 + 14, left : left + 48] < 128).any(), "the class is written below"


def test_what_a_preview_is_told() -> None:
    """Classes in turn; where numbers belong to each example, its own class goes with them."""
    drawn, numbers = torch.tensor([3, 3, 1, 0, 2]), torch.arange(5.0)[:, None]
    for values, expected in ((None, [0, 1, 2, 3, 0]), (numbers, drawn.tolist())):
        shown = preview_condition(Condition(drawn, values), 4)
        assert shown is not None
        assert shown.labels is not None
        assert shown.labels.tolist() == expected
        assert shown.values is values
    assert preview_condition(None, 4) is None


def test_a_guide_without_more_is_the_denoiser(model: sfumato.Model) -> None:
    """What a preview draws by is what samples are drawn by."""
    config = replace(model.experiment.sampling, micro_batch=4, guidance=2.0)
    cond = model.condition_of(Asked("all"), 4)
    drawn = draw(model.denoiser, model.record, config, count=4, seed=0, like=torch.empty(0), asked=Requests(cond))
    assert drawn.numpy().tobytes() == pictures(model.sample(4, labels="all", guidance=2)).tobytes()
    config = model.settings(autoguidance=2.0, weaker=str(model.folder))
    d = guide_of(model, model.denoiser, config).steered()
    assert isinstance(d, Clipped)
    assert isinstance(d.denoise, AutoGuided)
