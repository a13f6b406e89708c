"""Samplers: methods that walk from noise to data, and the grids of times they walk on."""

from sfumato.samplers.adaptive import DormandPrince
from sfumato.samplers.ancestral import Ancestral
from sfumato.samplers.base import Sampler, Step, Stepped, sample
from sfumato.samplers.ddim import Ddim
from sfumato.samplers.dpmpp_sde import Dpmpp2MSde, Dpmpp3MSde, DpmppSde
from sfumato.samplers.euler_maruyama import EulerMaruyama
from sfumato.samplers.grids import Karras, Leading, Linspace, Quadratic, TimeGrid, Trailing, UniformLogSnr
from sfumato.samplers.heun import Dpm2, Heun
from sfumato.samplers.interpolation import slerp
from sfumato.samplers.inversion import RoundTrip, decode, encode, inversion_times, round_trip
from sfumato.samplers.langevin import AnnealedLangevin, Langevin, langevin, score_at
from sfumato.samplers.multistep import Deis, Dpmpp2M, Dpmpp3M
from sfumato.samplers.predictor_corrector import PredictorCorrector
from sfumato.samplers.repaint import Move, repaint, repaint_moves
from sfumato.samplers.singlestep import Dpmpp2S
from sfumato.samplers.unipc import UniPc
from sfumato.samplers.variation import times_below, vary

__all__ = [
    "Ancestral",
    "AnnealedLangevin",
    "Ddim",
    "Deis",
    "DormandPrince",
    "Dpm2",
    "Dpmpp2M",
    "Dpmpp2MSde",
    "Dpmpp2S",
    "Dpmpp3M",
    "Dpmpp3MSde",
    "DpmppSde",
    "EulerMaruyama",
    "Heun",
    "Karras",
    "Langevin",
    "Leading",
    "Linspace",
    "Move",
    "PredictorCorrector",
    "Quadratic",
    "RoundTrip",
    "Sampler",
    "Step",
    "Stepped",
    "TimeGrid",
    "Trailing",
    "UniPc",
    "UniformLogSnr",
    "decode",
    "encode",
    "inversion_times",
    "langevin",
    "repaint",
    "repaint_moves",
    "round_trip",
    "sample",
    "score_at",
    "slerp",
    "times_below",
    "vary",
]
