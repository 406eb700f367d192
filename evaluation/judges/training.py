"""Training the embedded judge: captions pull their clips close, facts become labels.

Shape letters: B clips, N samples, D dimensions, L labels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchaudio.transforms import Resample
from torchmetrics.classification import BinaryAccuracy, MultilabelF1Score

from datamodules.batches import AudioBatch
from datamodules.errors import InputError
from datamodules.sample_order import uniform
from evaluation.judges.contract import AudioEmbeddings
from evaluation.judges.embedded import EmbeddedJudge, JudgeConfig
from evaluation.judges.labels import COLLECTIONS, FAMILIES, INSTRUMENTS, build_labels, label_targets
from evaluation.judges.loading import resolve_judge
from evaluation.judges.views import WEAR, worn_views
from evaluation.retrieval import retrieval_recall

_ADDED = ("family", "drums", "instrument")  # labels that clips have together
_QUIETER_DB = 6.0  # by how much at most who plays along is quieter
_CLEAN = 0.8  # cosine of a clip that is not worn with its own caption; half of it where it is worn most


class JudgeTraining(LightningModule):
    """Trains an ``EmbeddedJudge`` on batches of crops.

    The loss is the symmetric InfoNCE between clips and captions (CLAP, Wu et al., 2023), the binary cross-entropy of
    the labels that each track's facts give, the error with which the wear of a view is told from its embedding
    (``evaluation.judges.views``), and the distance of a clip's cosine with its own caption from one that falls with
    wear: else CLAP scores would not see what a judge is taught to hear through. Validation logs ``valid/family_f1``,
    ``valid/drums_accuracy`` and ``valid/recall_at_1``.

    Args:
        crop_rate: sample rate of the batches' audio, in Hz.
        start_from: a judge to begin with, a folder or "embedded", of the same labels and shape; else random weights.
        families: instrument families that the facts may name.
        collections: collections that the facts may name.
        players: instruments that the facts may name.
        name: the judge's name, which stands beside every number made with it.
        sample_rate: rate the judge hears at, in Hz.
        channels: output channels of its convolution stages.
        hidden: what is heard in a window, before labels and joint space read it.
        dim: dimensions of its joint space.
        learning_rate: peak of AdamW's rate; it falls to zero along a cosine over ``trainer.max_steps``.
        weight_decay: of AdamW.
        warmup_steps: steps of linear warm-up.
        contrastive_weight: weight of InfoNCE beside the labels' loss.
        wear_weight: weight of the error in telling wear, and which clips went through a codec.
        fade_weight: weight of the squared distance of cosines from those that fall with wear.
        views: share of training samples that are heard worn.
        coder: passes waveforms [B, 1, N] at the crops' rate through a codec and back
            (``lightning_modules.codec.passing.CodecPass``); None for a judge that never hears one.
        coded: share of training samples that pass through it.
        mixed: share of training samples in which another of the batch plays along, so that who plays is learnt and not
            which piece it is: instruments are those of both, tempo and collection are not asked, and no caption fits.
        seed: of the views, and of which samples are coded and mixed.
    """

    def __init__(
        self,
        crop_rate: int = 32_000,
        start_from: str = "",
        families: Sequence[str] = FAMILIES,
        collections: Sequence[str] = COLLECTIONS,
        players: Sequence[str] = INSTRUMENTS,
        name: str = "embedded",
        sample_rate: int = 16_000,
        channels: Sequence[int] = (32, 64, 128, 192),
        hidden: int = 256,
        dim: int = 128,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.05,
        warmup_steps: int = 100,
        contrastive_weight: float = 1.0,
        wear_weight: float = 1.0,
        fade_weight: float = 0.0,
        views: float = 0.0,
        coder: nn.Module | None = None,
        coded: float = 0.0,
        mixed: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(families) < 2:
            raise InputError(f"a judge tells at least 2 families apart, not {len(families)}; name them in families")
        self.judge = EmbeddedJudge(
            JudgeConfig(
                labels=build_labels(families, collections, players),
                name=name,
                sample_rate=sample_rate,
                channels=tuple(channels),
                hidden=hidden,
                dim=dim,
            )
        )
        if start_from:
            self._start(start_from)
        self.to_wear = nn.Linear(dim, len(WEAR) + 1)  # and whether it went through a codec
        self.crop_rate = crop_rate
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.contrastive_weight, self.wear_weight, self.fade_weight = contrastive_weight, wear_weight, fade_weight
        if coded and coder is None:
            raise InputError(f"coded={coded} of the samples pass through a codec: name it in coder")
        self.views, self.coded, self.mixed, self.seed = views, coded, mixed, seed
        self._coder = [coder] if coder is not None else []  # frozen, so no submodule
        self.resample = Resample(crop_rate, sample_rate) if crop_rate != sample_rate else nn.Identity()
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.drums_at = self.judge.labels.index("drums")
        self.family_f1 = MultilabelF1Score(num_labels=self.drums_at, average="micro")
        self.drums_accuracy = BinaryAccuracy()
        self._heard: list[tuple[Tensor, list[str]]] = []

    def _start(self, start_from: str) -> None:
        """Takes a judge's weights.

        Raises:
            InputError: it is none, or of another shape.
        """
        judge = resolve_judge(start_from)
        if not isinstance(judge, EmbeddedJudge) or judge.config != self.judge.config:
            raise InputError(f"start_from {start_from}: is no judge of the labels and the shape that are to be trained")
        self.judge.load_state_dict(judge.state_dict())

    def on_fit_start(self) -> None:
        """Brings the codec, which no strategy moves, to the device."""
        for coder in self._coder:
            coder.to(self.device).eval()

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        targets, known = self._targets(batch)
        mixed = self._mix(batch, targets, known)
        coded = self._code(batch)
        wav_BN, wear_BE = worn_views(
            self._wave(batch),
            batch.numbers,
            sample_rate=self.judge.sample_rate,
            share=self.views,
            seed=self.seed,
        )
        heard = self._listen(wav_BN, batch)
        contrastive, cosines = self._contrastive(heard, batch, ~mixed)
        fade = (cosines - faded_cosine(wear_BE[~mixed])).square().mean()
        labels = _label_loss(heard, targets, known)
        wear_BE = torch.cat([wear_BE, coded[:, None].to(wear_BE)], dim=1)
        wear = (self.to_wear(heard.clips()) - wear_BE).square().mean()
        loss = labels + self.contrastive_weight * contrastive + self.wear_weight * wear + self.fade_weight * fade
        size = len(batch.captions)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        parts = {"contrastive": contrastive, "labels": labels, "wear": wear, "fade": fade}
        self.log_dict({f"train/{name}": value for name, value in parts.items()}, batch_size=size)
        return loss

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Adds one batch to the validation metrics."""
        heard = self._listen(self._wave(batch), batch)
        logits_BL = _logits(heard)
        targets, known = self._targets(batch)
        size = len(batch.captions)
        self.log("valid/labels", _label_loss(heard, targets, known), batch_size=size, sync_dist=True)
        families = known[:, : self.drums_at].all(-1)
        if families.any():
            chances = logits_BL[families, : self.drums_at].sigmoid()
            self.family_f1(chances, targets[families, : self.drums_at].long())
            self.log("valid/family_f1", self.family_f1, prog_bar=True, batch_size=size)
        drums = known[:, self.drums_at]
        if drums.any():
            self.drums_accuracy(logits_BL[drums, self.drums_at].sigmoid(), targets[drums, self.drums_at].long())
            self.log("valid/drums_accuracy", self.drums_accuracy, prog_bar=True, batch_size=size)
        self._heard.append((heard.clips().detach(), list(batch.captions)))

    def on_validation_epoch_end(self) -> None:
        """Logs the share of clips whose own caption is the nearest of the validation captions."""
        captions = [caption for _, some in self._heard for caption in some]
        audio = torch.cat([audio for audio, _ in self._heard])
        recall = retrieval_recall(audio, self.judge.read(captions), captions)
        # with several processes the mean over their shares
        self.log("valid/recall_at_1", recall, prog_bar=True, batch_size=len(captions), sync_dist=True)
        self._heard.clear()

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and a cosine to zero over ``trainer.max_steps``."""
        steps = self.trainer.max_steps
        if steps <= 0:
            raise InputError("the judge's learning rate falls over trainer.max_steps; set it to a number of steps")
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=max(1, self.warmup_steps))
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - self.warmup_steps))
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [self.warmup_steps])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def export(self, folder: str | Path, half: bool = False) -> None:
        """Writes the judge as a folder that ``load_judge`` and ``--judge`` take; ``half`` stores float16."""
        self.judge.save(folder, half)

    # ---- parts of the loss ----------------------------------------------------------------------------------------
    def _mix(self, batch: AudioBatch, targets: Tensor, known: Tensor) -> Tensor:
        """Adds its neighbour in the batch to a share of the clips, and to what is asked of them, in place; [B], which.

        One clip at least stays alone.
        """
        numbers = batch.numbers.tolist()
        drawn = [uniform(self.seed, number, "mixed") < self.mixed for number in numbers]
        drawn[-1] = drawn[-1] and not all(drawn)
        if not any(drawn):
            return torch.zeros(len(drawn), dtype=torch.bool, device=self.device)
        decibels = [-_QUIETER_DB * uniform(self.seed, number, "mixed level") for number in numbers]
        mixed = torch.tensor(drawn, device=self.device)
        gains = mixed * 10 ** (torch.tensor(decibels, device=self.device) / 20)
        batch.audio.add_(batch.audio.roll(1, 0) * gains[:, None, None])
        batch.lengths.copy_(torch.where(mixed, batch.lengths.maximum(batch.lengths.roll(1, 0)), batch.lengths))
        both = [label.partition(":")[0] in _ADDED for label in self.judge.labels]
        asked = known & known.roll(1, 0) & torch.tensor(both, device=self.device)
        targets.copy_(torch.where(mixed[:, None], targets.maximum(targets.roll(1, 0)), targets))
        known.copy_(torch.where(mixed[:, None], asked, known))
        return mixed

    def _code(self, batch: AudioBatch) -> Tensor:
        """Passes a share of the clips through the codec, in place; [B], which."""
        drawn = [uniform(self.seed, number, "coded") < self.coded for number in batch.numbers.tolist()]
        coded = torch.tensor(drawn, device=batch.audio.device)
        if any(drawn):
            batch.audio[coded] = self._coder[0](batch.audio[coded].mean(1, keepdim=True))
        return coded

    def _wave(self, batch: AudioBatch) -> Tensor:
        """[B, N] at the judge's rate, in mono."""
        with torch.autocast(self.device.type, enabled=False):  # bfloat16 would be noise 50 dB below the music
            wav: Tensor = self.resample(batch.audio.mean(1))
        return wav

    def _listen(self, wav_BN: Tensor, batch: AudioBatch) -> AudioEmbeddings:
        lengths = batch.lengths * self.judge.sample_rate // self.crop_rate
        lengths = lengths.clamp(min=self.judge.shortest, max=wav_BN.shape[-1])
        # side by side: overlapping windows would cost twice as much and teach the same
        heard: AudioEmbeddings = self.judge(wav_BN[:, None], lengths, hop_samples=self.judge.config.window_samples)
        return heard

    def _contrastive(self, heard: AudioEmbeddings, batch: AudioBatch, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """InfoNCE of the chosen clips, and the cosine of each of them with its own caption."""
        rows = chosen.nonzero()[:, 0].tolist()
        captions, tracks = [batch.captions[row] for row in rows], [batch.tracks[row] for row in rows]
        audio_BD, text_BD = nn.functional.normalize(heard.clips()[chosen], dim=-1), self.judge.read(captions)
        cosines = audio_BD @ text_BD.T
        scores = self.log_scale.exp().clamp(max=100) * cosines
        # two crops of one track, or two tracks described alike, are no counterexamples of each other
        same = [
            [a == b or s == t for b, t in zip(captions, tracks, strict=True)]
            for a, s in zip(captions, tracks, strict=True)
        ]
        positive = torch.tensor(same, device=scores.device).float()
        wanted = positive / positive.sum(-1, keepdim=True)
        cross_entropy = nn.functional.cross_entropy
        return (cross_entropy(scores, wanted) + cross_entropy(scores.T, wanted)) / 2, cosines.diagonal()

    def _targets(self, batch: AudioBatch) -> tuple[Tensor, Tensor]:
        targets, known = label_targets(self.judge.labels, batch.facts)
        return targets.to(self.device), known.to(self.device)


def faded_cosine(wear_BE: Tensor) -> Tensor:
    """The cosine [B] that clips are to have with their own captions, which falls with their wear [B, E]."""
    return _CLEAN * (1 - 0.5 * wear_BE.sum(1).clamp(max=1))


def _logits(heard: AudioEmbeddings) -> Tensor:
    logits = heard.logits
    assert logits is not None, "the embedded judge has classes"
    return logits


def _label_loss(heard: AudioEmbeddings, targets: Tensor, known: Tensor) -> Tensor:
    """Binary cross-entropy, summed over the labels that are known and averaged over clips."""
    losses = binary_cross_entropy_with_logits(_logits(heard), targets, reduction="none")
    return (losses * known).sum() / len(losses)
