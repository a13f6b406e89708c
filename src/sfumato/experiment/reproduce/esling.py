"""esling: six ways to learn a swiss roll, from score matching to DDPM (acids-ircam/diffusion_models, March 2021).

His printed losses are those of single batches of 16 points on a schedule that never ends in noise. They are shown; what
a run is held to is the exact value, from the law of the roll or from the very points (`experiment.published`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.experiment.reproduce.anchors import alpha_bar, parameters
from sfumato.experiment.reproduce.findings import ArmNumbers, Finding, Findings, Value
from sfumato.experiment.reproduce.source import Anchor, Base, Fault, Judgement, Part, Source

__all__ = ["ESLING", "AgainstTruth"]

NEAR = 0.05  # of the exact value


@dataclass(frozen=True, slots=True)
class AgainstTruth(Judgement):
    """A printed number beside what it should have been, exactly, and what the run came to.

    excess: what the difference to the exact value is made of, where it stays.
    """

    excess: str

    def findings(self, arms: Sequence[ArmNumbers]) -> Findings:
        return Findings(tuple(finding for arm in arms if (finding := self._finding(arm)) is not None))

    def _finding(self, arm: ArmNumbers) -> Finding | None:
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
        return judged(Finding(arm.labels, published.unit, there, here, "agrees", published.remark, should), self.excess)


def judged(finding: Finding, excess: str) -> Finding:
    """A finding with its verdict on the exact value: within two errors of it, or within a twentieth of its size."""
    should, here = finding.should, finding.here
    assert should is not None
    assert here is not None
    error = ((should.std_error or 0.0) ** 2 + (here.std_error or 0.0) ** 2) ** 0.5
    apart = here.value - should.value
    near = abs(apart) <= max(2 * error, NEAR * abs(should.value))
    held = f"{apart:+.3g} ± {error:.2g} from what it should have been"
    printed = f"there: {finding.why}"
    return Finding(
        finding.arm,
        finding.quantity,
        finding.there,
        here,
        "agrees" if near else "differs",
        held + ("" if near else f", {excess}") + f"; {printed}",
        should,
    )


def _part(name: str, excess: str) -> Part:
    """One of his experiments: as small as it is at both scales."""
    base = Base(name, (("training.preview_every", "0"),))
    return Part(name=name, small=base, full=Base(name), measures=(), judgement=AgainstTruth(excess), examples=10_000)


PERCEPTRON = "the error of a small perceptron on a score that changes sign within 0.05"
TABLES = "the price of Gaussian steps with a table of means and variances each, learned one by one"

ESLING = Source(
    name="esling",
    where="acids-ircam/diffusion_models, Ph. Esling, PyTorch notebooks, 2021",
    about="six losses on the swiss roll: exact, sliced and denoising score matching, two bounds, DDPM",
    anchored="roll-ddpm",
    parts=(
        _part("roll-score-exact", PERCEPTRON),
        _part("roll-score-sliced", PERCEPTRON),
        _part("roll-score-denoising", "of which the gradient, nearly all noise, learns least"),
        _part("roll-bound", TABLES),
        _part("roll-variational", TABLES),
        _part("roll-ddpm", "what the network has not learned"),
    ),
    anchors=(
        Anchor("parameters of the DDPM perceptron", 72_066, parameters),
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
        Fault("noise added at the last step; averaged weights never used", "none; sampled with averaged weights"),
        Fault("losses of a last batch of 16 points, no seed", "held-out points, with a standard error, seeded"),
    ),
    remarks=(
        "his printed losses are shown and not aimed at: another chain, and batches of 16 points",
        "his experiments are small: both scales are the same",
    ),
)
