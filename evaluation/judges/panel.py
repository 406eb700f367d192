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
        judges: by the metric's key, of those that are computed. FAD is taken over their windows' embeddings, KL
            divergence compares their class scores, CLAP score their embeddings of clips and captions.
        sources: how each was asked for.
    """

    judges: Mapping[str, Judge]
    sources: Mapping[str, str]

    @property
    def clap(self) -> TextJudge | None:
        """Who reads captions; None where CLAP score is left out."""
        judge = self.judges.get("clap")
        return judge if isinstance(judge, TextJudge) else None


def name_judges(judge: str | Path | Mapping[str, str] | None, protocol: Mapping[str, str]) -> dict[str, str]:
    """The judges of a protocol, with those that a user names in their place.

    Args:
        judge: one for all metrics, or some of {"fad": "vggish", "kld": "passt", "clap": "clap"}; nothing leaves the
            protocol's.
        protocol: its judges by metric.

    Raises:
        InputError: a judge for a metric that there is not, or that the protocol leaves out.
    """
    if not isinstance(judge, Mapping):
        return dict.fromkeys(protocol, str(judge)) if judge else dict(protocol)
    for metric in judge:
        if metric not in _NEEDS:
            raise InputError(f"judge: {metric!r} is unknown; name one judge, or one each for fad, kld and clap")
        if metric not in protocol:
            raise InputError(f"judge: the protocol leaves {metric} out; name none for it, or take another protocol")
    return {**protocol, **judge}


def resolve_panel(names: Mapping[str, str], device: str | torch.device = "cpu") -> Panel:
    """Loads judges, each once.

    Args:
        names: by metric: {"fad": "vggish", "kld": "passt", "clap": "clap"}, or fewer. See ``resolve_judge``.
        device: where they run.

    Raises:
        InputError: a judge that cannot be loaded, or one that does not give what its metric needs.
    """
    loaded = {name: resolve_judge(name, device) for name in dict.fromkeys(names.values())}
    judges = {metric: loaded[name] for metric, name in names.items()}
    for metric, judge in judges.items():
        if _NEEDS[metric] not in offers(judge):
            raise InputError(
                f"judge {judge.name} gives {', '.join(offers(judge))}, and {metric} needs {_NEEDS[metric]}; name a "
                "judge for each metric, such as {fad: vggish, kld: passt, clap: clap}"
            )
    return Panel(judges, names)
