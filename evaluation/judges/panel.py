"""Who hears for which metric: a judge each, which may be one and the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from datamodules.errors import InputError
from evaluation.judges.contract import Judge, Offer, TextJudge, offers
from evaluation.judges.loading import resolve_judge

_NEEDS: dict[str, Offer] = {"fad": "embeddings", "kld": "logits", "clap": "text"}


@dataclass(frozen=True)
class Panel:
    """The judges of an evaluation.

    Attributes:
        fad: its windows' embeddings are what FAD is taken over.
        kld: its class scores are what KL divergence compares.
        clap: its embeddings of clips and captions are what CLAP score compares.
        sources: how each was asked for.
    """

    fad: Judge
    kld: Judge
    clap: TextJudge
    sources: Mapping[str, str]

    @property
    def by_metric(self) -> dict[str, Judge]:
        """Judges by the metric's key."""
        return {"fad": self.fad, "kld": self.kld, "clap": self.clap}

    @property
    def distinct(self) -> list[Judge]:
        """Every judge once."""
        return list({id(judge): judge for judge in self.by_metric.values()}.values())


def resolve_panel(names: str | Path | Mapping[str, str], device: str | torch.device = "cpu") -> Panel:
    """Loads the judges that a user names, each once.

    Args:
        names: one judge for all metrics, or one each: {"fad": "vggish", "kld": "passt", "clap": "clap"}. See
            ``resolve_judge``.
        device: where they run.

    Raises:
        InputError: a metric without a judge or a judge without a metric, a judge that cannot be loaded, or one that
            does not give what its metric needs.
    """
    given = dict(names) if isinstance(names, Mapping) else dict.fromkeys(_NEEDS, str(names))
    if wrong := sorted(given.keys() ^ _NEEDS.keys()):
        raise InputError(
            f"judge: {wrong[0]!r} is missing or unknown; name one judge, or one each for fad, kld and clap"
        )
    loaded = {name: resolve_judge(name, device) for name in dict.fromkeys(given.values())}
    judges = {metric: loaded[name] for metric, name in given.items()}
    for metric, judge in judges.items():
        if _NEEDS[metric] not in offers(judge):
            raise InputError(
                f"judge {judge.name} gives {', '.join(offers(judge))}, and {metric} needs {_NEEDS[metric]}; name a "
                "judge for each metric, such as {fad: vggish, kld: passt, clap: clap}"
            )
    clap = judges["clap"]
    assert isinstance(clap, TextJudge), "a judge that offers text reads it"
    return Panel(judges["fad"], judges["kld"], clap, given)
