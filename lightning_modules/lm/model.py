"""The language model over codec tokens.

Shape letters: B items, K codebooks, T frames, S steps, V entries of a codebook, D width, L condition length.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from lightning_modules.conditioning.conditioners import MELODY, require_conditions
from lightning_modules.conditioning.conditions import Conditions
from lightning_modules.lm.linear import Linear
from lightning_modules.lm.patterns import build_pattern
from lightning_modules.lm.transformer import Context, Source, Transformer, truncated_normal_

Projected = Callable[[Any, Tensor], Tensor]  # a linear layer and its inputs [B, L, I] -> [B, L, D]


@dataclass(frozen=True)
class LanguageModelConfig:
    """Shape of the language model; the defaults are the paper's 300M.

    Attributes:
        dim: width, D.
        layers: transformer blocks.
        heads: attention heads.
        ff_ratio: the feed-forward layers are this many times wider.
        codebooks: K.
        entries: entries of each codebook, V.
        pattern: how codebooks are interleaved; see ``lightning_modules.lm.patterns``.
        cross: conditions that every block attends to.
        prefix: conditions that stand before the sequence, in this order; the melody models' are melody, then text.
        added: conditions with a place for each frame (see ``MelodyConfig.spread``), which is added to the steps at
            which the frame begins; so a small model need not learn where to look. None of the paper's models has it.
        mask_padded_text: whether padded places are hidden from attention, as transformers does in cross-attention. With
            false they are zeros that take their share of it: so does audiocraft, and both do in a prefix. Without
            padding both are the same, but for a prefix that has lost its text.
        position_scale: what positions are multiplied by before they are added to the embeddings, which are several
            times smaller at first. 1 in the paper's models (audiocraft's positional_scale); a model that sees thousands
            of steps rather than a million learns far faster with a twentieth.
    """

    dim: int = 1024
    layers: int = 24
    heads: int = 16
    ff_ratio: int = 4
    codebooks: int = 4
    entries: int = 2048
    pattern: str = "delay"
    cross: tuple[str, ...] = ("text",)
    prefix: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    mask_padded_text: bool = True
    position_scale: float = 1.0

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of all conditions."""
        return tuple(dict.fromkeys((*self.prefix, *self.cross, *self.added)))


