"""esling: six ways to learn a swiss roll, from score matching to DDPM (acids-ircam/diffusion_models, March 2021).

His printed losses are those of single batches of 16 points on a schedule that never ends in noise. They are shown; what
a run is held to is the exact value, from the law of the roll or from the very points (`experiment.published`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sfumato.experiment.reproduce.anchors import alpha_bar, parameters
from sfumato.experiment.reproduce.findings import ArmNumbers, Finding, Findings, Value, Verdict
from sfumato.experiment.reproduce.seeds import blocks_of
from sfumato.experiment.reproduce.source import Anchor, Base, Fault, Judgement, Pairs, Part, Source

__all__ = ["ESLING", "AgainstTruth", "judged", "over_seeds"]

NEAR = 0.05  # of all that there is to learn
WIDE = 0.25  # of it: a value that is not known better can be near to anything


@dataclass(frozen=True, slots=True)
class AgainstTruth(Judgement):
    """A printed number beside what it should have been, exactly, and what the run came to: a mean over seeds.

    excess: what the difference to the exact value is made of, where it stays.
    untaught: what a network that has learned nothing comes to; how near a value is, is counted in the way from there.
    """

    excess: str
    untaught: float = 0.0

    def findings(self, arms: Sequence[ArmNumbers]) -> Findings:
        each = [self._finding(arm) for arm in arms]
        told = [one for one in each if one.should is not None and one.here is not None]
        if told:
            return Findings((judged(over_seeds(told), self.excess, self.untaught),))
        return Findings(tuple(each[:1]))

    def _finding(self, arm: ArmNumbers) -> Finding:
        from sfumato.experiment.published import compare_with_source
        from sfumato.experiment.run import resume

        compared = compare_with_source(resume(arm.folder))
        if compared is None:
            return Finding(arm.labels, arm.part, None, None, "not compared", "another experiment than the source's")
        published, truth, found = compared.published, compared.truth, compared.found
        there = Value(published.printed[-1]) if published.printed else None
        should = Value(truth.value, truth.std_error)
        if found is None:
            return Finding(arm.labels, published.unit, there, None, "not compared", "nothing was held out", should)
        here = Value(found.value, found.std_error)
        return Finding(arm.labels, published.unit, there, here, "cannot tell", published.remark, should)


def over_seeds(each: Sequence[Finding]) -> Finding:
    """The same finding of several seeds: the mean of the exact values, and ours by its mean way from them.

    The points of a seed move both, so that only the way from one to the other scatters with training and measuring.
    """
    first = each[0]
    if len(each) == 1:
        return first
    exact = [one.should for one in each if one.should is not None]
    ours = [one.here for one in each if one.here is not None]
    should = math.fsum(value.value for value in exact) / len(each)
    error = math.sqrt(math.fsum((value.std_error or 0.0) ** 2 for value in exact)) / len(each)
    apart = blocks_of({first.arm: [a.value - b.value for a, b in zip(ours, exact, strict=True)]})
    here = Value(should + apart.means[first.arm], apart.error, degrees=len(each) - 1)
    return replace(first, here=here, should=Value(should, error))


def judged(finding: Finding, excess: str, untaught: float = 0.0) -> Finding:
    """A finding with its verdict on the exact value.

    Near is within the error, or within a twentieth of the way that learning has to go: from `untaught`, what a network
    that has learned nothing comes to, to the exact value. To agree, the error must be a quarter of that way or less.
    """
    should, here = finding.should, finding.here
    assert should is not None
    assert here is not None
    way = abs(untaught - should.value)
    room = math.hypot(should.room, here.room)
    apart = here.value - should.value
    error = math.hypot(should.std_error or 0.0, here.std_error or 0.0)
    held = f"{apart:+.3g} ± {error:.2g} from what it should have been"
    held += f", {apart / way:+.1%} of the way from {untaught:.4g}, which knowing nothing costs" if way else ""
    verdict: Verdict = "agrees"
    if not abs(apart) <= max(room, NEAR * way):
        verdict, held = "differs", f"{held}: {excess}"
    elif room > WIDE * way:
        verdict, held = "cannot tell", f"{held}: the error leaves room for anything"
    return replace(finding, verdict=verdict, why=f"{held}; there: {finding.why}")


def _part(name: str, excess: str, own: Pairs, untaught: float = 0.0) -> Part:
    """One of his experiments: ours in a few minutes, or his own length, batches and rate."""
    small = Base(name, (("training.preview_every", "0"),))
    own = (("training.learning_rate", "1e-3"), ("training.decay", "constant"), *own)
    return Part(name, small, Base(name, own), (), AgainstTruth(excess, untaught), examples=10_000)


# 10,000 points in batches of 128 are 79 steps an epoch; a tenth is held out here, so that a full batch is of 9,000.
EPOCHS_5001 = (("training.steps", "395079"), ("training.batch_size", "128"))
EPOCHS_1000 = (("training.steps", "79000"), ("training.batch_size", "128"))
FULL_BATCH_5000 = (("training.steps", "5000"), ("training.batch_size", "9000"))
FULL_BATCH_2000 = (("training.steps", "2000"), ("training.batch_size", "9000"))
NOTHING_IN_NATS = 0.5 * math.log(2 * math.pi) + 0.5 * 0.483  # points of mean square 0.483, as if drawn from N(0, 1)
PERCEPTRON = "the error of a small perceptron on a score that changes sign within 0.05"
TABLES = "the price of Gaussian steps with a table of means and variances each, learned one by one"

ESLING = Source(
    name="esling",
    where="acids-ircam/diffusion_models, Ph. Esling, PyTorch notebooks, 2021",
    about="six losses on the swiss roll: exact, sliced and denoising score matching, two bounds, DDPM",
    anchored="roll-ddpm",
    parts=(
        _part("roll-score-exact", PERCEPTRON, FULL_BATCH_2000),
        _part("roll-score-sliced", PERCEPTRON, FULL_BATCH_2000),
        _part("roll-score-denoising", "its gradient is nearly all noise", FULL_BATCH_5000, untaught=10_000.0),
        _part("roll-bound", TABLES, EPOCHS_5001),
        _part("roll-variational", TABLES, EPOCHS_5001, untaught=NOTHING_IN_NATS),
        _part("roll-ddpm", "what the network has not learned", EPOCHS_1000, untaught=1.0),
    ),
    anchors=(
        Anchor("parameters of the DDPM perceptron", 72_066, parameters),
        Anchor("parameters of the perceptron of mean and variance", 43_012, parameters, part="roll-bound"),
        Anchor("parameters of the perceptron of a score", 17_154, parameters, part="roll-score-denoising"),
        Anchor("alpha² at the end of the chain", 0.604954, alpha_bar(1.0), mended=True),
    ),
    faults=(
        Fault("Langevin noise uniform on [0, 1), which drifts by 0.126 per coordinate in 10 steps", "Gaussian"),
        Fault(
            "the naive chain: uniform noise, and beta in place of its root; 100 steps end in one point",
            "N(sqrt(1 - beta) x, beta)",
        ),
        Fault(
            "a schedule that ends at alpha² = 0.605, while sampling starts from N(0, I)",
            "refused unless it is allowed; the recipes end at 3e-4",
        ),
        Fault(
            "denoising score matching at sigma 0.01, printed as 10,000 ± 100: the noise's own part",
            "the same loss beside that part, D/(2 sigma²), and what of it can be learned",
        ),
        Fault("sliced score matching with Σ (v_i s_i)², divided by 4", "(v·s)², or the variance-reduced |s|², summed"),
        Fault("the bound of 2015 with T terms; log-variances called variances", "T - 1 terms, entropies exact"),
        Fault(
            "a variational loss that cannot run: two outputs of four, no prior term, a decoder for bytes on points",
            "the whole bound, with a Gaussian decoder",
        ),
        Fault("beta from 1e-5: too fine a first step for the network of a bound", "the two bounds begin at 1e-3"),
        Fault(
            "in the text q(x_t|x_0) is called q(x_t|x_(t-1)), the posterior has the root of alpha-bar for that of "
            "alpha, and the score of the noise lacks its minus sign",
            "as derived, and as his code has it",
        ),
        Fault("noise added at the last step", "none there"),
        Fault("averages of the last ten steps, never used", "of a thousand steps, 200 for scores; used"),
        Fault("losses of a last batch of 16 points, no seed", "held-out points, with a standard error, seeded"),
        Fault("panels titled 100 … 1000 show steps 10 … 100; none is saved", "`sfumato figures reverse`"),
    ),
    remarks=(
        "his printed losses are shown and not aimed at: another chain, and batches of 16 points; the outputs stored in "
        "his notebook end in 9974.66 where the text has 10120.43 (denoising), in 1.8195 for 1.0092 (the bound) and in "
        "1.1096 for 0.6791 (L_simple)",
        "small scale has our lengths, batches and rates, full scale his: Adam at 1e-3; batches of 128 for 1,000 epochs "
        "(DDPM) or 5,001 (bounds); all points at once for 5,000 steps (denoising), or 2,000 (exact and sliced, whose "
        "notebook cannot be read: as its ports have it)",
        "a row of gains for each step, uniform at first, is kept as his layout: no step learns from its neighbours, "
        "and the network goes with one T",
    ),
)
