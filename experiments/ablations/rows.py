"""The studies: which rows are compared by which measures, and what the paper found.

A row's settings are its file, ``experiments/configs/ablation/STUDY/ROW.yaml``. The paper's figures are those of
MusicGen (arXiv 2306.05284) at its own scale; they are compared by their order alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from datamodules.errors import InputError

BASE = ("lm", "size/nano", "conditioning/bytes", "cluster/cpu", "ablation/base")
WANTS_TEXT = "wants the weights of its text encoder; --tier 3 runs it where they are"
# What is measured: a column's title, and whether less of it is better.
MEASURES = {
    "ce": ("cross-entropy, nats", True),
    "ppl": ("perplexity", True),
    "fad": ("FAD", True),
    "kld": ("KL divergence", True),
    "clap": ("CLAP score", False),
    "melody": ("melody similarity", False),
    "exact": ("continued exactly, share", True),
    "partial": ("80 % continued, share", True),
}
MEMORY = ("exact", "partial")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: of its file.
        title: on the page.
        tier: 1 is run with all seeds, 2 with one, 3 where the weights it wants are; 0 composes and is not run.
        missing: why it is not run, for the last two.
        paper: the paper's figures, by measure.
        guidance: scale that its clips are drawn with.
        melody: whether its clips follow the references' melodies.
        part: of the results: "chance" in place of "followed", "test" in place of "train".
        file: its layer, where that is not called after the row.
    """

    name: str
    title: str
    tier: int = 2
    missing: str = ""
    paper: Mapping[str, float] = field(default_factory=dict)
    guidance: float = 3.0
    melody: bool = False
    part: str = ""
    file: str = ""


@dataclass(frozen=True)
class Pair:
    """What is expected of two rows: the first is better by a measure, or neither is where they are ``alike``."""

    better: str
    worse: str
    measure: str
    alike: bool = False


@dataclass(frozen=True)
class Study:
    """A table of the paper.

    Attributes:
        name: of its page, and of the folder of its rows' files.
        question: that it answers.
        source: where in the paper.
        rows: its lines.
        pairs: what the paper found.
        measures: its columns.
        note: what is to be known of it.
    """

    name: str
    question: str
    source: str
    rows: Sequence[Row]
    pairs: Sequence[Pair]
    measures: Sequence[str] = ("ce", "fad", "kld", "clap")
    note: str = ""

    def layers(self, row: Row, further: Sequence[str] = ()) -> tuple[str, ...]:
        """Layers of a row's training: the base, ``further`` ones, and the row's own."""
        return (*BASE, *further, row.file or f"ablation/{self.name}/{row.name}")


def _order(measure: str, *names: str) -> list[Pair]:
    """Each before the next."""
    return [Pair(better, worse, measure) for better, worse in pairwise(names)]


def _scores(fad: float, kld: float, clap: float) -> dict[str, float]:
    return {"fad": fad, "kld": kld, "clap": clap}