class LanguageModel(nn.Module):
    """Predicts codes from the codes before them and the conditions.

    Args:
        config: its shape.
        dims: width of each condition's embeddings.

    Raises:
        InputError: conditions of the config and of ``dims`` are not the same, or texts are to be added, which have no
            place for each frame.
    """

    def __init__(self, config: LanguageModelConfig, dims: Mapping[str, int]) -> None:
        super().__init__()
        require_conditions(config.conditions, dims)
        if set(config.added) - {MELODY}:
            raise InputError(f"lm.added is {list(config.added)}; a melody alone has a place for each frame to add")
        if config.heads < 1 or config.dim % config.heads or config.dim < 4:
            raise InputError(f"lm.dim of {config.dim} does not make {config.heads} heads; give a multiple, 4 or more")
        if not 0 <= config.position_scale < inf:
            raise InputError(f"lm.position_scale is {config.position_scale:g}; give a number from 0, the paper's is 1")
        self.config = config
        self.pattern = build_pattern(config.pattern, config.codebooks, special=config.entries)
        # One table and one product for all codebooks: codebook k owns rows k (V + 1) ... of the embedding (the last is
        # the special token) and rows k V ... of the heads.
        self.embedding = nn.Embedding(config.codebooks * (config.entries + 1), config.dim)
        self.projections = nn.ModuleDict({name: nn.Linear(dims[name], config.dim) for name in config.conditions})
        hidden = config.ff_ratio * config.dim
        self.transformer = Transformer(
            config.dim,
            config.layers,
            config.heads,
            hidden,
            cross_attention=bool(config.cross),
            position_scale=config.position_scale,
        )
        self.heads = Linear(config.dim, config.codebooks * config.entries)
        # It is in no file, and so has its values where the model is built without memory too.
        offsets = torch.arange(config.codebooks, device="cpu") * (config.entries + 1)
        self.register_buffer("offsets", offsets[:, None], persistent=False)
        self._initialise()

    offsets: Tensor

    @torch.no_grad()
    def _initialise(self) -> None:
        truncated_normal_(self.embedding.weight, self.config.dim)
        truncated_normal_(self.heads.weight, self.config.dim)
        for projection in self.projections.values():
            assert isinstance(projection, nn.Linear)
            truncated_normal_(projection.weight, projection.in_features)
            nn.init.zeros_(projection.bias)
        self.transformer.initialise()

    def forward(self, sequence: Tensor, context: Context) -> Tensor:
        """Sequence [B, K, S] -> logits [B, K, S, V] of the step *after* each."""
        x = self.embedding(sequence + self.offsets).sum(1)
        if context.added is not None:
            x = x + self.added(context.added, torch.arange(x.shape[1], device=x.device))
        x = self.transformer(x, context)
        logits: Tensor = self.heads(x).unflatten(-1, (self.config.codebooks, self.config.entries))
        return logits.transpose(1, 2)

    def context(self, conditions: Conditions, project: Projected = nn.Linear.__call__) -> Context:
        """Projects the conditions to the model's width; padded and dropped places are exact zeros.

        Args:
            conditions: of every name that the model hears.
            project: takes a layer and its inputs [B, L, I] to its outputs, where the layer itself is not to.
        """
        names = (self.config.cross, self.config.prefix, self.config.added)
        cross, prefix, added = (self._source(conditions, some, project) for some in names)
        return Context(cross, prefix, added.states if added is not None else None)

    def added(self, states: Tensor, steps: Tensor) -> Tensor:
        """What is added to steps [S], counted from 0, of conditions [B, L, D]: [B, S, D]; the last place stays on.

        Step s is where the codes of step s + 1 are predicted, in the first codebook those of frame s / per_frame.
        """
        return states.index_select(1, (steps // self.pattern.per_frame).clamp(max=states.shape[1] - 1))

    def _source(self, conditions: Conditions, names: Sequence[str], project: Projected) -> Source | None:
        """The conditions of these names one after the other; None for no names."""
        states, masks = [], []
        for name in names:
            embeddings, mask = conditions[name]
            projected = project(self.projections[name], embeddings.to(self.heads.weight.dtype))
            states.append(projected.masked_fill(~mask[..., None], 0))
            masks.append(mask if self.config.mask_padded_text else torch.ones_like(mask))
        return Source(torch.cat(states, 1), torch.cat(masks, 1)) if states else None

    def teacher_forced(
        self, codes: Tensor, conditions: Conditions, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Codes [B, K, T] -> logits [B, K, S, V] of steps 1 to S, and their targets [B, K, S].

        The shift by one between inputs and targets happens here and nowhere else: the last step is never an input, and
        step 0, which is empty, never a target. A target is the special token where there is nothing to predict: no code
        at that step, or a frame at or past ``lengths`` [B].
        """
        if lengths is not None:
            frames = torch.arange(codes.shape[-1], device=codes.device)
            codes = codes.masked_fill((frames >= lengths[:, None])[:, None], self.config.entries)
        sequence = self.pattern.build(codes, trim=True)
        return self(sequence[..., :-1], self.context(conditions)), sequence[..., 1:]

    def logits(self, codes: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Codes [B, K, T] -> logits [B, K, T, V] for each of them under teacher forcing, and a mask [B, K, T].

        The mask is false, and the logits zero, for the last codes of delayed codebooks, whose steps training leaves
        out.
        """
        outputs, _ = self.teacher_forced(codes, conditions)
        return self.pattern.revert(outputs, codes.shape[-1], first_step=1)


def parameter_count(config: LanguageModelConfig, dims: Mapping[str, int]) -> int:
    """Parameters of the model with its projections of conditions, without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in LanguageModel(config, dims).parameters())
