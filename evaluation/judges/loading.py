"""How a judge is found by name."""

from pathlib import Path

import torch

from datamodules.errors import InputError
from evaluation.judges.contract import Judge
from evaluation.judges.embedded import load_judge

EMBEDDED = Path(__file__).parent / "embedded"


def resolve_judge(judge: str | Path, device: str | torch.device = "cpu") -> Judge:
    """Loads the judge that a user names.

    Args:
        judge: ``embedded``, the one in the package, or a folder written by ``EmbeddedJudge.save``.
        device: where it runs.

    Raises:
        InputError: there is no such judge, or its folder is broken.
    """
    if str(judge) == "embedded":
        if not EMBEDDED.is_dir():
            raise InputError(
                "judge 'embedded': this package ships none; train one with evaluation.judges.training.JudgeTraining "
                "(`make demo` does) and give its folder as --judge"
            )
        return load_judge(EMBEDDED, device)
    return load_judge(judge, device)
