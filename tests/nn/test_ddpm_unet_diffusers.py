"""The U-Net with diffusers' weights and diffusers' with ours: strict loading both ways, and the same outputs."""

import math

import pytest
import torch
from torch import nn

from sfumato.condition import Condition, ConditionShape
from sfumato.nn import DdpmUNetConfig
from sfumato.nn.resnet import Halve, ResnetBlock


def theirs(c: DdpmUNetConfig, shape: tuple[int, ...], classes: int = 0) -> nn.Module:
    """diffusers' network of the same layout."""
    diffusers = pytest.importorskip("diffusers")
    down = {True: "AttnDownBlock2D", False: "DownBlock2D"}
    up = {True: "AttnUpBlock2D", False: "UpBlock2D"}
    if c.resample_in_blocks:
        down[False], up[False] = "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
    attends = [shape[1] // 2**k in c.attention for k in range(len(c.widths))]
    how = "resnet" if c.resample_in_blocks else "conv"
    network: nn.Module = diffusers.UNet2DModel(
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=c.widths,
        layers_per_block=c.blocks,
        down_block_types=tuple(down[a] for a in attends),
        up_block_types=tuple(up[a] for a in reversed(attends)),
        downsample_type=how,
        upsample_type=how,
        norm_num_groups=c.groups,
        attn_norm_num_groups=c.groups,
        attention_head_dim=c.head_width,
        add_attention=c.mid_attention,
        resnet_time_scale_shift="scale_shift" if c.film else "default",
        dropout=c.dropout,
        num_class_embeds=classes + 1 if classes else None,
    )
    return network.eval()


CASES: dict[str, tuple[tuple[int, ...], DdpmUNetConfig, int]] = {
    "cifar": ((3, 32, 32), DdpmUNetConfig(), 0),
    "three levels": ((3, 16, 16), DdpmUNetConfig(widths=(16, 32, 32), attention=(8,), num_groups=8), 0),
    "classes": ((3, 8, 8), DdpmUNetConfig(widths=(16, 32), attention=(4,), num_groups=8), 5),
    "film": ((3, 8, 8), DdpmUNetConfig(widths=(16, 32), attention=(8,), num_groups=8, film=True), 0),
    "grey": ((1, 28, 28), DdpmUNetConfig(widths=(16, 24, 32), attention=(14,), num_groups=8), 0),
    "heads": ((3, 8, 12), DdpmUNetConfig(widths=(16, 32), attention=(4, 8), head_width=8, num_groups=4), 0),
    "resampling blocks": (
        (3, 8, 8),
        DdpmUNetConfig(widths=(16, 32, 32), attention=(4,), num_groups=8, resample_in_blocks=True, film=True),
        4,
    ),
    "no attention": ((3, 8, 8), DdpmUNetConfig(widths=(16, 32), attention=(), mid_attention=False, num_groups=8), 0),
}


@pytest.mark.parametrize(
    ("case", "direction"),
    [("cifar", "to diffusers")]
    + [(case, direction) for case in list(CASES)[1:] for direction in ("to diffusers", "from diffusers")],
)
def test_weights_go_both_ways(case: str, direction: str) -> None:
    """Strict loading, and outputs that agree to the rounding of float32 at any step of a thousand."""
    shape, config, classes = CASES[case]
    peer = theirs(config, shape, classes)
    torch.manual_seed(1)
    condition = ConditionShape(num_classes=classes)
    network = config.build(shape, steps=1000, time_span=1000.0, condition=condition).eval()
    source, goal = (network, peer) if direction == "to diffusers" else (peer, network)
    goal.load_state_dict(source.state_dict(), strict=True)
    x, index = torch.randn(3, *shape), torch.tensor([0, 437, 999])
    labels = torch.tensor([0, classes - 1, classes])  # the last one is the null row
    cond = Condition(labels.clamp(max=classes - 1), dropped=labels == classes) if classes else None
    with torch.no_grad():
        expected = peer(x, index, *([labels] if classes else [])).sample
        found = network(x, index.float(), cond)
    assert float(expected.std()) > 0.05  # something to agree on
    # Outputs are of size 1, through up to 60 layers of float32; measured 1.7e-6 for the large one.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_residual_scale_and_blocks_against_diffusers() -> None:
    """`residual_scale` is 1/output_scale_factor, which their U-Net does not hand on; so block against block."""
    resnet = pytest.importorskip("diffusers.models.resnet")
    torch.manual_seed(0)
    block = ResnetBlock(8, 12, embedding=16, groups=4, residual_scale=math.sqrt(0.5), resample=Halve())
    peer = resnet.ResnetBlock2D(
        in_channels=8,
        out_channels=12,
        temb_channels=16,
        groups=4,
        eps=1e-5,
        output_scale_factor=math.sqrt(2),
        down=True,
    ).eval()
    peer.load_state_dict(block.state_dict(), strict=True)
    x, embedding = torch.randn(2, 8, 6, 4), torch.randn(2, 16)
    # two orders of rounding in float32
    torch.testing.assert_close(block(x, nn.functional.silu(embedding)), peer(x, embedding), rtol=0, atol=1e-6)
