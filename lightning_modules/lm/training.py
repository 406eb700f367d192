"""Training the language model (MusicGen, section 3.1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.batches import TokenBatch
from datamodules.errors import InputError
from datamodules.sample_order import uniform
from lightning_modules.checkpoints import save_model
from lightning_modules.codec.folder import codec_checksum
from lightning_modules.lm.conditioners import Conditions, TextEncoder, TextEncoderConfig, build_text_encoder
from lightning_modules.lm.losses import codebook_means, cross_entropy_sums
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig
from lightning_modules.optim import OptimConfig, adamw


class LanguageModelTraining(LightningModule):
    """Trains a language model on windows of codec tokens with their captions.

    Args:
        lm: shape of the language model.
        text: which text encoder.
        optim: optimiser and schedule.
        condition_dropout: probability that a sample is trained without its text, for classifier-free guidance.
        codec: folder of the codec, or "embedded", that made the tokens; exported models carry it along.
        seed: of the condition dropout, which is a pure function of (seed, sample number).
    """

    def __init__(
        self,
        lm: LanguageModelConfig,
        text: TextEncoderConfig,
        optim: OptimConfig,
        condition_dropout: float = 0.2,
        codec: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.text, self.optim, self.condition_dropout, self.codec, self.seed = (
            text,
            optim,
            condition_dropout,
            codec,
            seed,
        )
        encoder = build_text_encoder(text)
        # A frozen encoder is no submodule: it stays out of checkpoints, averages and sharding.
        self._encoder = [encoder]
        self.trained_encoder: nn.Module | None = encoder if encoder.trained else None
        self.lm = LanguageModel(lm, encoder.dim)
        self.valid_ce: Sequence[MeanMetric] = nn.ModuleList([MeanMetric() for _ in range(lm.codebooks)])  # type: ignore[assignment]

    @property
    def text_encoder(self) -> TextEncoder:
        """The text encoder, trained or frozen."""
        return self._encoder[0]

    def setup(self, stage: str) -> None:
        """Checks that data and model speak of the same tokens.

        Raises:
            InputError: no codec is named, or the tokens are another codec's or of another shape.
        """
        if stage == "fit" and not self.codec:
            raise InputError("a trained model carries its codec along: set model.init_args.codec to the codec's folder")
        store = getattr(getattr(self.trainer, "datamodule", None), "store", None)
        config = self.lm.config
        if store is not None and (store.codebooks, store.entries) != (config.codebooks, config.entries):
            raise InputError(
                f"the token store has {store.codebooks} codebooks of {store.entries} entries, the language model "
                f"{config.codebooks} of {config.entries}; set model.init_args.lm.codebooks and .entries to the store's"
            )
        if store is not None and self.codec and codec_checksum(self.codec) != store.codec:
            raise InputError(
                f"{store.folder}: the tokens come from codec {store.codec[:12]}, not from {self.codec}; name the codec "
                "that wrote them, or write them anew with this one"
            )

    def on_fit_start(self) -> None:
        """Brings the frozen encoder, which no strategy moves, to the device."""
        self.text_encoder.to(self.device)

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor:
        """Mean over codebooks of the cross-entropy on codes [B, K, T], the text dropped for some samples."""
        conditions = Conditions({"text": self.text_encoder(batch.captions)}).drop(self.dropped(batch.numbers))
        logits, targets = self.lm.teacher_forced(batch.codes, conditions, batch.lengths)
        sums, counts = cross_entropy_sums(logits, targets, self.lm.config.entries)
        per_codebook = codebook_means(sums, counts)
        loss = per_codebook.mean()
        self.log("train/ce", loss, prog_bar=True, batch_size=len(batch.codes))
        self.log_dict({f"train/ce_{k}": ce for k, ce in enumerate(per_codebook)}, batch_size=len(batch.codes))
        return loss

    def validation_step(self, batch: TokenBatch, batch_index: int) -> None:
        """Cross-entropy per codebook with the text given, every held-out code counting the same."""
        conditions = Conditions({"text": self.text_encoder(batch.captions)})
        logits, targets = self.lm.teacher_forced(batch.codes, conditions, batch.lengths)
        sums, counts = cross_entropy_sums(logits, targets, self.lm.config.entries)
        for k, metric in enumerate(self.valid_ce):
            metric.update(sums[:, k] / counts[:, k].clamp(min=1), counts[:, k])

    def on_validation_epoch_end(self) -> None:
        """Logs cross-entropy and perplexity per codebook and their means."""
        values = torch.stack([metric.compute() for metric in self.valid_ce])
        for k, (metric, value) in enumerate(zip(self.valid_ce, values, strict=True)):
            self.log(f"valid/ce_{k}", value)
            self.log(f"valid/perplexity_{k}", value.exp())
            metric.reset()
        self.log("valid/ce", values.mean(), prog_bar=True)

    def dropped(self, numbers: Tensor) -> Tensor:
        """Which of the samples [B] are trained without conditions, [B] bool: a draw of each sample's own."""
        draws = [
            uniform(self.seed, number, "condition dropout") < self.condition_dropout for number in numbers.tolist()
        ]
        return torch.tensor(draws, device=numbers.device)

    def export(self, folder: str | Path) -> None:
        """Writes the model as a model folder, with its codec."""
        save_model(folder, self.lm, self.text, self.text_encoder, self.codec)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine over the run's ``max_steps``."""
        return adamw(self.parameters(), self.optim, self.trainer.max_steps)
