"""Training the codec: reconstruction in the time and mel domains, commitment, codebooks by moving averages."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from datamodules.batches import AudioBatch
from datamodules.errors import InputError
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.folder import save_codec
from lightning_modules.codec.losses import SCALES, MultiScaleMelDistance, MultiScaleMelLoss, si_sdr
from lightning_modules.codec.measures import code_perplexity
from lightning_modules.optim import OptimConfig, adamw


class CodecTraining(LightningModule):
    """Trains a codec on waveform crops.

    Args:
        codec: its shape.
        optim: optimiser and schedule.
        l1_weight: weight of the waveform's mean absolute error.
        mel_weight: weight of the multi-scale mel loss.
        commitment_weight: weight of the commitment loss.
        codebook_decay: decay of the codebooks' moving averages, a step.
        free_steps: steps that pass unquantized before the codebooks are initialised.
    """

    def __init__(
        self,
        codec: CodecConfig,
        optim: OptimConfig,
        l1_weight: float = 0.1,
        mel_weight: float = 2.0,
        commitment_weight: float = 1.0,
        codebook_decay: float = 0.99,
        free_steps: int = 0,
    ) -> None:
        super().__init__()
        self.optim = optim
        self.weights = {"l1": l1_weight, "mel": mel_weight, "commitment": commitment_weight}
        self.codec = EnCodec(codec)
        self.codec.quantizer.follow(codebook_decay, free_steps)
        self.mel_loss = MultiScaleMelLoss(codec.sample_rate)
        self.mel_distance = MultiScaleMelDistance(codec.sample_rate)

    def setup(self, stage: str) -> None:
        """Checks that the longest window of the mel losses fits a crop.

        Raises:
            InputError: it does not.
        """
        seconds = getattr(getattr(self.trainer, "datamodule", None), "seconds", None)
        shortest = max(window for window, _ in SCALES) / self.codec.sample_rate
        if seconds is not None and seconds < shortest:
            raise InputError(f"crops of {seconds} s are shorter than the longest mel window, {shortest:.3f} s")

    def training_step(self, batch: AudioBatch, batch_index: int) -> Tensor:
        """One step on audio [B, C, N]; padding is part of the signal a codec has to code."""
        output = self.codec(batch.audio)
        losses = {"commitment": output.commitment, **self._reconstruction_losses(output.reconstruction, batch.audio)}
        total = torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        self.log("train/loss", total, prog_bar=True)
        return total

    def validation_step(self, batch: AudioBatch, batch_index: int) -> None:
        """Distances between held-out audio and its reconstruction, and how much of each codebook is in use."""
        output = self.codec(batch.audio)
        count = len(batch.audio)
        with torch.autocast(self.device.type, enabled=False):
            reconstruction = output.reconstruction.float()
            mel_distance = self.mel_distance(reconstruction, batch.audio).mean()
            ratio = si_sdr(reconstruction, batch.audio).mean()
        self.log("valid/mel_distance", mel_distance, batch_size=count, prog_bar=True, sync_dist=True)
        self.log("valid/si_sdr", ratio, batch_size=count, sync_dist=True)
        for k in range(self.codec.codebooks):
            perplexity = code_perplexity(output.codes[:, k], self.codec.entries)
            self.log(f"valid/perplexity_{k}", perplexity, batch_size=count, sync_dist=True)

    def _reconstruction_losses(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        # In float32 whatever the precision of the run: a logarithm of quiet bands needs it.
        with torch.autocast(self.device.type, enabled=False):
            reconstruction = reconstruction.float()
            return {"l1": F.l1_loss(reconstruction, target), "mel": self.mel_loss(reconstruction, target)}

    def export(self, folder: str | Path) -> None:
        """Writes the codec as a codec folder."""
        save_codec(folder, self.codec)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine over the run's ``max_steps``."""
        return adamw(self.codec.parameters(), self.optim, self.trainer.max_steps)
