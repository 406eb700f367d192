"""``mgl bench decode``: steps of the ``small`` model beside those of transformers' ``generate`` with the same weights.

Shape letters: B items, R rows (2 B with guidance), K codebooks, L places of the text, D width.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from datamodules.hub import quiet_transformers
from experiments.benchmarks.decode_memory import memory_rows
from experiments.benchmarks.measuring import Row
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.converting.lm_huggingface import PROJECTIONS
from lightning_modules.converting.lm_names import HUGGINGFACE, foreign_state, tensor_pieces
from lightning_modules.generation.decoder import Decoder
from lightning_modules.generation.engine import Drawing
from lightning_modules.generation.guidance import branches
from lightning_modules.generation.sampling import Sampling
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig

SMALL = LanguageModelConfig()
_TINY = LanguageModelConfig(dim=64, layers=2, heads=2, entries=64)
TEXT_DIM, TOKENS, WORDS, GUIDANCE = 768, 16, 100, 3.0
_WANTED = {
    ("float32", 1): "ratio >= 1.6",
    ("bfloat16", 1): "ratio >= 1.8",
    ("float32", 4): "ratio >= 1.2",
    ("bfloat16", 4): "ratio >= 1.7",
    ("int8", 1): "ratio >= 5 to float32",
}
_FLOOR_EVERY = 5  # steps


def decode_rows(quick: bool = False, full: bool = False, say: Callable[[str], object] = lambda text: None) -> list[Row]:
    """Everything `mgl bench decode` measures.

    Args:
        quick: a tiny model and few steps: the figures mean little.
        full: all 1,503 steps of 30 seconds at batch 1, instead of 250.
        say: is told what is being done.
    """
    config = _TINY if quick else SMALL
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = LanguageModel(config, {"text": TEXT_DIM}).eval()
    peer = peer_of(lm)
    rows: list[Row] = []
    for dtype in (torch.float32, torch.bfloat16):
        lm.to(dtype)
        peer.to(dtype)
        name = str(dtype).removeprefix("torch.")
        for batch in (1, 4):
            steps = 12 if quick else 1503 if full and batch == 1 else 250 if batch == 1 else 125
            decoders = {name: Decoder(lm)}
            if (name, batch) == ("float32", 1):
                decoders["int8"] = Decoder(lm, int8=True)
            say(f"decode: {steps} steps, batch {batch}, {' and '.join(decoders)}")
            measured = Turns(peer, decoders, batch, steps).run()
            rows += measured.rows()
    steps = 12 if quick else 1503 if full else 150
    say(f"decode: memory of {steps} steps")
    return rows + memory_rows(config, TEXT_DIM, steps)


def peer_of(lm: LanguageModel) -> Any:
    """MusicGen of transformers with the weights of a text model in the delay pattern, and a small text encoder."""
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        T5Config,
    )

    config = lm.config
    with quiet_transformers():
        special: dict[str, Any] = {f"{name}_token_id": config.entries for name in ("decoder_start", "pad", "bos")}
        decoder = MusicgenDecoderConfig(
            vocab_size=config.entries,
            hidden_size=config.dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            ffn_dim=config.ff_ratio * config.dim,
            num_codebooks=config.codebooks,
            activation_function="gelu",
            dropout=0.0,
            **special,
        )
        text = T5Config(vocab_size=WORDS, d_model=TEXT_DIM, d_ff=64, num_layers=1, num_heads=2)
        rate = config.codebooks * (config.entries.bit_length() - 1) * 50 / 1000
        codec = EncodecConfig(
            sampling_rate=32000,
            target_bandwidths=[rate],
            upsampling_ratios=[8, 5, 4, 4],
            num_filters=4,
            hidden_size=16,
            codebook_dim=16,
            codebook_size=config.entries,
            num_lstm_layers=1,
        )
        parts = MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
        peer = MusicgenForConditionalGeneration(parts).eval()
    pieces = tensor_pieces(config, HUGGINGFACE, {"text": PROJECTIONS["text"]})
    missing, unexpected = peer.load_state_dict(foreign_state(lm.state_dict(), pieces), strict=False)
    assert not unexpected
    assert all(name.startswith(("text_encoder", "audio_encoder")) for name in missing)
    return peer


@dataclass
class Side:
    """One way of ours.

    Attributes:
        drawing: the sequence that it decodes.
        seconds: of each step.
        products: seconds of a step's matrix products alone.
        errors: largest difference of guided logits in a step, from the peer's.
        squares: mean square of that difference in a step.
    """

    drawing: Drawing
    seconds: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)


class Turns:
    """A step of the peer's ``generate``, the same step of each of ours, and so on, all fed the codes that it draws.

    Ours step from within the peer's loop, after its forward pass. Its own step lasts from the end of ours to its next
    pass's: cache, guidance, top-k and drawing are in it, as they are in ours.

    Args:
        peer: transformers' model.
        decoders: ours, by name.
        batch: B.
        steps: to decode.
    """

    def __init__(self, peer: Any, decoders: Mapping[str, Decoder], batch: int, steps: int) -> None:
        self.peer, self.decoders, self.batch, self.steps = peer, decoders, batch, steps
        self.tokens = torch.randint(1, WORDS, (batch, TOKENS), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(self.tokens, dtype=torch.bool)
        with torch.inference_mode():
            text = Condition(peer.text_encoder(self.tokens).last_hidden_state, mask)
            given = branches(Conditions({"text": text}), ["text"], GUIDANCE)
            self.sides = {
                name: Side(Drawing(decoder, given, steps - decoder.lm.config.codebooks + 1, range(batch), Sampling()))
                for name, decoder in decoders.items()
            }
        self.seconds: list[float] = []
        self.squares: list[float] = []
        self.done, self.resumed = 0, 0.0

    @torch.inference_mode()
    def run(self) -> "Turns":
        """Decodes."""
        hook = self.peer.register_forward_hook(self._after, with_kwargs=True)
        try:
            self.resumed = time.process_time()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.peer.generate(
                    input_ids=self.tokens,
                    attention_mask=torch.ones_like(self.tokens),
                    guidance_scale=GUIDANCE,
                    do_sample=True,
                    top_k=250,
                    max_new_tokens=self.steps,
                )
        finally:
            hook.remove()
        return self

    def _after(self, module: Any, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        """Our turn."""
        peer_seconds = time.process_time() - self.resumed
        if output.past_key_values.get_seq_length() == self.done + 1:  # the first pass of all is made twice
            self.seconds.append(peer_seconds)
            codes = kwargs["decoder_input_ids"][:, -1].view(2 * self.batch, -1)[: self.batch]
            theirs = output.logits[:, -1].float().view(2, self.batch, codes.shape[1], -1)
            guided = theirs[1] + GUIDANCE * (theirs[0] - theirs[1])
            self.squares.append(float(guided.var()))
            for name, side in self.sides.items():
                self._step(self.decoders[name], side, codes, guided)
            self.done += 1
        self.resumed = time.process_time()

    def _step(self, decoder: Decoder, side: Side, codes: Tensor, theirs: Tensor) -> None:
        drawing = side.drawing
        drawing.sequence[..., self.done] = codes
        begun = time.process_time()
        logits = drawing.advance(self.done + 1)
        side.seconds.append(time.process_time() - begun)
        side.errors.append(float((logits - theirs).abs().max()))
        side.squares.append(float((logits - theirs).square().mean()))
        if self.done % _FLOOR_EVERY == 0:
            side.products.append(products_seconds(decoder, drawing.request.heard, 2 * self.batch))

    def rows(self) -> list[Row]:
        """Steps a second, and how far the logits are from the peer's."""
        peer = 1 / median(self.seconds[2:])
        rate = read_rate()
        rows = []
        for name, side in self.sides.items():
            memory = side.drawing.request.memory
            half = sum(part.numel() * part.element_size() for part in memory) / 2  # half full on average
            floor = 1 / (median(side.products) + half / rate)
            beside = ", transformers in float32" if name == "int8" else ""
            what = f"{self.steps:,} steps, batch {self.batch}, {name}"
            wanted = _WANTED.get((name, self.batch), "")
            rows.append(Row(f"{what}{beside}", "steps/s", 1 / median(side.seconds[2:]), peer, floor, wanted))
            if name == "float32":
                row = Row("guided logits of these, largest difference", "1e-6", max(side.errors) * 1e6, wanted="< 100")
            else:
                share = (sum(side.squares) / sum(self.squares)) ** 0.5
                row = Row("guided logits of these, deviation of the difference", "of theirs", share)
            rows.append(row)
        return rows


