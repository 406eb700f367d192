"""Several codecs on the same clips: neural ones beside Opus and Vorbis, in one table, with paired differences.

Shape letters: C channels, N samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from datamodules.errors import InputError
from evaluation.tables import ARROWS, number
from evaluation.uncertainty import FEWEST_FOR_INTERVAL, bootstrap_ratio, paired_difference
from experiments.codecs.evaluation import METRICS, CodecEvaluation, mean_of_clips, stretch
from experiments.codecs.results import described
from lightning_modules.codec.baselines import FileCodec, is_baseline
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.folder import load_codec
from lightning_modules.codec.visqol import Visqol


class SharedExcerpt(NamedTuple):
    """The same stretch of a clip in every system's version.

    Attributes:
        clips: the clip's row of each system.
        start: where in the track, seconds.
        original: [C, N].
        reconstructions: one [C, N] a system.
    """

    clips: list[dict[str, Any]]
    start: float
    original: Tensor
    reconstructions: list[Tensor]


class CodecComparison:
    """Takes clips one after the other and gives each to every system; one that any of them cannot take is in no figure.

    Args:
        systems: an evaluation for each name, all of one sample rate and as many channels.
        examples: excerpts to keep: of the clips whose mel distance, averaged over systems, is largest, where the first
            system is worst.
    """

    def __init__(self, systems: Mapping[str, CodecEvaluation], examples: int = 8) -> None:
        self.systems, self.examples = dict(systems), examples
        self.excerpts: list[SharedExcerpt] = []
        self.clips = next(iter(self.systems.values())).clips

    @property
    def rate_and_channels(self) -> tuple[int, int]:
        """Of the clips: Hz, and how many."""
        return next(iter(self.systems.values())).rate_and_channels

    def add(self, name: str, wav: Tensor, start: float = 0.0) -> None:
        """Measures a clip [C, N] with every system.

        Raises:
            InputError: one of them could not, and which; the clip is then counted for none.
        """
        measured = []
        for system, evaluation in self.systems.items():
            try:
                measured.append(evaluation.measure(name, wav, start))
            except InputError as error:
                raise InputError(f"{system}: {error}") from error
        for evaluation, one in zip(self.systems.values(), measured, strict=True):
            evaluation.count(one)
        first, stop = stretch(measured[0].worst, self.rate_and_channels[0])
        cut = [side[:, first:stop].clone() for side in (wav, *(one.reconstruction for one in measured))]
        clips = [one.clip for one in measured]
        self.excerpts.append(SharedExcerpt(clips, clips[0]["worst_at"], cut[0], cut[1:]))
        self.excerpts.sort(key=lambda kept: -sum(clip["mel_distance"] for clip in kept.clips))
        del self.excerpts[self.examples :]

    def results(self, no_visqol: str = "") -> dict[str, Any]:
        """The systems' figures, in their order, and each later system's difference to the first.

        Args:
            no_visqol: why there is no ViSQOL score, if there is none.
        """
        systems = [
            {"name": name, "codec": _described(name, evaluation.codec), **_with_bitrate(evaluation, no_visqol)}
            for name, evaluation in self.systems.items()
        ]
        return {"systems": systems, "differences": [_difference(one, systems[0]) for one in systems[1:]]}


def load_systems(names: Sequence[str], device: str, visqol: Visqol | None) -> dict[str, CodecEvaluation]:
    """An evaluation for each codec: folders of neural codecs, and names of baselines at their rate and channels.

    Raises:
        InputError: a name given twice, no neural codec, or codecs of different rates or channels.
    """
    for name in names:
        if list(names).count(name) > 1:
            raise InputError(f"--codec {name} is given twice; give it once")
    neural = {name: load_codec(name, device) for name in names if not is_baseline(name)}
    if not neural:
        raise InputError(
            f"{', '.join(names)}: clips are taken at a neural codec's sample rate; add the folder of one as a --codec"
        )
    first, *others = neural
    rate, channels = neural[first].sample_rate, neural[first].channels
    for name in others:
        if (neural[name].sample_rate, neural[name].channels) != (rate, channels):
            raise InputError(
                f"{first} has {_shape(neural[first])} and {name} {_shape(neural[name])}; evaluate them apart"
            )
    codecs = {name: neural.get(name) or FileCodec(name, rate, channels) for name in names}
    return {name: CodecEvaluation(codec, device, 0, visqol) for name, codec in codecs.items()}


def comparison_table(results: Mapping[str, Any]) -> Table:
    """A row a system, for the terminal."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("codec", overflow="fold", min_width=14)
    table.add_column("kbit/s", justify="right", no_wrap=True)
    shown = [metric for metric in METRICS if any(one["metrics"][metric.key]["n"] for one in results["systems"])]
    for metric in shown:
        name = metric.name.removesuffix(", dB").removesuffix(" distance")
        table.add_column(f"{name} {ARROWS[metric.better]}", justify="right", no_wrap=True)
    table.add_column("perpl.", justify="right", no_wrap=True)
    for one in results["systems"]:
        cells = [_cell(one["bitrate"]["measured"]), *(_cell(one["metrics"][metric.key]) for metric in shown)]
        table.add_row(one["name"], *cells, perplexity_text(one).partition(" ")[0])
    return table


