"""The paper's figure of melodies: the reference's chromagram above that of each system's clip, for a few prompts.

(MusicGen paper, arXiv 2306.05284: quantised chromagrams of a melody, of music conditioned on it, and on text alone.)
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.errors import InputError
from datamodules.manifest import Track, read_manifest
from evaluation.compare import Results
from evaluation.heard import HeardBefore, content_key
from evaluation.judges.panel import Panel
from evaluation.listening import HeardPair, Listener
from evaluation.pairing import Pair
from evaluation.protocol import Choices, ChromaChoices, Level
from evaluation.report_chromagram import chromagram
from evaluation.tables import number

PROMPTS = 3
WITH_MELODY, TEXT_ONLY = "text + chroma", "text only"
OTHER_MELODY, UNKNOWN = "text + chroma of another file", "melody given or not: not recorded"
_Tracks = Callable[[Path], Mapping[str, Track]]
_OURS = "request"  # of a manifest's line that `mgl generate` wrote: only such a line tells that there was no melody


def melody_rows(systems: Sequence[Results], ids: Sequence[str], count: int = PROMPTS) -> list[dict[str, Any]]:
    """A row for each of the first prompts with the most chroma scores: the reference's panel, and each system's.

    What is drawn is what was compared: the chroma that the protocol asks for, as loud and as long as it was heard.

    Args:
        systems: of one protocol.
        ids: prompts, in the order of the page.
        count: rows, at most.

    Returns:
        Rows of "id", "caption", "reference" and "panels"; none where the protocol has no chroma or no clip a score.

    Raises:
        InputError: chroma cannot be heard here, as that of stems without Demucs.
    """
    protocol = systems[0].data["protocol"]
    if not protocol.get("chroma") or "heard" not in protocol:
        return []
    clips = [one.clips for one in systems]
    scored = {name: [some.get(name, {}).get("chroma") is not None for some in clips] for name in ids}
    chosen = sorted((name for name in ids if any(scored[name])), key=lambda name: -sum(scored[name]))[:count]
    if not chosen:
        return []
    listener = Listener(Panel({}, {}), _choices(protocol), seed=protocol["seed"], before=HeardBefore.from_environment())
    tracks = cache(_tracks)  # a manifest is read once
    return [_row(listener, systems, [some.get(name) for some in clips], name, tracks) for name in chosen]


def _choices(protocol: Mapping[str, Any]) -> Choices:
    """Chroma alone, from what results.json says of the protocol."""
    said = protocol["chroma"]
    generated, reference = (Level(**(said[side] or {})) for side in ("generated", "reference"))
    chroma = ChromaChoices(generated, reference, said["source"], said["sample_rate"], said["silent"], said["average"])
    return Choices(protocol["heard"], None, None, None, chroma)


def _row(
    listener: Listener,
    systems: Sequence[Results],
    clips: Sequence[Mapping[str, Any] | None],
    name: str,
    tracks: _Tracks,
) -> dict[str, Any]:
    pairs = [
        Pair(str(index), "", one.audio(clip, "generated"), one.audio(clip, "reference"), name)
        for index, (one, clip) in enumerate(zip(systems, clips, strict=True))
        if clip is not None
    ]
    heard: dict[str, HeardPair] = {}
    reasons: dict[str, str] = {}
    for some, failed in listener.listen(pairs):
        heard |= {one.pair.id: one for one in some}
        reasons |= {one["id"]: one["reason"] for one in failed}
    assert listener.chroma is not None
    step = listener.chroma.hop / listener.chroma.sample_rate
    panels: list[dict[str, Any]] = []
    longest: tuple[int, Tensor] | None = None
    for index, (one, clip) in enumerate(zip(systems, clips, strict=True)):
        if clip is None or str(index) not in heard:
            panels.append({"missing": reasons.get(str(index), "no clip of this prompt")})
            continue
        made, real = _chroma(heard[str(index)])
        if longest is None or len(real) > longest[0]:
            longest = len(real), real
        said = f"{one.name}: chroma similarity {number(clip.get('chroma'))}"
        panels.append({
            "given": _given(one, clip, tracks),
            "cosine": number(clip.get("chroma")),
            "plot": chromagram(made, real, step, index, said),
        })  # fmt: skip
    caption = next(clip["caption"] for clip in clips if clip is not None)
    reference = None if longest is None else chromagram(longest[1], None, step, 0, "Reference melody")
    return {"id": name, "caption": caption, "reference": reference, "panels": panels}


def _chroma(one: HeardPair) -> tuple[Tensor, Tensor]:
    """[T, P] of the clip and of the reference, as many frames as were compared."""
    assert one.generated.chroma is not None
    assert one.reference.chroma is not None
    both = min(len(one.generated.chroma), len(one.reference.chroma))
    return one.generated.chroma[:both], one.reference.chroma[:both]


def _given(one: Results, clip: Mapping[str, Any], tracks: _Tracks) -> str:
    """Whether a clip was made from a melody: what the manifest beside it says.

    ``mgl generate`` writes a melody's checksum into the clip's line. Manifests of others do not say.
    """
    path = one.audio(clip, "generated").resolve()
    # An id is the clip's path in the manifest's folder unless the manifest says otherwise.
    depth = min(clip["id"].count("/"), len(path.parents) - 1)
    track = tracks(path.parents[depth]).get(clip["id"])
    if track is None or track.path.resolve() != path or not {"melody_sha256", _OURS} & track.facts.keys():
        return UNKNOWN
    if "melody_sha256" not in track.facts:
        return TEXT_ONLY
    reference = one.audio(clip, "reference")
    same = reference.is_file() and track.facts["melody_sha256"] == content_key(reference)
    return WITH_MELODY if same else OTHER_MELODY


def _tracks(folder: Path) -> Mapping[str, Track]:
    try:
        return {track.id: track for track in read_manifest(folder)}
    except InputError:
        return {}  # clips without a manifest say nothing of melodies
