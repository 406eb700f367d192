"""Training the codec: reconstruction in time and mel domains, discriminators, commitment, codebooks by averages.

Shape letters: B items, C channels, N samples.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from datamodules.batches import AudioBatch
from datamodules.errors import InputError
from lightning_modules import ranks
from lightning_modules.codec.balancer import Balancer
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.discriminators import (
    DiscriminatorConfig,
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from lightning_modules.codec.encodec import EnCodec
from lightning_modules.codec.folder import load_codec, save_codec
from lightning_modules.codec.losses import SCALES, MultiScaleMelDistance, MultiScaleMelLoss, si_sdr
from lightning_modules.codec.measures import CodebookCounts
from lightning_modules.optim import OptimConfig, scheduled


class CodecTraining(LightningModule):
    """Trains a codec on waveform crops, with the losses of EnCodec under its balancer (arXiv 2210.13438, section 3.4).

    Generator and discriminators take their steps at the same time, from one backward pass: every discriminator is run
    once on the real and once on the reconstructed audio, half as often as where it steps first, and data parallel
    training sees every parameter once. Both optimisers are stepped by hand; only the generator's steps are counted.

    Args:
        codec: its shape.
        optim: optimiser and schedule of both.
        discriminators: their shape; None trains on reconstruction alone.
        l1_weight: share of the waveform's mean absolute error; the shares of the losses that there are make a whole.
        mel_weight: share of the multi-scale mel loss.
        adversarial_weight: share of what the discriminators say.
        feature_weight: share of the distance between the discriminators' activations.
        commitment_weight: weight of the commitment loss, which is outside the balancer.
        codebook_decay: decay of the codebooks' moving averages, a step.
        free_steps: steps that pass unquantized before the codebooks are initialised.
        start_from: folder of a codec of the same shape to go on from, or "embedded".
        decoder_only: encoder and codebooks stay as ``start_from`` has them, and so do its codes: token stores and
            language models go on with the better decoder.
        seed: of the draws of codebooks.

    Raises:
        InputError: ``start_from`` is of another shape, or missing where the decoder alone is trained.
    """

    def __init__(
        self,
        codec: CodecConfig,
        optim: OptimConfig,
        discriminators: DiscriminatorConfig | None = None,
        l1_weight: float = 0.1,
        mel_weight: float = 2.0,
        adversarial_weight: float = 4.0,
        feature_weight: float = 4.0,
        commitment_weight: float = 1.0,
        codebook_decay: float = 0.99,
        free_steps: int = 0,
        start_from: str | None = None,
        decoder_only: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if decoder_only and not start_from:
            raise InputError("decoder_only keeps an encoder that was trained before: name its codec as start_from")
        self.automatic_optimization = False
        self.optim, self.commitment_weight = optim, commitment_weight
        self.codec = _codec(codec, start_from)
        self.codec.quantizer.follow(codebook_decay, free_steps, seed)
        self._kept = [self.codec.encoder, self.codec.quantizer] if decoder_only else []
        for module in self._kept:
            module.requires_grad_(False).eval()
        self.discriminators = Discriminators(discriminators, codec.channels) if discriminators else None
        shares = {"l1": l1_weight, "mel": mel_weight, "adversarial": adversarial_weight, "feature": feature_weight}
        self.balancer = Balancer(shares)
        self.mel_loss = MultiScaleMelLoss(codec.sample_rate)
        self.mel_distance = MultiScaleMelDistance(codec.sample_rate)
        self._windows = [window for window, _ in SCALES] + list(discriminators.windows if discriminators else ())

    def setup(self, stage: str) -> None:
        """Checks that the longest window fits a crop, and the precision.

        Raises:
            InputError: it does not, or the run is in float16.
        """
        seconds = getattr(getattr(self.trainer, "datamodule", None), "seconds", None)
        shortest = max(self._windows) / self.codec.sample_rate
        if seconds is not None and seconds < shortest:
            raise InputError(f"crops of {seconds} s are shorter than the longest window, {shortest:.3f} s")
        if str(self.trainer.precision).startswith("16"):
            raise InputError("the codec trains in 32-true or bf16-mixed; float16 would need a scale for each optimiser")

    def train(self, mode: bool = True) -> "CodecTraining":
        """As of every module; codebooks that are kept do not follow what they code."""
        super().train(mode)
        for module in self._kept:
            module.eval()
        return self

    def training_step(self, batch: AudioBatch, batch_index: int) -> Tensor:
        """One step of everything on audio [B, C, N]; padding is part of the signal a codec has to code.

        Raises:
            InputError: a loss is not finite; names the step and the tracks.
        """
        output = self.codec(batch.audio)
        # Losses in float32 whatever the precision of the run: a logarithm of quiet bands needs it.
        with torch.autocast(self.device.type, enabled=False):
            reconstruction = output.reconstruction.float()
            heard = reconstruction.detach().requires_grad_()
            losses, critic = self._losses(heard, batch.audio)
            self._require_finite({**losses, "commitment": output.commitment, "discriminator": critic}, batch)
            gradient, norms = self.balancer(losses, heard)
            total = (reconstruction * gradient).sum() + self.commitment_weight * output.commitment + critic
        self._step(total)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()})
        self.log_dict({f"gradient_norm/{name}": value for name, value in norms.items()})
        self.log_dict({"train/commitment": output.commitment.detach(), "train/discriminator": critic.detach()})
        loss = losses["mel"].detach()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _losses(self, heard: Tensor, real: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The generator's losses on a reconstruction [B, C, N], and that of the discriminators."""
        losses = {"l1": F.l1_loss(heard, real), "mel": self.mel_loss(heard, real)}
        if self.discriminators is None:
            return losses, heard.new_zeros(())
        if self.global_step < self.discriminators.starts:
            # Data parallel training wants a gradient for every parameter, be it zero.
            return losses, 0.0 * torch.stack([p.sum() for p in self.discriminators.parameters()]).sum()
        judged_real, judged = self.discriminators(real), self.discriminators(heard)
        losses["adversarial"], losses["feature"] = adversarial_loss(judged), feature_loss(judged_real, judged)
        return losses, discriminator_loss(judged_real, judged)

    def _step(self, total: Tensor) -> None:
        """One backward pass, and a step of each optimiser and schedule."""
        found = self.optimizers()
        optimizers = found if isinstance(found, list) else [found]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(total)
        optimizers[0].step()
        for other in optimizers[1:]:
            other.optimizer.step()  # Lightning would count it as another step of the run
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.step()  # type: ignore[call-arg]

    def _require_finite(self, losses: dict[str, Tensor], batch: AudioBatch) -> None:
        values = torch.stack([value.detach().float() for value in losses.values()]).tolist()
        wrong = [name for name, value in zip(losses, values, strict=True) if value - value != 0]
        if wrong:
            raise InputError(
                f"step {self.global_step}: the loss {wrong[0]} is not finite, on {', '.join(batch.tracks)}; the last "
                "checkpoint stays. Look at these tracks, or go on from it with a smaller learning rate"
            )

    def on_validation_epoch_start(self) -> None:
        """Begins to count codes."""
        self._counts = CodebookCounts(self.codec.codebooks, self.codec.entries)

    def validation_step(self, batch: AudioBatch, batch_index: int) -> None:
        """Distances between held-out audio and its reconstruction; codes are counted."""
        output = self.codec(batch.audio)
        count = len(batch.audio)
        with torch.autocast(self.device.type, enabled=False):
            reconstruction = output.reconstruction.float()
            mel_distance = self.mel_distance(reconstruction, batch.audio).mean()
            ratio = si_sdr(reconstruction, batch.audio).mean()
        self.log("valid/mel_distance", mel_distance, batch_size=count, prog_bar=True, sync_dist=True)
        self.log("valid/si_sdr", ratio, batch_size=count, sync_dist=True)
        self._counts.add(output.codes)

    def on_validation_epoch_end(self) -> None:
        """How many entries of each codebook are, in effect, in use: over all codes of all processes, not a batch's."""
        self._counts.counts = ranks.add_up(self._counts.counts.to(self.device)).cpu()
        for k, book in enumerate(self._counts.use()):
            self.log(f"valid/perplexity_{k}", book.perplexity, rank_zero_only=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the quantizer's training needs beside its buffers."""
        checkpoint["quantizer"] = self.codec.quantizer.training_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the quantizer's training where it was."""
        self.codec.quantizer.load_training_state(checkpoint["quantizer"])

    def export(self, folder: str | Path, half: bool = False) -> None:
        """Writes the codec as a codec folder, in float16 if asked to."""
        save_codec(folder, self.codec, half=half)

    def configure_optimizers(self) -> Any:
        """The optimiser with warm-up and cosine over ``max_steps``, for the codec and for the discriminators."""
        trained = [self.codec] if self.discriminators is None else [self.codec, self.discriminators]
        return [scheduled(module.parameters(), self.optim, self.trainer.max_steps) for module in trained]


def _codec(config: CodecConfig, start_from: str | None) -> EnCodec:
    codec = EnCodec(config)
    if start_from:
        given = load_codec(start_from)
        if not isinstance(given, EnCodec) or given.config != config:
            raise InputError(f"{start_from}: holds a codec of another shape than the run's; leave start_from out")
        codec.load_state_dict(given.state_dict())
    return codec
