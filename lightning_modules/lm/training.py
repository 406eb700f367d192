"""Training the language model (MusicGen, section 3.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.batches import TokenBatch
from datamodules.errors import InputError
from datamodules.tokens.store import TokenStore
from datamodules.tokens.windows import TokenDataModule
from lightning_modules.checkpoints import save_model
from lightning_modules.codec.folder import codec_checksum, load_codec
from lightning_modules.conditioning.conditioners import Conditioners, build_conditioners
from lightning_modules.conditioning.dropout import ConditionDropout
from lightning_modules.conditioning.melody import MelodyConfig
from lightning_modules.conditioning.text import TextEncoderConfig
from lightning_modules.generation.model import MusicModel
from lightning_modules.lm.adapters import (
    AdapterConfig,
    BaseChecksum,
    adapt,
    hold_in_bfloat16,
    keep_out_of_checkpoints,
    merged,
)
from lightning_modules.lm.compiled import compile_block
from lightning_modules.lm.losses import codebook_means, cross_entropy_sums
from lightning_modules.lm.model import LanguageModel, LanguageModelConfig
from lightning_modules.lm.starting import starting_point
from lightning_modules.lm.transformer import Block
from lightning_modules.optim import OptimConfig, scheduled
from lightning_modules.sharding import is_sharded, shard, whole_state


class LanguageModelTraining(LightningModule):
    """Trains a language model on windows of codec tokens with their captions.

    Args:
        lm: shape of the language model, and which conditions it hears in which way.
        text: which text encoder; None for a model that hears no texts.
        optim: optimiser and schedule.
        melody: how melodies are heard; None for a model that hears none.
        condition_dropout: probability that a sample is trained without any condition, for classifier-free guidance.
        attribute_dropout: by condition, the probability that a sample is trained without that one, whatever becomes
            of the others: {"melody": 0.5}, say, for a model that should do with texts alone.
        codec: folder of the codec, or "embedded", that made the tokens; exported models carry it along.
        train_on_padding: learn what stands past the end of short tracks too, as audiocraft does by default; here that
            is code 0 of every codebook, and by default no target.
        recompute: keep activations between every so many blocks alone (see ``Transformer``).
        compiled: run the blocks through ``torch.compile``, in training and validation.
        seed: of the dropouts, which are pure functions of (seed, sample number, condition).
        start_from: folder of a model of the same shape, texts and melodies to go on from, or "embedded"; its text
            encoder comes along, and its codec where none is named. "" begins with nothing.
        lora: trains adapters in the blocks of that model alone; its own weights, which stay as they are, are held in
            bfloat16 in a run that multiplies in it, and are in no checkpoint. What is exported has them merged.

    Attributes:
        window: seconds of a training crop, which generation does not go beyond at once; None where that is not known.
        condition_places: length of each condition in the last micro-batch; how much arithmetic that was depends on it.

    Raises:
        InputError: ``start_from`` is no model's folder, or one of another shape or codec; adapters that have nothing to
            begin with or cannot be trained; or another setting that makes no sense.
    """

    def __init__(
        self,
        lm: LanguageModelConfig,
        text: TextEncoderConfig | None,
        optim: OptimConfig,
        melody: MelodyConfig | None = None,
        condition_dropout: float = 0.2,
        attribute_dropout: Mapping[str, float] | None = None,
        codec: str = "",
        train_on_padding: bool = False,
        recompute: int = 0,
        compiled: bool = False,
        seed: int = 0,
        start_from: str = "",
        lora: AdapterConfig | None = None,
    ) -> None:
        super().__init__()
        self.compiled, self._is_compiled = compiled, False
        self.text, self.optim, self.train_on_padding = text, optim, train_on_padding
        self.dropout = ConditionDropout(condition_dropout, dict(attribute_dropout or {}), seed)
        self.start_from, self.lora = start_from, lora
        self.start = (
            starting_point(start_from, codec, {"lm": lm, "text": text, "melody": melody}) if start_from else None
        )
        self.codec = codec or (self.start.codec if self.start else "")
        self._origin = self.start.checksum if self.start else ""
        conditioners = self.start.conditioners() if self.start else build_conditioners(text, melody)
        # What is frozen is no submodule: it stays out of checkpoints, averages and sharding.
        self._conditioners = [conditioners]
        trained = [one for one in conditioners.by_name.values() if one.trained]
        self.trained_conditioners = nn.ModuleList(trained)
        dims = conditioners.dims
        self.lm = self.start.language_model(dims) if self.start else LanguageModel(lm, dims)
        if recompute < 0:
            raise InputError(f"recompute is {recompute}; give 0 for none, or every how many blocks")
        self.lm.transformer.recompute = recompute
        self.window: float | None = None
        self.condition_places: dict[str, int] = {}
        self.valid_ce: Sequence[MeanMetric] = nn.ModuleList([MeanMetric() for _ in range(lm.codebooks)])  # type: ignore[assignment]
        unknown = set(self.dropout.each) - set(lm.conditions)
        if unknown:
            raise InputError(f"attribute_dropout of {unknown.pop()!r}: the model hears {', '.join(lm.conditions)}")
        if lora is not None:
            self._adapt(lora)

    def _adapt(self, lora: AdapterConfig) -> None:
        """From here on adapters are all that is trained, and all that checkpoints have of the model."""
        if self.start is None:
            raise InputError("lora: adapters are trained beside the weights of a model: name it as start_from")
        if self.optim.algorithm == "dadaptation":
            raise InputError("lora: D-Adaptation was made for whole models, and is not tried with adapters; take AdamW")
        self.trained_conditioners.requires_grad_(False)
        adapt(self.lm, lora)
        self.base = BaseChecksum(self._origin, self.start_from)
        keep_out_of_checkpoints(self)

    def train(self, mode: bool = True) -> "LanguageModelTraining":
        """As of every module; beside adapters no text encoder is in training, nor has it dropout."""
        super().train(mode)
        if self.lora is not None:
            self.trained_conditioners.eval()
        return self

    @property
    def conditioners(self) -> Conditioners:
        """The conditioners, trained or frozen."""
        return self._conditioners[0]

    def setup(self, stage: str) -> None:
        """Checks that data and model speak of the same tokens.

        Raises:
            InputError: no codec is named, or the tokens are another codec's, of another shape, or of other melodies.
        """
        if stage == "fit" and not self.codec:
            raise InputError("a trained model carries its codec along: set model.init_args.codec to the codec's folder")
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, TokenDataModule):
            self.window = data.frames / data.store.frame_rate
            self._check(data.store)

    def _check(self, store: TokenStore) -> None:
        config, melody = self.lm.config, self.conditioners.melody
        if (store.codebooks, store.entries) != (config.codebooks, config.entries):
            raise InputError(
                f"the token store has {store.codebooks} codebooks of {store.entries} entries, the language model "
                f"{config.codebooks} of {config.entries}; set model.init_args.lm.codebooks and .entries to the store's"
            )
        if self.codec and codec_checksum(self.codec) != store.codec:
            raise InputError(
                f"{store.folder}: the tokens come from codec {store.codec[:12]}, not from {self.codec}; name the codec "
                "that wrote them, or write them anew with this one"
            )
        if melody is not None and melody.config.stems != store.header.stems:
            wanted, there = (name or "the full mix" for name in (melody.config.stems, store.header.stems))
            raise InputError(
                f"{store.folder}: its melodies were heard in {there}, the model's are heard in {wanted}; set "
                f"model.init_args.melody.stems to '{store.header.stems}', or write the tokens with other --stems"
            )
        if melody is not None and config.added:
            right = store.frame_rate / store.header.chroma["frame_rate"]
            if melody.config.spread != right:
                raise InputError(
                    f"melody.spread is {melody.config.spread}; a model that adds melodies to its steps wants the frame "
                    f"rate of the codec over that of the chroma, here {right:g}"
                )

    def configure_model(self) -> None:
        """Compiles the blocks if asked to, and shards the parameters where the strategy does that.

        Raises:
            InputError: the optimiser has to see whole parameters, or there are adapters, which are not sharded.
        """
        if self.lora is not None:
            if self.device_mesh is not None:
                raise InputError("lora: adapters and the weights beside them are not sharded; take cluster/gpus")
            if self.trainer.precision == "bf16-mixed":
                hold_in_bfloat16(self.lm)
        blocks = cast(Sequence[Block], self.lm.transformer.blocks)
        if self.compiled and not self._is_compiled:
            self._is_compiled = True
            for block in blocks:
                compile_block(block)
        if self.device_mesh is None or is_sharded(self):
            return
        if self.optim.algorithm == "dadaptation":
            raise InputError("D-Adaptation looks at all parameters together, and they are sharded; take AdamW, or DDP")
        shard(self, blocks, self.device_mesh, torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None)

    def whole(self) -> "LanguageModelTraining | None":
        """This module where it is not sharded; else a copy with whole weights in main memory, None but in process 0.

        All processes have to call it.
        """
        if not is_sharded(self):
            return self
        state = whole_state(self)
        if self.global_rank:
            return None
        melody = self.conditioners.melody
        # Not this class, which sharding has replaced.
        made = LanguageModelTraining(
            self.lm.config,
            self.text,
            self.optim,
            melody.config if melody else None,
            codec=self.codec,
            start_from=self.start_from,
        )
        made.load_state_dict(state, assign=True)
        made.window = self.window
        return made

    def on_fit_start(self) -> None:
        """Brings the frozen conditioners, which no strategy moves, to the device."""
        self.conditioners.to(self.device)

    def on_validation_start(self) -> None:
        """The same for a validation without training."""
        self.conditioners.to(self.device)

    def training_step(self, batch: TokenBatch, batch_index: int) -> Tensor:
        """Mean over codebooks of the cross-entropy on codes [B, K, T], conditions dropped for some samples."""
        conditions = self.dropout(self.conditioners(batch.captions, batch.chroma), batch.numbers)
        self.condition_places = {name: condition.mask.shape[1] for name, condition in conditions.items.items()}
        lengths = None if self.train_on_padding else batch.lengths
        logits, targets = self.lm.teacher_forced(batch.codes, conditions, lengths)
        share, per_codebook = codebook_means(*cross_entropy_sums(logits, targets, self.lm.config.entries))
        self.log("train/ce", per_codebook.mean(), prog_bar=True, batch_size=len(batch.codes))
        self.log_dict({f"train/ce_{k}": ce for k, ce in enumerate(per_codebook)}, batch_size=len(batch.codes))
        return share.mean()

    def validation_step(self, batch: TokenBatch, batch_index: int) -> None:
        """Cross-entropy per codebook with all conditions given, every held-out code counting the same."""
        conditions = self.conditioners(batch.captions, batch.chroma)
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

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The trained parameters by part, every one in one of them; blocks in four groups from bottom to top."""
        blocks = self.lm.transformer.blocks
        size = -(-len(blocks) // min(4, len(blocks)))
        groups = [range(first, min(first + size, len(blocks))) for first in range(0, len(blocks), size)]
        modules: dict[str, list[nn.Module]] = {
            "text_encoder": [self.trained_conditioners],
            **{f"projection_{name}": [module] for name, module in self.lm.projections.items()},
            "embedding": [self.lm.embedding],
            **{f"blocks_{_range(group)}": [blocks[number] for number in group] for group in groups},
            "heads": [self.lm.transformer.norm, self.lm.heads],
        }
        found = {
            name: [parameter for module in some for parameter in module.parameters() if parameter.requires_grad]
            for name, some in modules.items()
        }
        return {name: parameters for name, parameters in found.items() if parameters}

    def plain(self) -> LanguageModel:
        """The language model as it is now; where there are adapters a copy in float32 that has them merged.

        Merged into the weights that are in the folder, not into what of them is left in bfloat16.
        """
        if self.lora is None:
            return self.lm
        assert self.start is not None, "adapters without a model"
        return merged(self.lm, self.start.language_model(self.conditioners.dims)).eval()

    def music_model(self, name: str) -> MusicModel:
        """The model as it is now, to generate with; ``name`` is its checksum.

        It has the module's own weights, no copy, unless there are adapters.
        """
        lm = self.plain().to(self.device)
        about = {"window": self.window} if self.window is not None else {}
        return MusicModel(lm, self.conditioners, load_codec(self.codec, self.device), name, about)

    def export(self, folder: str | Path, half: bool = False) -> None:
        """Writes the model as a model folder, with its codec; the language model in float16 if asked to.

        Whatever else the config of the model says that it began with (its licence, say) stays there.
        """
        about: dict[str, Any] = {}
        if self.start is not None:
            lora = asdict(self.lora) if self.lora else None
            origin = {"model": self.start_from, "checksum": self._origin, "lora": lora}
            about = {**self.start.further, "fine_tuned_from": origin}
        if self.window is not None:
            about["window"] = self.window
        whole = self.start is not None and self.start.text_encoder is not None
        save_model(folder, self.plain(), self.text, self.conditioners, self.codec, about, half, whole)

    def configure_optimizers(self) -> Any:
        """The optimiser with warm-up and cosine over the run's ``max_steps``."""
        return scheduled(self.parameters(), self.optim, self.trainer.max_steps)


def _range(numbers: range) -> str:
    return f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
