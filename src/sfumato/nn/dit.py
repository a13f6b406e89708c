"""A diffusion transformer: a plain transformer over patches, told time and condition through its layer norms.

    tokens   patches of p × p pixels, W_in · patch + b, plus fixed sines and cosines of the patch's row and column
    c        = MLP(sinusoids of the time) + embedding of the class + embedding of the values
    block    (β₁, γ₁, α₁, β₂, γ₂, α₂) = A silu(c) + a
             h ← h + α₁ · attention((1 + γ₁) LN(h) + β₁)
             h ← h + α₂ · MLP((1 + γ₂) LN(h) + β₂)          MLP: width → ratio · width → width with GELU
    output   (β, γ) = A' silu(c) + a';   patch = W_out ((1 + γ) LN(h) + β) + b_out

LN has no weights of its own. A, A', W_out and their biases start at zero ("adaLN-zero"): every block starts as the
identity and the untrained network returns exactly 0. A picture to go by is joined to x_t along the channels before the
cut into patches. With D = width, F = ratio · D, L blocks, C channels in and C_out out, K classes, p^n pixels a patch:

    parameters = L (4 D² + 4 D + 2 D F + D + F + 6 D² + 6 D) + 2 D² + 2 D + (D + 1) p^n C_out
                 + (C p^n + 1) D + (256 + 1) D + (D + 1) D + (K + 1) D

which is 33 M, 130 M, 458 M and 675 M for the sizes S, B, L and XL of the paper, with p = 2 on 4 × 32 × 32 latents of
1000 classes and a learned variance. Nothing depends on the number of axes: signals (C, L) are cut in the same way.
Source: Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", sections 3.2 and 4; normalised queries and
keys: Dehghani et al. 2023, "Scaling Vision Transformers to 22 Billion Parameters", section 2.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfumato.condition import NO_CONDITION, Condition, ConditionShape
from sfumato.errors import ConfigError
from sfumato.nn.attention import HeadNorm
from sfumato.nn.conditioning import ConditionEmbedding, joined, require_understood
from sfumato.nn.config import NetworkConfig, require_positive
from sfumato.nn.dot_product import attend
from sfumato.nn.embeddings import log_spaced_frequencies, sinusoidal_embedding

__all__ = ["Dit", "DitConfig", "grid_positions", "patched", "unpatched"]

TIME_FEATURES = 256
# Vaswani's frequencies, 1 to 1/10,000 radian per step, on the paper's 1000 steps: in turns over the span of the time.
HIGHEST = 1000 / (2 * math.pi)
LOWEST = HIGHEST / 10_000


@dataclass(frozen=True, slots=True)
class DitConfig(NetworkConfig):
    """A diffusion transformer, for images and sequences of any size that patches divide; best on a GPU.

    patch: side of a patch in pixels; halving it makes four times as many tokens of an image.
    width: numbers per token.
    depth: blocks of attention and perceptron.
    heads: attention heads per block; they share the width among them.
    mlp_ratio: width of a perceptron's hidden layer in widths.
    qk_norm: whether queries and keys are normalised per head, which keeps attention in bounds at large learning rates.
    """

    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    qk_norm: bool = False

    def __post_init__(self) -> None:
        for name in ("patch", "width", "depth", "heads"):
            require_positive(name, getattr(self, name))
        if self.width % self.heads:
            raise ConfigError(
                f"network.width is {self.width} for {self.heads} network.heads",
                expected="a width that the heads divide",
                fix=f"set network.width: {math.ceil(self.width / self.heads) * self.heads}, or change network.heads",
            )
        if not (math.isfinite(self.mlp_ratio) and self.mlp_ratio * self.width >= 1):
            raise ConfigError(
                f"network.mlp_ratio is {self.mlp_ratio}",
                expected="a positive number (4 in the paper)",
                fix="set network.mlp_ratio: 4",
            )

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless `shape` is (C, *space) with sizes in multiples of the patch."""
        if len(shape) < 2:
            raise ConfigError(
                f"network Dit was given data of shape {shape}",
                expected="images (channels, height, width) or sequences (channels, length)",
                fix="choose network: FourierMlp for points and vectors",
            )
        require_patches(shape[1:], self.patch)
        parts = 2 * (len(shape) - 1)
        if self.width % parts:
            common = math.lcm(parts, self.heads)
            raise ConfigError(
                f"network.width is {self.width}",
                expected=f"a multiple of {parts}: sines and cosines of a position along each of {len(shape) - 1} axes",
                fix=f"set network.width: {common * math.ceil(self.width / common)}",
            )

    def build(
        self,
        shape: tuple[int, ...],
        *,
        steps: int | None,
        time_span: float,
        out_channels: int | None = None,
        condition: ConditionShape = NO_CONDITION,
    ) -> "Dit":
        """Make the network; any number of `steps` will do, since it sees the time only through its embedding."""
        self.check(shape)
        return Dit(
            shape[0],
            shape[0] if out_channels is None else out_channels,
            config=self,
            axes=len(shape) - 1,
            time_span=time_span,
            condition=condition,
        )


