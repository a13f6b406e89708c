"""One of several processes that train together, started by torchrun. Run by test_processes.py.

    torchrun --nproc_per_node 2 tests/reliability/together.py train RUNS SETTINGS.json [ODD.json]
    torchrun --nproc_per_node 2 tests/reliability/together.py resume RUN SETTINGS.json

Process 1 takes the settings of ODD.json, where one is given. Each process writes what it drew for step 3 beside the
runs, exits as the command line would, and says the number of its process first.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import sfumato
from sfumato.errors import SfumatoError
from sfumato.experiment.session import Session
from sfumato.training.trainer import Progress, Trainer

RANK = int(os.environ.get("RANK", "0"))


class Reporter:
    """Says who speaks."""

    def progress(self, progress: Progress) -> None: ...

    def note(self, text: str) -> None:
        print(f"[{RANK}] {text}", file=sys.stderr, flush=True)


def keep_draws(folder: Path) -> None:
    """Write what each process draws for step 3: examples, times and noise."""
    real = Session.trainer

    def trainer(self: Session, **rest: Any) -> Any:
        parts = list(self.step._parts(3))
        drawn = {name: torch.cat([getattr(draw, name) for _, draw in parts]) for name in ("t", "eps", "inv_density")}
        drawn["x0"] = torch.cat([batch.x0 for batch, _ in parts])
        torch.save(drawn, folder / f"drawn-{self.engine.rank}-of-{self.engine.processes}.pt")
        return real(self, **rest)

    Session.trainer = trainer  # type: ignore[method-assign]


def die_after(done: int) -> None:
    """Kill process 1 when that many steps are done."""
    real = Trainer._report

    def report(self: Trainer, now: int, *rest: Any) -> None:
        real(self, now, *rest)
        if (RANK, now) == (1, done):
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer._report = report  # type: ignore[method-assign]


def main(act: str, place: str, settings: str, odd: str | None = None) -> int:
    chosen = json.loads(Path(odd if odd is not None and RANK == 1 else settings).read_text())
    keep_draws(Path(settings).parent)
    die_after(int(os.environ.get("DIE_AT", "-1")))
    try:
        if act == "train":
            run = sfumato.train("swiss-roll", chosen, runs=place, reporter=Reporter())
        else:
            run = sfumato.resume(place, chosen, reporter=Reporter())
    except SfumatoError as error:
        print(f"[{RANK}] {error}", file=sys.stderr, flush=True)
        return error.exit_code
    print(f"[{RANK}] folder {run.folder} held-out {run.held_out_loss}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
