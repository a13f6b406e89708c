"""EfficientNet-Lite0 without its classifier: 224×224 RGB to 1,280 features.

    x <- relu6(BN(conv 3×3, stride 2))                                                        3 -> 32 channels
    inverted bottlenecks:  x <- BN(conv 1×1(relu6(BN(depthwise k×k(relu6(BN(conv 1×1(x)))))))) (+ x where shapes agree)
    x <- relu6(BN(conv 1×1)),  320 -> 1,280;   features = mean over the 7×7 places

MobileNet's blocks (Sandler et al. 2018) in the proportions of EfficientNet-B0 (Tan & Le 2019, table 1) without
squeeze-and-excitation and with relu6, as its Lite variant has it. Padding is TensorFlow's "same": where a stride leaves
an odd number of pixels over, the extra one is at the lower right. Batch norm divides by sqrt(var + 0.001).
"""

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["SIDE", "WIDTH", "EfficientNetLite0Network"]

SIDE, WIDTH = 224, 1280
# repeats, kernel, stride of the first, expansion, channels out
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, EPS = 32, 1e-3


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """x (B, C, H, W) with zeros around it, so that a convolution without padding gives ceil(H/stride) rows."""
    pads: list[int] = []
    for side in (x.shape[3], x.shape[2]):  # functional.pad counts from the last dimension
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads)


class _Block(nn.Module):
    """One inverted bottleneck."""

    def __init__(self, channels: int, out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.kernel, self.stride, self.adds = kernel, stride, stride == 1 and channels == out
        self.expand_conv = None if expansion == 1 else nn.Conv2d(channels, wide, 1, bias=False)
        self.bn0 = None if expansion == 1 else nn.BatchNorm2d(wide, eps=EPS)
        self.depthwise_conv = nn.Conv2d(wide, wide, kernel, stride=stride, groups=wide, bias=False)
        self.bn1 = nn.BatchNorm2d(wide, eps=EPS)
        self.project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expand_conv is not None and self.bn0 is not None:
            y = functional.relu6(self.bn0(self.expand_conv(y)))
        y = functional.relu6(self.bn1(self.depthwise_conv(same(y, self.kernel, self.stride))))
        y = self.bn2(self.project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0Network(nn.Module):
    """The network of this module: float (B, 3, 224, 224), levels (v - 127)/128, to (B, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, STEM, 3, stride=2, bias=False)
        self.bn0 = nn.BatchNorm2d(STEM, eps=EPS)
        blocks, channels = [], STEM
        for repeats, kernel, stride, expansion, out in STAGES:
            for index in range(repeats):
                first = stride if index == 0 else 1
                blocks.append(_Block(channels, out, kernel=kernel, stride=first, expansion=expansion))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = nn.Conv2d(channels, WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.bn0(self.conv_stem(same(x, 3, 2))))
        for block in self.blocks:
            x = block(x)
        return functional.relu6(self.bn1(self.conv_head(x))).mean((2, 3))
