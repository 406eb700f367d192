"""From an arrangement to samples, with tinysoundfont.

Each part is rendered by itself and brought to the level that its role has, because the programs of a General MIDI
SoundFont differ by more than 20 dB at one velocity. Shape letter: N samples.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.corpus.arranging import LEVELS, Arrangement, Part
from datamodules.corpus.instruments import instrument

SAMPLE_RATE = 32_000
# Loudness of a piece, and the peak that no sample exceeds: where both cannot be had, the piece is quieter.
TARGET_RMS_DB = -18.0
PEAK_DB = -1.0
TAIL_SECONDS = 1.5
_FADE_SECONDS = 0.6
_DRUM_CHANNEL, _CHANNEL = 9, 0
_BLOCK_SECONDS = 0.4
# Reverberation: seconds until it has fallen by 60 dB, and its level against the dry sound.
_ROOMS = {"room": (0.5, -15.0), "hall": (1.6, -12.0)}

Samples = NDArray[np.float32]


def render(arrangement: Arrangement, soundfont: str | Path) -> Samples:
    """Plays an arrangement.

    Returns:
        [N] float32 mono at 32 kHz: the music and 1.5 s in which the last notes die away, faded to silence. The RMS
        level is -18 dBFS, or what a peak of -1 dBFS allows.

    Raises:
        ValueError: nothing in it sounds.
    """
    import tinysoundfont

    seconds = arrangement.beats * 60 / arrangement.bpm
    frames = round((seconds + TAIL_SECONDS) * SAMPLE_RATE)
    synth = tinysoundfont.Synth(samplerate=SAMPLE_RATE)
    synth.sfload(str(soundfont))
    mix = np.zeros(frames, dtype=np.float32)
    for part in arrangement.parts:
        stem = _stem(synth, part, arrangement.bpm, frames)
        level = _heard_level(stem)
        if level > 0:
            mix += stem * np.float32(10 ** (LEVELS[part.role] / 20) / level)
    if arrangement.room in _ROOMS:
        mix = _in_room(mix, *_ROOMS[arrangement.room])
    return _finished(mix)


def _stem(synth: Any, part: Part, bpm: float, frames: int) -> Samples:
    """One part by itself, [N]: every stroke begins and ends on its own sample."""
    player = instrument(part.instrument)
    drums = player.family == "drums"
    channel = _DRUM_CHANNEL if drums else _CHANNEL
    synth.sounds_off()
    synth.program_change(channel, player.program, drums)
    rate = SAMPLE_RATE * 60 / bpm
    events: list[tuple[int, int, int, int]] = []
    for stroke in part.strokes:
        start = round(stroke.start * rate)
        events.append((start, 1, stroke.pitch, stroke.velocity))
        events.append((max(start + 1, round((stroke.start + stroke.beats) * rate)), 0, stroke.pitch, 0))
    out = np.zeros(2 * frames, dtype=np.float32)
    view = out.data.cast("B")
    now = 0
    # Ends sort before beginnings on the same sample, so that a note struck again is not cut off.
    for at, begins, pitch, velocity in sorted(events):
        at = min(at, frames)
        if at > now:
            synth.generate(at - now, buffer=view[8 * now : 8 * at])
            now = at
        if begins:
            synth.noteon(channel, pitch, velocity)
        else:
            synth.noteoff(channel, pitch)
    if frames > now:
        synth.generate(frames - now, buffer=view[8 * now :])
    return (out[0::2] + out[1::2]) * np.float32(0.5)


def _heard_level(stem: Samples) -> float:
    """RMS of a part where it plays: the mean over its louder blocks, so that rests do not make it louder."""
    block = round(_BLOCK_SECONDS * SAMPLE_RATE)
    count = max(1, len(stem) // block)
    powers = np.square(stem[: count * block].astype(np.float64)).reshape(count, -1).mean(axis=1)
    loud = powers[powers > 0.05 * powers.max()] if powers.max() > 0 else powers
    return float(np.sqrt(loud.mean()))


def _in_room(dry: Samples, decay_seconds: float, level_db: float) -> Samples:
    """Adds reverberation: convolution with exponentially decaying, darkening noise; the length stays."""
    from scipy.signal import oaconvolve

    frames = round(decay_seconds * SAMPLE_RATE)
    noise = np.random.default_rng(0).standard_normal(frames)
    # Air and walls take the treble first: a short moving average.
    noise = np.convolve(noise, np.ones(6) / 6, mode="same")
    response = noise * 10 ** (-3 * np.arange(frames) / frames)
    response[: round(0.012 * SAMPLE_RATE)] = 0
    response /= np.sqrt(np.square(response).sum())
    wet = oaconvolve(dry, response.astype(np.float32))[: len(dry)]
    return np.asarray(dry + 10 ** (level_db / 20) * wet, dtype=np.float32)


def _finished(mix: Samples) -> Samples:
    """Fades the end out, takes the mean away, and sets the level."""
    fade = round(_FADE_SECONDS * SAMPLE_RATE)
    mix = mix - mix.mean()
    mix[-fade:] *= np.cos(np.linspace(0, np.pi / 2, fade, dtype=np.float32)) ** 2
    rms = float(np.sqrt(np.square(mix.astype(np.float64)).mean()))
    peak = float(np.abs(mix).max())
    if rms <= 0:
        raise ValueError("the arrangement is silent")
    gain = min(10 ** (TARGET_RMS_DB / 20) / rms, 10 ** (PEAK_DB / 20) / peak)
    return np.asarray(mix * gain, dtype=np.float32)
