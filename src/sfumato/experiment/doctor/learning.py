"""Two examples learnt by heart: whether gradients reach every layer, and whether the loss falls when they do.

Two training examples, each with four noises, at times drawn once and kept, are one batch on which the network is
trained again and again. Every draw being fixed, the target is a function of the input, and a denoising loss can go to
0: where it does not, the settings or the network are at fault and not the data. The rate is the doctor's own, 1e-3
after a warm-up of ten steps, and not that of the settings, which `--lr` judges.

Gradient flow is measured in the same steps. A layer that no step gave a gradient is dead: the last layer of many
networks starts at 0 and lets nothing through in the first step, so that more than one is looked at. Adam moves a
weight by rate · m/(sqrt(v) + 1e-8), so that gradients around 1e-8 are lost in its 1e-8.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.condition import Condition
from sfumato.core import batch_noise, derived_generator, derived_seed
from sfumato.data import evenly_from
from sfumato.experiment.session import Session
from sfumato.objectives import Draw
from sfumato.training.conditioner import Examples
from sfumato.training.step import gradient_norm, make_optimizer
from sfumato.training.tensors import silent_progress

__all__ = ["Layer", "Learning", "Tally", "overfit"]
