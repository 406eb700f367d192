"""What one hears and sees of a codec while it trains.

Shape letters: B items, C channels, N samples, K codebooks, V entries, F bands, T frames.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor
from torch.nn import functional as F
from torchaudio.transforms import MelSpectrogram

from datamodules.batches import AudioBatch
from datamodules.errors import InputError
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.encodec import CodecOutput
from lightning_modules.codec.measures import CodebookCounts
from lightning_modules.media_log import log_audio, log_picture

_WINDOW, _BANDS, _COLUMNS, _DEPTH = 2048, 80, 300, 80.0
_ZOOM, _GAP = 3, 4  # rows of pixels a band; columns between two spectrograms
# matplotlib's magma (CC0), at nine equal steps: its lightness rises evenly, so equal decibels look equally far apart.
_MAGMA = torch.tensor(
    [
        (0, 0, 4), (29, 17, 71), (81, 18, 124), (131, 38, 129), (183, 55, 121),
        (231, 82, 99), (252, 137, 97), (254, 196, 136), (252, 253, 191),
    ],
    dtype=torch.uint8,
)  # fmt: skip


class CodecListening(Callback):
    """Logs reconstructions of the same few held-out items at every validation, and the codes' use.

    It listens to the passes that validation makes anyway, so it takes no gradient, draws no random number and changes
    no weight; training is the same to the last bit without it. It writes, at the run's step,

    - ``listen/i/original`` (once) and ``listen/i/reconstruction`` of item i, in mono;
    - ``listen/i/spectrogram``: the original beside the reconstruction, mel, 80 dB deep;
    - ``codes/k``, in TensorBoard: a histogram of log10(1 + count) of codebook k's entries; at 0 are those that never
      occurred;
    - ``valid/use_k``: the share of codebook k's entries that did.

    Only the process of rank 0 writes, of the validation items that it was given, to every logger that
    ``lightning_modules.media_log`` knows.

    Args:
        examples: items of the first validation batch; 0 for none.
        seconds: most seconds of each.
        every: validations from one to the next that is written.

    Raises:
        InputError: a setting without sense.
    """

    def __init__(self, examples: int = 4, seconds: float = 10.0, every: int = 1) -> None:
        if examples < 0 or not seconds > 0 or every < 1:
            raise InputError(
                f"examples={examples}, seconds={seconds}, every={every}: give 0 or more, more than 0, and 1 or more"
            )
        self.examples, self.seconds, self.every = examples, seconds, every
        self.validations = 0
        self._originals_are_there = False
        self._counts: CodebookCounts | None = None
        self._heard: list[Tensor] = []
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to listen to the module's codec.

        Raises:
            InputError: the module has none.
        """
        codec = getattr(pl_module, "codec", None)
        if not isinstance(codec, Codec):
            raise InputError(f"CodecListening is for the training of a codec, which {type(pl_module).__name__} is not")
        self._stop()
        # A resumed run begins with a validation where it stopped: that was written then.
        again = trainer.sanity_checking and self.validations > 0
        due = self.validations % self.every == 0
        self.validations += not again
        if again or not due or not trainer.is_global_zero or not trainer.loggers:
            return
        self._counts, self._heard = CodebookCounts(codec.codebooks, codec.entries), []
        self._hook = codec.register_forward_hook(self._hear)

    def _hear(self, codec: Any, given: tuple[Tensor, ...], output: CodecOutput) -> None:
        assert self._counts is not None
        self._counts.add(output.codes.detach())
        if not self._heard and self.examples:
            self._heard = [output.reconstruction[: self.examples].detach().float().cpu()]

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the examples after the first batch."""
        if self._hook is None or not self._heard or batch_idx or dataloader_idx:
            return
        assert isinstance(batch, AudioBatch)
        codec: Codec = pl_module.codec  # type: ignore[assignment]
        longest = round(self.seconds * codec.sample_rate)
        for index, made in enumerate(self._heard[0]):
            length = min(int(batch.lengths[index]), longest)
            pair = [wav[:, :length].float().cpu().mean(0) for wav in (batch.audio[index], made)]
            self._write(trainer.loggers, f"listen/{index}", pair, codec.sample_rate, trainer.global_step)
        self._originals_are_there = True

    def _write(self, loggers: Sequence[Logger], name: str, pair: Sequence[Tensor], sample_rate: int, step: int) -> None:
        """An original and its reconstruction, [N] each."""
        players = dict(zip(("original", "reconstruction"), pair, strict=True))
        if self._originals_are_there:
            del players["original"]
        for kind, wav in players.items():
            log_audio(loggers, f"{name}/{kind}", wav[None], sample_rate, step)
        log_picture(loggers, f"{name}/spectrogram", spectrograms(pair[0], pair[1], sample_rate), step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes how the codebooks were used."""
        counts, listened = self._counts, self._hook is not None
        self._stop()
        if not listened or counts is None or not counts.counts.any():
            return
        for logger in trainer.loggers:
            logger.log_metrics({f"valid/use_{k}": book.use for k, book in enumerate(counts.use())}, trainer.global_step)
            if isinstance(logger, TensorBoardLogger):
                for k, row in enumerate(counts.counts):
                    heights = row.double().log1p() / torch.tensor(10.0).log()
                    logger.experiment.add_histogram(f"codes/{k}", heights, trainer.global_step)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stops listening."""
        self._stop()

    def _stop(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._counts, self._heard = None, None, []

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were, and whether the originals are written: a resumed run goes on."""
        return {"validations": self.validations, "originals": self._originals_are_there}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.validations, self._originals_are_there = state_dict["validations"], state_dict["originals"]


def spectrograms(original: Tensor, reconstruction: Tensor, sample_rate: int) -> Tensor:
    """Two waveforms [N] as one picture of their mel spectrograms side by side: [3, 3 F, 2 T + 4] uint8.

    Low pitches are at the bottom. Both are on the scale of the original, from its loudest place to 80 dB below.
    """
    hop = max(64, original.shape[-1] // _COLUMNS)
    mel = MelSpectrogram(sample_rate, _WINDOW, hop_length=hop, n_mels=_BANDS, f_max=sample_rate / 2)
    both = [F.pad(wav.nan_to_num(), (0, max(0, _WINDOW - wav.shape[-1]))) for wav in (original, reconstruction)]
    decibels = [10 * mel(wav).clamp(min=1e-10).log10() for wav in both]
    # A silent original must not make noise far below hearing look loud.
    top = max(float(decibels[0].max()), -60.0)
    pictures = [colours((values - top) / _DEPTH + 1).flip(1) for values in decibels]
    white = torch.full((3, _BANDS, _GAP), 255, dtype=torch.uint8)
    return torch.cat([pictures[0], white, pictures[1]], 2).repeat_interleave(_ZOOM, 1)


def colours(values: Tensor) -> Tensor:
    """Values [F, T], 0 (black) to 1 (pale yellow) and cut off there -> [3, F, T] uint8, in magma's colours."""
    place = values.clamp(0, 1) * (len(_MAGMA) - 1)
    below = place.long().clamp(max=len(_MAGMA) - 2)
    steps = _MAGMA.float()
    mixed = torch.lerp(steps[below], steps[below + 1], (place - below)[..., None])
    return mixed.round().to(torch.uint8).movedim(-1, 0)
