"""An inspection in words: what was found, what it means for a schedule, what to begin with, what to mend."""

from collections.abc import Iterator, Sequence

from sfumato.data.inspection import ClassFacts, DataFacts
from sfumato.data.survey import Survey
from sfumato.data.wording import counted, shortened
from sfumato.errors import printable
from sfumato.experiment.advice import Advice
from sfumato.experiment.inspection import Inspection
from sfumato.experiment.reach import Reach
from sfumato.training.storage import human_bytes

__all__ = ["lines"]

SIGNS = {"problem": "PROBLEM", "warning": "warning", "note": "note"}
SOME = 6


def lines(found: Inspection, name: str) -> Iterator[str]:
    """The report, line by line."""
    facts = found.facts
    yield f"data          {printable(name)}"
    if found.survey is not None:
        yield from _files(found.survey)
    yield from _examples(facts)
    if found.data != found.asked.data:
        changes = ", ".join(f"{k} {v}" for k, v in _changes(found))
        yield f"              (read with {changes}: see the problems below)"
    yield from _channels(facts)
    if facts.classes is not None:
        yield from _classes(facts.classes)
    for number in facts.numbers:
        spread = f"{number.low:g} to {number.high:g}, mean {number.mean:.4g}, std {number.std:.4g}"
        yield f"number        {printable(number.name)}: {spread}"
    yield from _copies(facts)
    if isinstance(found.fit, Reach):
        yield from _schedule(found.fit)
    if found.advice is not None:
        yield from _advice(found.advice)
    yield ""
    for finding in found.findings:
        yield f"{SIGNS[finding.level]:<8} {finding.what}" + (f"\n         -> {finding.fix}" if finding.fix else "")
    problems = sum(finding.level == "problem" for finding in found.findings)
    yield "ready to train on" if found.ready else f"not ready: {counted(problems, 'problem')} above"


def _changes(found: Inspection) -> Iterator[tuple[str, object]]:
    for key in ("size", "channels", "bad_files"):
        now = getattr(found.data, key)
        if now != getattr(found.asked.data, key):
            yield f"data.{key}", f"{now[0]}x{now[1]}" if isinstance(now, tuple) else now


def _files(files: Survey) -> Iterator[str]:
    bad = f", {len(files.bad):,} unusable" if files.bad else ""
    folders = f" in {counted(files.folders, 'folder')}" if files.folders else ""
    yield f"files         {files.looked_at:,}{folders}, {human_bytes(files.bytes)}{bad}"
    yield f"formats       {_listed(files.formats)}; modes {_listed(files.modes)}"
    if not files.sizes:
        return
    shown = [f"{s.height}x{s.width} ({s.count:,})" for s in files.sizes[:SOME]]
    more = f" and {len(files.sizes) - SOME:,} more sizes" if len(files.sizes) > SOME else ""
    yield f"sizes         {', '.join(shown)}{more} (height x width)"
    if files.mixed_sizes:
        least, median, largest = (files.shorter_side(share) for share in (0.0, 0.5, 1.0))
        yield f"              shorter side {least} to {largest}, median {median}"


def _listed(counts: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts[:SOME]) + (", …" if len(counts) > SOME else "")


def _examples(facts: DataFacts) -> Iterator[str]:
    shape = " x ".join(map(str, facts.shape))
    own = " (the source's own test part)" if facts.test_count and facts.held_out else ""
    yield f"examples      {facts.count:,} of {shape}, {human_bytes(facts.bytes)} in memory"
    yield f"split         {facts.train:,} to train on, {facts.held_out:,} held out{own}"
    yield f"fingerprint   {facts.fingerprint[:16]}"


def _channels(facts: DataFacts) -> Iterator[str]:
    names = {1: ["grey"], 3: ["red", "green", "blue"]}.get(len(facts.channels)) if facts.is_image else None
    for index, channel in enumerate(facts.channels[:SOME]):
        name = names[index] if names else "all values" if len(facts.channels) == 1 else f"channel {index}"
        ends = "" if channel.black is None else f", {channel.black:.1%} black, {channel.white:.1%} white"
        yield (
            f"{name:<13} mean {channel.mean:.5g}, std {channel.std:.5g}, {channel.low:.5g} to {channel.high:.5g}{ends}"
        )
    if len(facts.channels) > SOME:
        yield f"              and {len(facts.channels) - SOME} more channels"


def _classes(classes: ClassFacts) -> Iterator[str]:
    ordered = sorted(zip(classes.counts, classes.names, strict=True), key=lambda pair: -pair[0])
    few = ordered if len(ordered) <= 2 * SOME else [*ordered[:SOME], *ordered[-SOME:]]
    shown = ", ".join(f"{shortened(printable(name))}: {count:,}" for count, name in few)
    kind = "class" if len(ordered) == 1 else "classes"
    which = "" if len(few) == len(ordered) else f", the {SOME} largest and the {SOME} smallest"
    yield f"classes       {len(ordered):,} {kind}{which}; {shown}"


def _copies(facts: DataFacts) -> Iterator[str]:
    copies, leak = facts.copies, facts.leakage
    turned = f" ({copies.num_mirrored:,} of them mirrored)" if copies.num_mirrored else ""
    near = f", {counted(len(copies.pairs), 'near pair')}{turned} among {copies.compared or 0:,} pictures"
    near = "" if copies.compared is None else near
    yield f"copies        {copies.num_exact:,} exact{near}"
    if leak.held_out:
        yield f"leakage       of {leak.held_out:,} held out {leak.exact:,} are trained on too, {leak.near:,} nearly so"


def _schedule(fit: Reach) -> Iterator[str]:
    yield f"schedule      {fit.schedule}: log-SNR {fit.log_snr_high:.3g} to {fit.log_snr_low:.3g}"
    yield (
        f"data std      {fit.data_std:.4g} in the model's units, {fit.principal_std:.4g} along the strongest direction"
    )
    power = f"{fit.terminal:.2g} of the noise's power, {fit.principal_terminal:.2g} along the strongest direction"
    yield f"noisy end     data left: {power}; prior term {fit.prior_bits:.2g} bits/dim"
    grey = "" if fit.grey_levels is None else f", {fit.grey_levels:.3g} of 255 grey levels"
    yield f"clean end     noise {fit.noise_low:.3g}{grey}"
    if fit.halfway is not None:
        yield f"half way      noise as strong as the data at t = {fit.halfway:.3f}"


def _advice(advice: Advice) -> Iterator[str]:
    training = advice.experiment.training
    yield ""
    yield "to begin with"
    for line in advice.yaml().rstrip("\n").split("\n"):
        yield f"  {line}"
    work = f"{advice.flops / 1e9:.3g} GFLOP an example" if advice.flops else "little work"
    yield f"  # {advice.parameters:,} parameters, {work}; {training.steps:,} steps on {training.device}"
    for reason in advice.reasons:
        yield f"  # {reason}"