_ALL = (
    Study(
        "patterns",
        "Which interleaving of the codebooks?",
        "table 4 (300M, in-domain)",
        (
            Row("delay", "delay", 1, paper=_scores(0.96, 0.52, 0.35)),
            Row("partial_delay", "partial delay", paper=_scores(1.51, 0.54, 0.32)),
            Row("parallel", "parallel", 1, paper=_scores(2.58, 0.62, 0.27)),
            Row("flatten", "flatten", 1, paper=_scores(0.86, 0.51, 0.37)),
            Row("partial_flatten", "partial flatten", 1, paper=_scores(1.32, 0.54, 0.34)),
            Row("coarse_first", "coarse first", paper=_scores(1.98, 0.56, 0.30)),
        ),
        (
            *_order("fad", "flatten", "delay", "partial_flatten", "partial_delay", "coarse_first", "parallel"),
            Pair("delay", "parallel", "fad"),
            Pair("delay", "parallel", "ce"),
            Pair("flatten", "parallel", "ce"),
        ),
        note="The paper trains each pattern for the same number of steps. Here each has the same arithmetic, so that "
        "flatten, whose sequences are four times as long, has fewer steps than delay. The paper has no cross-entropy; "
        "what is expected of it follows from the factorisation: parallel predicts the codes of a frame as independent.",
    ),
    Study(
        "sizes",
        "Does a larger model predict better?",
        "table 5 (in-domain)",
        (
            Row("nano", "nano, for 300M", 1, paper={"ppl": 56.1, "fad": 0.96}),
            Row("mini", "mini, for 1.5B", 1, paper={"ppl": 48.4, "fad": 0.86}),
            Row("midi", "midi, for 3.3B", 1, paper={"ppl": 46.1, "fad": 0.82}),
        ),
        (*_order("ppl", "midi", "mini", "nano"), *_order("fad", "midi", "mini", "nano")),
        ("ppl", "fad", "kld", "clap"),
        note="The paper trains each size for the same number of steps. Here each has the same arithmetic, so that the "
        "larger ones have fewer steps. Perplexity is that of the mean cross-entropy of the codebooks.",
    ),
    Study(
        "melody",
        "Does chroma conditioning make clips follow a melody?",
        "table 2 (1.5B)",
        (
            Row("text", "text", 1, paper={"melody": 0.10}),
            Row("chroma", "text + chroma", 1, paper={"melody": 0.66}, melody=True),
            Row("chroma_unheard", "text + chroma, generated from text", 1, paper={"melody": 0.10}),
            Row(
                "chance", "chance: another track's melody", 1, melody=True, part="chance", file="ablation/melody/chroma"
            ),
            Row("chroma_stems", "text + chroma of stems", 0, "wants Demucs' weights and tokens of stems", melody=True),
        ),
        (
            Pair("chroma", "text", "melody"),
            Pair("chroma", "chance", "melody"),
            Pair("chroma", "chroma_unheard", "melody"),
            Pair("text", "chance", "melody", alike=True),
        ),
        ("melody", "ce", "fad", "clap"),
        note="The paper hears melodies without drums and bass; here they are heard in the full mix. Chance is the "
        "clips of text + chroma against the melodies of other tracks.",
    ),
    Study(
        "text",
        "Which text encoder?",
        "table A.1",
        (
            Row("bytes", "bytes, from scratch"),
            Row("t5", "T5", 3, WANTS_TEXT, {"fad": 3.12}),
            Row("flan_t5", "FLAN-T5", 3, WANTS_TEXT),
            Row("clap", "CLAP", 3, WANTS_TEXT, {"fad": 4.16}),
        ),
        (Pair("t5", "flan_t5", "fad", alike=True), Pair("t5", "clap", "fad"), Pair("clap", "t5", "clap")),
    ),
    Study(
        "augmentation",
        "Which augmentation of captions?",
        "table A.2",
        (
            Row("none", "none"),
            Row("merging", "condition merging"),
            Row("normalisation", "merging, normalisation"),
            Row("word_dropout", "merging, word dropout"),
        ),
        (
            Pair("merging", "none", "fad"),
            Pair("merging", "none", "kld"),
            Pair("merging", "normalisation", "fad"),
            Pair("merging", "word_dropout", "fad"),
        ),
    ),
    Study(
        "optimiser",
        "Does D-Adaptation help the smallest model?",
        "section 3.1",
        (Row("adamw", "AdamW"), Row("dadaptation", "D-Adaptation")),
        (Pair("dadaptation", "adamw", "ce"),),
    ),
    Study(
        "guidance",
        "How much guidance?",
        "section 3.1, which sets 3; no table",
        tuple(Row(f"scale_{scale}", f"guidance {scale}", guidance=scale) for scale in (1, 3, 6)),
        (Pair("scale_3", "scale_1", "clap"), Pair("scale_3", "scale_1", "fad")),
        ("fad", "kld", "clap"),
        note="One model is asked at every scale. The order is what the paper's choice of 3 lets expect.",
    ),
    Study(
        "condition_dropout",
        "How often is a sample trained without its text?",
        "section 3.1, which sets 0.2; no table",
        tuple(Row(f"share_{share.replace('.', '_')}", share) for share in ("0.0", "0.1", "0.2")),
        (Pair("share_0_2", "share_0_0", "fad"), Pair("share_0_2", "share_0_0", "clap")),
        note="At guidance 3, whose other branch a model that never lost its text has not learnt.",
    ),
    Study(
        "stereo",
        "Stereo or mono?",
        "table 3 (1.5B), by listeners",
        (
            Row("mono", "mono, delay"),
            Row("stereo_delay", "stereo delay", 0, "wants tokens of a stereo codec"),
            Row("stereo_partial_delay", "stereo partial delay", 0, "wants tokens of a stereo codec"),
        ),
        _order("fad", "stereo_partial_delay", "stereo_delay", "mono"),
        note="The paper's order is that of its listeners: 86.73, 85.51, 84.95.",
    ),
    Study(
        "codec",
        "DAC in the place of EnCodec?",
        "table A.3",
        (Row("encodec", "EnCodec (embedded)"), Row("dac", "DAC", 0, "wants DAC's weights and tokens written with it")),
        (Pair("dac", "encodec", "fad"), Pair("encodec", "dac", "kld")),
    ),
    Study(
        "memorisation",
        "Is training music continued by heart?",
        "appendix, the memorisation study",
        (
            Row("train", "training tracks", file="ablation/memorisation/base"),
            Row("test", "held-out tracks", part="test", file="ablation/memorisation/base"),
        ),
        (Pair("train", "test", "exact", alike=True), Pair("train", "test", "partial", alike=True)),
        MEMORY,
        note="The paper finds that exact continuations are rare. Expected is that training tracks are not continued "
        "exactly more often than tracks that were never seen.",
    ),
)
STUDIES = {study.name: study for study in _ALL}


def runnable() -> list[tuple[Study, Row]]:
    """All rows that want nothing fetched, in their order."""
    return [(study, row) for study in STUDIES.values() for row in study.rows if not row.missing]


def chosen(names: Sequence[str]) -> list[Study]:
    """Studies by their names, all for none.

    Raises:
        InputError: there is no such study.
    """
    for name in names:
        if name not in STUDIES:
            raise InputError(f"there is no study {name!r}; choose from {', '.join(STUDIES)}")
    return [STUDIES[name] for name in dict.fromkeys(names or STUDIES)]