def require_patches(space: tuple[int, ...], patch: int) -> None:
    """Raise ConfigError unless every size of `space` is a positive multiple of `patch`, naming the nearest ones."""
    if all(n > 0 and n % patch == 0 for n in space):
        return
    smaller = [max(patch, n // patch * patch) for n in space]
    larger = [max(patch, math.ceil(n / patch) * patch) for n in space]
    nearest = dict.fromkeys("x".join(map(str, sizes)) for sizes in (smaller, larger))
    resize = f"set data.pad: {larger} (samples are cropped back), change data.size, or " if len(space) == 2 else ""
    raise ConfigError(
        f"examples of {'x'.join(map(str, space))} are not made of patches of network.patch = {patch}",
        expected=f"sizes in multiples of {patch}; nearest: {' or '.join(nearest)}",
        fix=f"{resize}set network.patch to a divisor of {math.gcd(*space)}",
    )


def patched(x: Tensor, patch: int) -> Tensor:
    """Cut (B, C, n_1 p, …, n_a p) into tokens (B, n_1 ⋯ n_a, C p^a): rows first; in a token, channels first."""
    axes = x.ndim - 2
    cut = x.reshape(*x.shape[:2], *(n for size in x.shape[2:] for n in (size // patch, patch)))
    which, within = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
    return cut.permute(0, *which, 1, *within).flatten(1 + axes).flatten(1, axes)


def unpatched(tokens: Tensor, patch: int, grid: tuple[int, ...]) -> Tensor:
    """The inverse of `patched` for `grid` = (n_1, …, n_a) patches."""
    axes = len(grid)
    cut = tokens.reshape(len(tokens), *grid, -1, *[patch] * axes)
    pairs = [axis for i in range(axes) for axis in (1 + i, 2 + axes + i)]
    return cut.permute(0, 1 + axes, *pairs).reshape(len(tokens), cut.shape[1 + axes], *(n * patch for n in grid))


def grid_positions(grid: tuple[int, ...], width: int, *, like: Tensor) -> Tensor:
    """Sines, then cosines, of each coordinate of a grid's points: (n_1 ⋯ n_a, width), not below float32.

    A coordinate k ∈ {0, 1, …} fills width/a numbers: sin k ω_i, cos k ω_i with ω_i = 10,000^(−i/m), i < m = width/(2a).
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    each = width // len(grid)
    exponents = torch.arange(each // 2, dtype=dtype, device=like.device) / (each // 2)
    parts = []
    for axis, size in enumerate(grid):
        angles = torch.arange(size, dtype=dtype, device=like.device)[:, None] * 10_000.0**-exponents
        along = torch.cat([angles.sin(), angles.cos()], dim=1)
        shape = [size if i == axis else 1 for i in range(len(grid))]
        parts.append(along.view(*shape, each).expand(*grid, each))
    return torch.cat(parts, dim=-1).reshape(-1, width)


class TimeEmbedding(nn.Module):
    """W_2 silu(W_1 s + b_1) + b_2 of 256 sinusoids s of the time: (B,) → (B, width)."""

    def __init__(self, width: int, time_span: float) -> None:
        super().__init__()
        self.time_span = time_span
        self.linear_1 = nn.Linear(TIME_FEATURES, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """The embedding of `time`, in the unit whose range is `time_span` long."""
        frequencies = log_spaced_frequencies(TIME_FEATURES // 2, lowest=LOWEST, highest=HIGHEST, like=time)
        features = sinusoidal_embedding(time, frequencies / self.time_span)
        return self.linear_2(functional.silu(self.linear_1(features.to(self.linear_1.weight.dtype))))


class TokenAttention(nn.Module):
    """Self-attention over tokens: (B, N, D) → (B, N, D)."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.q_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, h: Tensor, *, twice: bool) -> Tensor:
        """Every token looks at every other; `twice`: the result can be differentiated twice."""
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = attend(self.q_norm(q), self.k_norm(k), v, twice=twice)
        return self.out(found.transpose(1, 2).flatten(2))


class DitBlock(nn.Module):
    """Attention, then a perceptron, each on a shifted and scaled layer norm, each behind a gate that starts shut."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        width, hidden = config.width, round(config.mlp_ratio * config.width)
        self.attention = TokenAttention(width, config.heads, qk_norm=config.qk_norm)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, h: Tensor, c: Tensor, *, twice: bool) -> Tensor:
        """(B, N, D) and silu of the embedding (B, D) → (B, N, D)."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(c)[:, None].chunk(6, dim=2)
        h = h + gate_1 * self.attention(modulated(h, shift_1, scale_1), twice=twice)
        return h + gate_2 * self.mlp(modulated(h, shift_2, scale_2))


def modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) LN(h) + shift, with LN over the last axis of (B, N, D)."""
    return functional.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Dit(nn.Module):
    """The transformer of this module: (B, C, *space), time (B,) and a condition → (B, C_out, *space)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        config: DitConfig,
        axes: int,
        time_span: float,
        condition: ConditionShape,
    ) -> None:
        super().__init__()
        self.patch, self.takes = config.patch, condition
        pixels = config.patch**axes
        self.embed = nn.Linear((in_channels + condition.image_channels) * pixels, config.width)
        self.time_embedding = TimeEmbedding(config.width, time_span)
        self.blocks = nn.ModuleList(DitBlock(config) for _ in range(config.depth))
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.unembed = nn.Linear(config.width, out_channels * pixels)
        self._initialise()
        self.condition_embedding = ConditionEmbedding(condition, config.width)

    def _initialise(self) -> None:
        """Linear maps that keep the size of their input on average, and zeros where the network starts from."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        modulations = [block.modulation for block in self.blocks if isinstance(block, DitBlock)]
        for linear in (*modulations, self.modulation, self.unembed):
            nn.init.zeros_(linear.weight)

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None = None) -> Tensor:
        """Predict for noisy `x` at `time`; examples without a condition, or dropped, are unconditional."""
        require_patches(tuple(x.shape[2:]), self.patch)
        require_understood(self, cond, self.takes, len(x))
        grid = tuple(size // self.patch for size in x.shape[2:])
        h = self.embed(patched(joined(x, cond, self.takes.image_channels), self.patch))
        # The sum is at least float32, and so the stream that the blocks add to is float32 under autocast too.
        h = h + grid_positions(grid, h.shape[2], like=h)
        c = self.time_embedding(time)
        told = self.condition_embedding(cond, len(x))
        c = functional.silu(c if told is None else c + told)
        for block in self.blocks:
            h = block(h, c, twice=x.requires_grad)
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=2)
        return unpatched(self.unembed(modulated(h, shift, scale)), self.patch, grid)
