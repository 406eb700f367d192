"""A job on a GPU: captions to audio files, by the small model and a codec of 32 kHz, both with random weights."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from experiments.benchmarks.decode_plan import Measured, Plan, random_lm, synchronised
from experiments.benchmarks.measuring import Row
from experiments.jobs import Options, generate_clips
from experiments.prompts import Prompt
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.conditioning.conditioners import Conditioners
from lightning_modules.conditioning.t5 import fresh_byte_encoder
from lightning_modules.conditioning.text import BYTES, TextEncoderConfig
from lightning_modules.generation.model import MusicModel

_TINY_CODEC = CodecConfig(filters=4, dim=16, lstm_layers=1, entries=64)


def measure_job(measured: Measured, plan: Plan) -> None:
    """Captions to files: the language model in bfloat16, the codec of 32 kHz, and writing."""
    text = fresh_byte_encoder(TextEncoderConfig(name=BYTES))
    codec = EnCodec(_TINY_CODEC if plan.quick else CodecConfig()).to(plan.device).eval()
    lm = random_lm(plan, "small", text.dim)
    model = MusicModel(lm, Conditioners(text).to(plan.device).eval(), codec, "random", {})
    captions = [
        f"number {n}: a calm piano over soft strings, {60 + n % 90} beats a minute" for n in range(plan.captions)
    ]
    speeds: dict[int, float] = {}
    for batch in plan.batches:
        begun = synchronised(plan.device)
        model.generate_codes(captions[:batch], plan.trial)
        speeds[batch] = batch / (synchronised(plan.device) - begun)
        what = f"small, batch {batch}, codes of clips of {plan.trial:g} s"
        measured.add(Row(what, "clips/s", speeds[batch]))
    batch = max(speeds, key=lambda size: speeds[size])
    prompts = [Prompt(f"{n:04d}", caption, plan.seconds, 0) for n, caption in enumerate(captions)]
    codes = torch.zeros(8, codec.codebooks, round(plan.seconds * codec.frame_rate), dtype=torch.int64)
    codes = codes.to(plan.device)
    codec.decode(codes)
    begun = synchronised(plan.device)
    codec.decode(codes)
    speed = 8 / (synchronised(plan.device) - begun)
    measured.add(Row("decoding codes to 32 kHz, 8 clips at once", "clips/s", speed))
    with TemporaryDirectory(prefix="mgl-bench-") as folder:
        begun = synchronised(plan.device)
        generate_clips(model, prompts, Path(folder), Options(batch_size=batch, precision="bf16"), "random")
        seconds = synchronised(plan.device) - begun
        assert len(list(Path(folder).glob("*.wav"))) == plan.captions
    what = f"{plan.captions:,} captions to WAV files of {plan.seconds:g} s, small, batch {batch}"
    measured.add(Row(what, "s", seconds, small_is_good=True))
    scaled = seconds * 5500 / plan.captions
    measured.add(Row("the same, scaled to 5,500", "s", scaled, wanted="<= 300", small_is_good=True))
