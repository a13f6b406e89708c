"""arnason: MNIST with and without labels in 200 steps (a report of O. I. Arnason, DTU; no code).

The one number is that 11 of 30 unconditional samples are a 1 or a 7; of MNIST 21.7 % are. The report suspects the
likelihood. Its chain has 200 of the 1000-step betas and ends at alpha² = 0.132, from where sampling cannot start: so
the chain is an arm, as it was and mended, with labels and without.
"""

from sfumato.experiment.reproduce.anchors import alpha_bar, gap_bits, widest_join, with_labels
from sfumato.experiment.reproduce.judgements import Column, Held, Printed
from sfumato.experiment.reproduce.source import Anchor, Base, Choice, Fault, Measure, Part, Source

__all__ = ["ARNASON"]

SAID, OF = 11, 30  # samples that are a 1 or a 7
SHARE = SAID / OF
ERROR = (SHARE * (1 - SHARE) / OF) ** 0.5
MEAN_SQUARE = 0.9253  # of MNIST's pixels on [-1, 1]
AS_THERE, MENDED = "his chain", "mended chain"
TOLD, UNTOLD = "labels", "no labels"

ARNASON = Source(
    name="arnason",
    where="a report of O. I. Arnason, Technical University of Denmark; its code cannot be had",
    about="MNIST in 200 steps, with and without labels, with his chain and with one that ends in noise",
    parts=(
        Part(
            name="mnist",
            small=Base(
                "mnist-bottleneck-small",
                (
                    *(("training.steps", "2000"), ("training.checkpoint_every", "500")),
                    *(("training.evaluate_every", "500"), ("training.preview_every", "2000")),
                    ("allow_terminal_signal", "true"),
                    ("sampling.precision", "bfloat16"),
                ),
            ),
            full=Base("mnist-bottleneck", (("allow_terminal_signal", "true"),)),
            measures=(
                Measure(("class_balance", "class_shares"), small=1000, full=5000),
                Measure(("label_agreement",), small=300, full=2000, where=(("condition.labels", "true"),)),
                Measure(("bits_per_dim",), small=0, full=200),
            ),
            judgement=Printed(
                (
                    Column(
                        "share of 1 and 7",
                        ("class_shares[1]", "class_shares[7]"),
                        perfect=("class_shares[1][real]", "class_shares[7][real]"),
                        printed={(UNTOLD, AS_THERE): SHARE, (UNTOLD, MENDED): SHARE},
                        errors={(UNTOLD, AS_THERE): ERROR, (UNTOLD, MENDED): ERROR},
                        rule=Held(0.0, anywhere=True),
                    ),
                    Column("total variation of the classes", ("class_balance",), perfect=("class_balance[floor]",)),
                    Column(
                        "labels asked for that are seen",
                        ("label_agreement",),
                        perfect=("label_agreement[real]",),
                        where=TOLD,
                    ),
                    Column("bits per dimension", ("bits_per_dim",)),
                )
            ),
            told=("class_balance",),
            choices=(
                Choice("condition.labels", "network", {"false": UNTOLD, "true": TOLD}),
                Choice("schedule.betas.rescale", "chain", {"false": AS_THERE, "true": MENDED}),
            ),
        ),
    ),
    anchors=(
        Anchor("channels at the bottom, without a label", 384, widest_join),
        Anchor("the same with a label", 512, with_labels(widest_join)),
        Anchor("alpha² after 200 steps", 0.13218, alpha_bar(1.0), mended=True),
        Anchor("bits per picture that this gap costs", 74.6, gap_bits(28 * 28, MEAN_SQUARE), mended=True),
        Anchor("alpha² after 200 steps with his betas", 0.13218, alpha_bar(1.0, **{"schedule.betas.rescale": "false"})),
    ),
    faults=(
        Fault(
            "T = 200 with betas made for 1000 steps: the chain ends at alpha² = 0.132, and sampling starts from noise "
            "that no training step has seen",
            "betas times 1000/T; his chain is kept as an arm of its own, to see what it does",
        ),
        Fault("the posterior mean printed with the root of alpha for that of alpha-bar", "as derived"),
        Fault("said to predict x_(t-1), with a loss on the noise", "the noise"),
        Fault("a raw step index into a perceptron", "a share of the span"),
        Fault("labels never left out, so that nothing can be guided", "left out in a tenth of the examples"),
        Fault("30 samples looked at", "1,000 or more, judged by a classifier, with errors and a floor"),
        Fault(
            "no measure of quality at all", "shares of the classes; at full scale bits per dimension, as was wished for"
        ),
    ),
    remarks=(
        "layer sizes, optimizer and length are not stated: full scale is our guess, and the share of ones and sevens "
        "is compared at any scale",
        "time and label enter at the bottom only, with batch norm: kept, as its layout",
        f"{SAID} of {OF} is weak evidence: of MNIST's own digits as many or more are a 1 or a 7 in one of 23 such sets",
    ),
)
