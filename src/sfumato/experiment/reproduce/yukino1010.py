"""yukino1010: DDIM with FiLM and linear attention (Yukino1010/Diffusion_Model, TensorFlow, December 2022).

No number is printed; the pictures, anime faces of 64×64, are the user's own. Article and code disagree: no attention
and batch norm, attention and group norm. Both are arms.
"""

from sfumato.experiment.reproduce.anchors import alpha_bar, calls_of, parameters
from sfumato.experiment.reproduce.judgements import Column, Printed
from sfumato.experiment.reproduce.source import Anchor, Base, Choice, Fault, Measure, Part, Source

__all__ = ["YUKINO1010"]

YUKINO1010 = Source(
    name="yukino1010",
    where="Yukino1010/Diffusion_Model, TensorFlow, 2022, and the article beside it",
    about="DDIM of 64×64 pictures with FiLM and linear attention; --data.path names the pictures",
    parts=(
        Part(
            name="pictures",
            small=Base(
                "film-ddim-small",
                (
                    *(("training.steps", "1200"), ("training.checkpoint_every", "600")),
                    *(("training.evaluate_every", "600"), ("training.preview_every", "1200")),
                ),
            ),
            full=Base("film-ddim"),
            measures=(
                Measure(("noise_error", "image_error"), small=128, full=1000),
                Measure(("kid",), small=300, full=5000),
            ),
            judgement=Printed(
                (
                    Column("MSE of the noise", ("noise_error[mse]",)),
                    Column("KID", ("kid",)),
                )
            ),
            choices=(
                Choice(
                    "network.attention+network.norm",
                    "network",
                    {"true+group": "attention, group norm (code)", "false+batch": "neither (article)"},
                ),
            ),
            told=("noise_error[mse]", "kid"),
        ),
    ),
    anchors=(
        Anchor("parameters of the network of the code", 6_179_331, parameters),
        Anchor("alpha² after 1000 steps", 4.0358e-5, alpha_bar(1.0)),
        Anchor("network calls in 200 steps of sampling", 199, calls_of(200), mended=True),
    ),
    faults=(
        Fault(
            "the article has no attention and batch norm, the code attention and group norm",
            "each is an arm, and named",
        ),
        Fault("linear attention reshapes without transposing, and mixes pixels with channels", "over the pixels"),
        Fault(
            "the table is shifted by one: a picture without noise is trained on, and the last beta never used",
            "t = k/T is after k steps, k = 1 … T",
        ),
        Fault(
            "DDIM's last index is negative and wraps to the noisy end; a break hides it, at 199 calls from t = 995",
            "200 steps from t = 1000 to data, 200 calls",
        ),
        Fault("the variance beta called sigma", "variances and standard deviations by their names"),
        Fault(
            "noise from NumPy on the CPU, in float64, from no seed; pictures shown without clipping",
            "every draw follows from the seed; x0 kept in range",
        ),
        Fault("swish after the second norm, which bounds the branch at -0.28", "the norm has the last word"),
        Fault("the test set is the training set", "a tenth is held out"),
        Fault(
            "the optimizer's state is not saved; no averaged weights; no antialiasing", "saved; averaged; antialiased"
        ),
        Fault("pictures shuffled among 500 neighbours only", "among all"),
        Fault("gradients of any length", "shortened to length 1"),
        Fault('diffusion called stable because it is "supervised", GANs "unsupervised"', "not repeated"),
    ),
    remarks=("no number is printed: what is held to is the size of the network, the table and the calls",),
)
