"""CLAP as a judge: clips and captions in one space, for CLAP score and FAD.

Every ten seconds of a clip are a window, the last one ending where the clip does, and shorter clips are repeated;
laion-clap and transformers hear one random crop instead. The checkpoint decides the number: MusicGen-medium scored 0.13
and 0.31 with two public ones (audiocraft issue 512), so its name stands in the judge's.

Shape letters: B clips or captions, V windows, S samples, D dimensions.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from datamodules.features.clap import Clap, load_clap
from evaluation.judges.contract import check_finite
from evaluation.judges.network import NetworkJudge


class ClapJudge(NetworkJudge):
    """Embeddings [B, W, D] of norm 1 and captions [B, D] of norm 1; no class scores.

    Args:
        clap: the network.
        name: of its checkpoint.
    """

    def __init__(self, clap: Clap, name: str) -> None:
        window, hop = (round(seconds * clap.sample_rate) for seconds in (clap.window, clap.hop))
        super().__init__(
            f"clap:{name}",
            sample_rate=clap.sample_rate,
            window=window,
            hop=hop,
            shortest=clap.shortest,
        )
        self.clap = clap

    @property
    def checksum(self) -> str:
        """sha256 of the weights' names and values: the same for one network in any file and layout."""
        self._checksum = self._checksum or self.clap.checksum
        return self._checksum

    def hear(self, pieces_VS: Tensor) -> tuple[Tensor, Tensor | None]:
        """[V, 1, D]: a piece is one window of the network."""
        return self.clap.audio(pieces_VS)[:, None], None

    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """Reads captions, of which the first 77 tokens count; [B, D] of norm 1."""
        return check_finite(self.clap.text(captions), self.name, "embeddings of caption")


def load_clap_judge(name: str | Path, tokenizer: str | Path | None = None) -> ClapJudge:
    """Loads CLAP from what is on this machine, or else from the Hugging Face hub.

    Args:
        name: a folder or hub id of transformers ("laion/larger_clap_music"), or a .pt file of laion-clap, of which
            ``published.LAION_CLAP`` is the one that MusicGen was scored with.
        tokenizer: folder or hub id of its tokenizer; None is the model's own, or roberta-base for a .pt file.

    Raises:
        InputError: model or tokenizer are not on this machine and cannot be fetched, are damaged, or are no CLAP's.
    """
    path = Path(name)
    label = path.stem if path.is_file() else path.name
    return ClapJudge(load_clap(name, tokenizer), label)
