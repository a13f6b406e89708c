"""Exponential moving average of the weights, kept beside them and never swapped in.

    shadow_n = d_n shadow_{n-1} + (1 - d_n) live,        d_n = min(decay, (1 + n) / (10 + n)),   n = 0, 1, 2, …

With constant weights w and a first shadow w_0 this is w + (prod_k d_k)(w_0 - w). The warm-up lets the average forget
the random start: without it the first 1/(1 - decay) updates are mostly noise. What is averaged, and in which dtype, is
said in `shadows`.
"""

from collections.abc import Mapping
from typing import final

from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.training.shadows import Shadows, bare_state

__all__ = ["Ema", "bare_state"]


@final
class Ema:
    """Moving average of a module's parameters and buffers. `decay` in [0, 1); half-life ln 2 / (1 - decay) updates."""

    def __init__(self, module: nn.Module, *, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise ConfigError(f"the EMA decay is {decay!r}", expected="0 <= decay < 1", fix="for example 0.999")
        self.decay = decay
        self.warmup = warmup
        self._calls = 0
        self._shadows = Shadows(module)

    @property
    def num_updates(self) -> int:
        """Calls of `update` so far, skipped ones included: counted on the host, so that no device is waited for."""
        return self._calls

    @property
    def next_decay(self) -> float:
        """d_n of the next update."""
        return min(self.decay, (1 + self._calls) / (10 + self._calls)) if self.warmup else self.decay

    def update(self, module: nn.Module, skip: Tensor | None = None) -> None:
        """Average the module's present tensors in; nothing moves where `skip` is true. See `Shadows.move`."""
        self._shadows.move(module, 1.0 - self.next_decay, skip)
        self._calls += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The averages (not copied), under the names of the bare module. `num_updates` and `decay` are stored apart."""
        return self._shadows.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor], *, num_updates: int) -> None:
        """Take up stored averages. A `CheckpointError` names all missing, unexpected or misshapen and loads nothing."""
        self._shadows.load_state_dict(tensors)
        self._calls = num_updates

    def copy_to(self, module: nn.Module) -> None:
        """Write the averages into another module of the same kind (a copy for evaluation), which may be wrapped."""
        self._shadows.copy_to(module)
