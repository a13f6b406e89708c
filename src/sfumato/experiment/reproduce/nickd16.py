"""nickd16: DDPM on MNIST with attention (nickd16/Diffusion-Models-from-Scratch, July 2024).

No number is printed; sizes are counted in the code. Dropout is 0.1 in the article and 0.0 in the code: both are arms.
The second network of the code, a perceptron on flat pictures, is a part of its own.
"""

from sfumato.experiment.reproduce.anchors import alpha_bar, parameters
from sfumato.experiment.reproduce.judgements import Column, Printed
from sfumato.experiment.reproduce.source import Anchor, Base, Choice, Fault, Measure, Part, Source

__all__ = ["NICKD16"]

MEASURES = (
    Measure(("noise_error",), small=128, full=1000),
    Measure(("kid", "class_balance"), small=300, full=5000),
)
TABLE = Printed(
    (
        Column("MSE of the noise", ("noise_error[mse]",)),
        Column("KID", ("kid",)),
        Column("total variation of the classes", ("class_balance",), perfect=("class_balance[floor]",)),
    )
)
# What so short a training wants: a rate to match, falling, and averages of a few hundred steps; 50 steps of sampling.
QUICK_PERCEPTRON = (
    *(("training.steps", "5000"), ("training.learning_rate", "1e-3"), ("training.decay", "cosine")),
    *(("training.warmup_steps", "100"), ("training.ema_decay", "0.998"), ("training.checkpoint_every", "2500")),
    *(("training.evaluate_every", "2500"), ("training.preview_every", "5000")),
    *(("sampling.sampler", "Ddim"), ("sampling.steps", "50")),
)

NICKD16 = Source(
    name="nickd16",
    where="nickd16/Diffusion-Models-from-Scratch, PyTorch, 2024",
    about="DDPM on MNIST with attention, with the dropout of the article and that of the code; a perceptron",
    parts=(
        Part(
            name="mnist",
            small=Base(
                "mnist-ddpm-small",
                (
                    *(("training.steps", "1500"), ("training.checkpoint_every", "500")),
                    *(("training.evaluate_every", "500"), ("training.preview_every", "1500")),
                    ("sampling.precision", "bfloat16"),
                ),
            ),
            full=Base("mnist-ddpm"),
            measures=MEASURES,
            judgement=TABLE,
            told=("noise_error[mse]", "kid", "class_balance"),
            choices=(Choice("network.dropout", "dropout", {"0.1": "0.1 (article)", "0.0": "0.0 (code)"}),),
            examples=60_000,
        ),
        Part(
            name="perceptron",
            small=Base("mnist-perceptron", QUICK_PERCEPTRON),
            full=Base("mnist-perceptron"),
            measures=MEASURES,
            judgement=TABLE,
            examples=60_000,
        ),
    ),
    anchors=(
        Anchor("parameters of the network", 35_178_689, parameters),
        Anchor("parameters of the perceptron", 1_132_816, parameters, part="perceptron"),
        Anchor("alpha² after 1 step", 0.9999, alpha_bar()),
        Anchor("alpha² after 1000 steps", 4.0358e-5, alpha_bar(1.0)),
    ),
    faults=(
        Fault("data in [0, 1], mostly 0, padded with 0", "in [-1, 1], padded by repeating the border"),
        Fault("attention replaces its input, without a norm", "is added to it, after a norm, and starts at zero"),
        Fault("attention drops weights while sampling too", "in training only"),
        Fault(
            "blocks see the fastest columns of one sinusoid of the time, which also goes along the shortcuts",
            "each block has all its frequencies, in its branch only",
        ),
        Fault("tables outside the module's state: another device or precision misses them", "computed for any time"),
        Fault("ReLU; a last convolution that begins anywhere", "silu; begins at zero, behind a norm"),
        Fault(
            "averages at 0.9999 without warm-up: after the usual 15 epochs 24.5 % of them is the random beginning",
            "min(0.9999, (1 + n)/(10 + n))",
        ),
        Fault("x0 anywhere while sampling, hidden by a plot that rescales", "kept in range"),
        Fault("a checkpoint after the last epoch alone, without its step; resuming starts to count anew", "all state"),
        Fault("gradients of any length; no held-out loss, no metric", "shortened to length 1; both measured"),
        Fault("the mean loss of an epoch divided by 937.5 for 937 batches", "a mean"),
        Fault("ten samples one at a time, of 1000 calls each", "in batches; DDIM's 50 calls at small scale"),
    ),
    remarks=(
        "no number is printed: what is held to is the size of the network and the table of the chain",
        "no block at full resolution on the way up, no layer between sinusoid and blocks: kept, as the count demands",
        "its rate, 2e-5, is a tenth of Ho et al.'s: kept at full scale",
        "with what the perceptron was trained is not stated: the settings are those of the network with attention",
    ),
)