def comparison_lines(results: Mapping[str, Any]) -> list[str]:
    """What the table leaves out: differences to the first system, figures that are missing, clips that are."""
    lines = []
    for one in results["differences"]:
        told = [
            f"{metric.name.removesuffix(', dB')} {signed(one['metrics'][metric.key])}"
            for metric in METRICS
            if one["metrics"][metric.key]["value"] is not None
        ]
        lines.append(f"{one['name']} minus {one['minus']}, clip by clip: {'; '.join(told) or 'nothing to compare'}")
    for metric in METRICS:
        score = results["systems"][0]["metrics"][metric.key]
        if score["value"] is None:
            lines.append(f"{metric.name}: not computed, {score['reason']}")
    return lines + [f"left out {failure['id']}: {failure['reason']}" for failure in results["failed"]]


def perplexity_text(system: Mapping[str, Any]) -> str:
    """Mean perplexity of the codebooks, with the least and the greatest; a dash where there are none."""
    values = [book["perplexity"] for book in system.get("codebooks", ())]
    if not values:
        return "\N{EN DASH}"
    span = f" ({min(values):,.0f} to {max(values):,.0f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):,.0f}{span}"


def signed(score: Mapping[str, Any]) -> str:
    """A difference with its sign, and its interval."""
    bounds = "" if score["low"] is None else f" [{_signed(score['low'])}, {_signed(score['high'])}]"
    return f"{_signed(score['value'])}{bounds}"


def _signed(value: float) -> str:
    text = number(value)
    return text if value < 0 or float(f"{value:.3f}") == 0 else f"+{text}"


def _cell(score: Mapping[str, Any]) -> str:
    """A mean over its interval, in two decimals: the table must fit 80 columns."""
    bounds = "" if score["low"] in (None, score["value"]) else f"\n{_short(score['low'])}..{_short(score['high'])}"
    return _short(score["value"]) + bounds


def _short(value: float | None) -> str:
    return number(None) if value is None else number(round(value, 2))[:-1]


def _described(name: str, codec: Codec | FileCodec) -> dict[str, Any]:
    return described(name, codec) if isinstance(codec, Codec) else codec.described()


def _shape(codec: Codec) -> str:
    return f"{codec.sample_rate:,} Hz and {codec.channels} channel{'s' * (codec.channels > 1)}"


def _with_bitrate(evaluation: CodecEvaluation, no_visqol: str) -> dict[str, Any]:
    """A system's results with what its codes or files took: all bits over all seconds, and each clip's."""
    results = evaluation.results(no_visqol)
    bits, seconds = evaluation.bits, evaluation.seconds
    measured: dict[str, Any] = {"value": sum(bits) / sum(seconds) / 1000, "low": None, "high": None, "n": len(bits)}
    if len(bits) >= FEWEST_FOR_INTERVAL:
        measured |= bootstrap_ratio([number / 1000 for number in bits], seconds)._asdict()
    rates = (number / length / 1000 for number, length in zip(bits, seconds, strict=True))
    clips = [{**clip, "kbit_per_second": rate} for clip, rate in zip(results["clips"], rates, strict=True)]
    return {**results, "bitrate": {"measured": measured, **results["bitrate"]}, "clips": clips}


def _difference(one: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """``one`` minus ``base``, metric by metric, over the clips that have a value of both."""
    found = {}
    for metric in METRICS:
        pairs = [
            (ours[metric.key], theirs[metric.key])
            for ours, theirs in zip(one["clips"], base["clips"], strict=True)
            if ours[metric.key] is not None and theirs[metric.key] is not None
        ]
        if len(pairs) < FEWEST_FOR_INTERVAL:
            found[metric.key] = mean_of_clips([left - right for left, right in pairs], "no clip has both values")
        else:
            found[metric.key] = {**paired_difference(*zip(*pairs, strict=True))._asdict(), "n": len(pairs)}
    return {"name": one["name"], "minus": base["name"], "metrics": found}
