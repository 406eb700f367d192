"""How a judge is found by name. Each kind's module is imported only when one of it is wanted."""

from collections.abc import Callable
from pathlib import Path

import torch

from datamodules.errors import InputError
from datamodules.hub import hub_reachable
from evaluation.judges.contract import Judge
from evaluation.judges.embedded import load_judge
from evaluation.judges.network import NetworkJudge

EMBEDDED = Path(__file__).parents[1] / "weights" / "judge"
_ENCODEC = "facebook/encodec_24khz"
_FILES = (".pt", ".pth", ".ckpt")


def resolve_judge(judge: str | Path, device: str | torch.device = "cpu") -> Judge:
    """Loads the judge that a user names.

    Args:
        judge: ``embedded``, the one in the package; a folder written by ``EmbeddedJudge.save``; or a published
            network: ``vggish``, ``passt`` (or ``passt-20s``, which hears twenty seconds at once), ``pann``, ``clap`` or
            ``encodec``, as ``make weights`` fetches it, or with weights of one's own after a colon: ``vggish:FILE``,
            ``passt:FILE``, ``pann:FILE``, ``clap:FILE``, ``clap:FOLDER`` or ``encodec:FOLDER``, the last two also by
            the id of a model of the Hugging Face hub.
        device: where it runs.

    Raises:
        InputError: there is no such judge, its weights are not on this machine, or they are broken.
    """
    kind, _, source = str(judge).partition(":")
    if kind in _KINDS:
        return _KINDS[kind](source or None).to(device)
    if str(judge) == "embedded":
        return load_judge(EMBEDDED, device)
    if not Path(judge).exists():
        raise InputError(f"{judge}: no folder (no config.yaml there) and no judge; use embedded, {', '.join(_KINDS)}")
    return load_judge(judge, device)


def _clap(source: str | None) -> NetworkJudge:
    from evaluation.judges.published import LAION_CLAP, find_published

    if source is None or (Path(source).suffix in _FILES and not Path(source).is_dir()):
        source = str(find_published(LAION_CLAP, source)[0])
    else:
        _at_hand(source)
    from evaluation.judges.clap import load_clap_judge

    return load_clap_judge(source)


def _encodec(source: str | None) -> NetworkJudge:
    _at_hand(source or _ENCODEC)
    from evaluation.judges.encodec import load_encodec_judge

    return load_encodec_judge(source or _ENCODEC)


def _at_hand(name: str) -> None:
    """Refuses a model of the Hugging Face hub that cannot be had, before transformers is imported: that takes seconds.

    Raises:
        InputError: it is neither a folder nor in the cache, and the hub cannot be asked.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(name).exists():
        return
    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError as error:  # no name that the hub would give
        raise InputError(f"{name}: there is no such folder") from error
    if not cached and not hub_reachable():
        fetched = f'`make weights ARGS="--only encodec"` fetches {_ENCODEC}' if name == _ENCODEC else "give a folder"
        raise InputError(
            f"{name}: is not on this machine, and the Hugging Face hub cannot be asked; {fetched}, or try again where "
            "there is a network (HF_HOME is the cache)"
        )


def _pann(source: str | None) -> NetworkJudge:
    from evaluation.judges.pann import load_pann_judge

    return load_pann_judge(source)


def _passt(source: str | None) -> NetworkJudge:
    from evaluation.judges.passt import load_passt_judge

    return load_passt_judge(source)


def _passt_20s(source: str | None) -> NetworkJudge:
    from evaluation.judges.passt import load_passt_judge
    from evaluation.judges.published import PASST_20S

    return load_passt_judge(source, PASST_20S)


def _vggish(source: str | None) -> NetworkJudge:
    from evaluation.judges.vggish import load_vggish_judge

    return load_vggish_judge(source)


_KINDS: dict[str, Callable[[str | None], NetworkJudge]] = {
    "vggish": _vggish,
    "passt": _passt,
    "pann": _pann,
    "clap": _clap,
    "encodec": _encodec,
    "passt-20s": _passt_20s,
}
