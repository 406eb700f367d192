"""A protocol: every choice that a number depends on beside the clips, read from one file.

``evaluation/protocols/NAME.yaml`` are those of the package. A file says everything: a key that is missing is an error
like one that is unknown, so that nothing is decided where it cannot be read.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import yaml

from datamodules.errors import InputError
from evaluation.chroma_similarity import Average, Silent
from evaluation.kld import Direction
from evaluation.tables import RECALLS

PROTOCOLS = Path(__file__).parent / "protocols"
Heard = Literal["generated", "shorter", "whole"]


@dataclass(frozen=True)
class Level:
    """How loud a clip is made before it is heard; as it is where nothing is said.

    Attributes:
        loudness: LUFS of the clip in its own channels and rate; what then lies beyond full scale is clipped.
        peak: dB of full scale of the largest sample, after mixing to mono and resampling; after the loudness.
        peak_of: which sample that is: the largest "magnitude", or the largest "positive" one.
    """

    loudness: float | None = None
    peak: float | None = None
    peak_of: Literal["magnitude", "positive"] = "magnitude"

    def __post_init__(self) -> None:
        for name in ("loudness", "peak"):
            if (getattr(self, name) or 0) > 0:
                raise InputError(f"{name} is {getattr(self, name)} dB, above full scale; give 0 or less")


@dataclass(frozen=True)
class Segments:
    """How a clip is cut before it is heard, each segment as a clip of its own.

    Segments begin every ``hop`` for as long as more is left than what two of them share; the last ones are shorter.

    Attributes:
        window: seconds.
        hop: seconds.
        shortest: seconds; segments shorter than this, or than the judge can hear, are left out.
        pad_from: seconds; a segment longer than this and shorter than a window is filled up with silence. None fills
            none.
    """

    window: float
    hop: float
    shortest: float
    pad_from: float | None

    def __post_init__(self) -> None:
        if not 0 < self.hop <= self.window:
            raise InputError(f"segments of {self.window} s every {self.hop} s; give 0 < hop <= window")
        if not (0 <= self.shortest <= self.window and 0 <= (self.pad_from or 0) <= self.window):
            raise InputError("shortest and pad_from lie between 0 and the window")


@dataclass(frozen=True)
class FADChoices:
    """FAD and, on request, KAD.

    Attributes:
        judge: whose windows' embeddings; see ``resolve_judge``.
        generated: how loud generated clips are.
        reference: how loud references are.
        segments: how clips are cut; None leaves that to the judge.
        kad: whether KAD is computed too, of the same embeddings.
    """

    judge: str
    generated: Level
    reference: Level
    segments: Segments | None
    kad: bool


@dataclass(frozen=True)
class KLChoices:
    """KL divergence.

    Attributes:
        judge: whose class scores; see ``resolve_judge``.
        generated: how loud generated clips are.
        reference: how loud references are.
        segments: how clips are cut; None leaves that to the judge, whose windows are then the segments.
        average: "logits_mean": class scores averaged over a clip's segments, then the softmax, and the mean over clips;
            "softmax_per_segment": each segment against the reference's, and the mean over all segments.
        direction: see ``kl_divergence``.
        epsilon: see ``kl_divergence``.
    """

    judge: str
    generated: Level
    reference: Level
    segments: Segments | None
    average: Literal["logits_mean", "softmax_per_segment"]
    direction: Direction
    epsilon: float

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise InputError(f"epsilon is {self.epsilon}; give a small number above 0, such as 1.0e-6")


@dataclass(frozen=True)
class CLAPChoices:
    """CLAP score and, on request, retrieval.

    Attributes:
        judge: whose embeddings of clips and captions; see ``resolve_judge``.
        generated: how loud generated clips are.
        reference: how loud references are.
        average: "embeddings": the cosine of the caption with the mean of a clip's windows; "cosines": the mean of the
            windows' cosines with the caption.
        retrieval: numbers k of R@k between clips and captions, of 1, 5 and 10; none computes nothing.
    """

    judge: str
    generated: Level
    reference: Level
    average: Literal["embeddings", "cosines"]
    retrieval: tuple[int, ...]

    def __post_init__(self) -> None:
        if list(self.retrieval) != sorted(set(self.retrieval) & set(RECALLS)):
            raise InputError(f"retrieval is {list(self.retrieval)}; give rising numbers of {list(RECALLS)}, or []")


@dataclass(frozen=True)
class ChromaChoices:
    """Chroma similarity.

    Attributes:
        generated: how loud generated clips are.
        reference: how loud references are.
        source: "full mix", or "stems", in which drums and bass are taken out of both sides (Demucs).
        sample_rate: Hz at which chroma is computed.
        silent: see ``chroma_similarity``.
        average: see ``ChromaSimilarity``.
    """

    generated: Level
    reference: Level
    source: Literal["full mix", "stems"]
    sample_rate: int
    silent: Silent
    average: Average

    def __post_init__(self) -> None:
        if self.sample_rate < 1:
            raise InputError(f"sample_rate is {self.sample_rate}; give a rate in Hz, such as 32000")


@dataclass(frozen=True)
class Choices:
    """What a protocol's file holds; a metric that is null is left out.

    Attributes:
        heard: how much of a pair is heard: "generated": the reference for as long as the generated clip lasts;
            "shorter": both for as long as the shorter one lasts; "whole": each to its end.
        fad: FAD.
        kld: KL divergence.
        clap: CLAP score.
        chroma: chroma similarity.
    """

    heard: Heard
    fad: FADChoices | None
    kld: KLChoices | None
    clap: CLAPChoices | None
    chroma: ChromaChoices | None

    def __post_init__(self) -> None:
        if not any((self.fad, self.kld, self.clap, self.chroma)):
            raise InputError("every metric is left out; say how one of fad, kld, clap and chroma is computed")


@dataclass(frozen=True)
class Protocol:
    """A named set of choices.

    Attributes:
        name: of the package's protocol, or of the file.
        source: how it was asked for.
        choices: what it says.
    """

    name: str
    source: str
    choices: Choices

    @property
    def judges(self) -> dict[str, str]:
        """The judge of each metric that has one, as ``resolve_judge`` takes it."""
        parts = {"fad": self.choices.fad, "kld": self.choices.kld, "clap": self.choices.clap}
        return {metric: part.judge for metric, part in parts.items() if part is not None}

    def record(self) -> dict[str, Any]:
        """All it says, for results.json; who the judges are stands elsewhere, with their checksums."""
        said = asdict(self.choices)
        for part in said.values():
            if isinstance(part, dict):
                part.pop("judge", None)
                # Shorter to read, and no less said.
                part |= {side: None for side in ("generated", "reference") if part[side] == asdict(Level())}
        return {"name": self.name, "source": self.source} | said


def load_protocol(protocol: str | Path = "default") -> Protocol:
    """Reads a protocol.

    Args:
        protocol: name of one of the package's, or a .yaml file.

    Raises:
        InputError: there is none, or it is not as ``Choices`` has it; the file and the key are named.
    """
    path = Path(protocol)
    if path.suffix not in (".yaml", ".yml"):
        names = sorted(file.stem for file in PROTOCOLS.glob("*.yaml"))
        if str(protocol) not in names:
            raise InputError(f"there is no protocol {str(protocol)!r}; use {', '.join(names)}, or a .yaml file")
        path = PROTOCOLS / f"{protocol}.yaml"
    if not path.is_file():
        raise InputError(f"{path}: there is no such protocol; copy one of {PROTOCOLS}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML; copy one of {PROTOCOLS}") from error
    try:
        return Protocol(path.stem, str(protocol), _read(Choices, content, ""))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(kind: Any, value: Any, key: str) -> Any:
    """A value of a file as the type that it should have; InputError, which names the key."""
    if is_dataclass(kind):
        return _read_mapping(cast(type, kind), value, key)
    if get_origin(kind) in (Union, UnionType):  # X | None
        return None if value is None else _read(get_args(kind)[0], value, key)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise InputError(f"{key} is {value!r}; use {' or '.join(map(str, get_args(kind)))}")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{key} is {value!r}; give a list, such as [1, 5]")
        return tuple(_read(get_args(kind)[0], one, key) for one in value)
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if type(value) is not kind:
        called = {float: "number (1.0e-6, not 1e-6)", int: "whole number", bool: "true or false", str: "word"}
        raise InputError(f"{key} is {value!r}; give a {called[kind]}")
    return value


def _read_mapping(kind: type, value: Any, key: str) -> Any:
    known = {field.name: field for field in fields(kind)}
    needed = [name for name, field in known.items() if field.default is MISSING]
    if value is None and not needed:
        return kind()
    if not isinstance(value, Mapping):
        raise InputError(f"{key or 'the file'} is {value!r}; give {', '.join(known)}")
    where = f"{key}." if key else ""
    for name in value:
        if name not in known:
            raise InputError(f"{where}{name} is unknown; there are {', '.join(known)}")
    for name in needed:
        if name not in value:
            raise InputError(f"{where}{name} is missing; a protocol says everything (null leaves out)")
    hints = get_type_hints(kind)
    read = {name: _read(hints[name], given, f"{where}{name}") for name, given in value.items()}
    try:
        return kind(**read)
    except InputError as error:
        raise InputError(f"{key}: {error}" if key else str(error)) from error