def products_seconds(decoder: Decoder, heard: int, rows: int) -> float:
    """Seconds of one step's matrix products with packed weights, and of nothing else."""
    inputs: dict[int, Tensor] = {}
    calls = list(_products(decoder, heard, rows))
    weight = decoder.lm.heads.weight
    for _, count, width in calls:
        inputs.setdefault(count * width, torch.randn(count, width, dtype=weight.dtype))
    begun = time.process_time()
    for product, count, width in calls:
        product(inputs[count * width])
    return time.process_time() - begun


def _products(decoder: Decoder, heard: int, rows: int) -> Iterator[tuple[Callable[[Tensor], Tensor], int, int]]:
    """The products of a step with the shape of their inputs."""
    config = decoder.lm.config
    for layer in decoder.layers:
        yield layer.qkv, rows, config.dim
        yield layer.out, rows, config.dim
        for product in (layer.query, layer.cross_out):
            if product is not None:
                yield product, heard, config.dim
        yield layer.ff_in, rows, config.dim
        yield layer.ff_out, rows, config.ff_ratio * config.dim
    yield decoder.heads, rows, config.dim


def read_rate() -> float:
    """Bytes a second at which this core reads memory, at its best of three."""
    memory = torch.ones(100_000_000)
    best = 0.0
    for _ in range(3):
        begun = time.process_time()
        memory.sum()
        best = max(best, memory.numel() * memory.element_size() / (time.process_time() - begun))
    return best
