"""What the judges of published networks have in common: clips are cut, and each piece is heard by itself.

Shape letters: B clips, N samples, W windows, V pieces that are heard at once, S samples in each, F embeddings of each,
D dimensions, L labels.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from datamodules.errors import InputError
from evaluation.judges.contract import AudioEmbeddings


class NetworkJudge(nn.Module, ABC):
    """A frozen network behind the contract of ``evaluation.judges.contract.Judge``.

    Pieces of clips are cut out before anything is computed and heard beside others of their own length only, so
    neither padding nor neighbours in the batch change what a clip is given. No gradients flow, and it stays in
    evaluation mode.

    Args:
        name: short name that stands beside every number made with it.
        sample_rate: rate it wants, in Hz.
        window: samples in one piece; None hears every clip whole.
        hop: samples from one piece to the next; the last one ends where the clip does.
        shortest: the fewest samples it can judge.
        labels: names of its classes; None where it has none.
        checksum: sha256 of the file of its weights; by default that of their names and values.
    """

    # Together: ten seconds of sixteen clips, so that memory does not grow with the batch.
    seconds_at_once = 160.0

    def __init__(
        self,
        name: str,
        *,
        sample_rate: int,
        window: int | None,
        hop: int,
        shortest: int,
        labels: Sequence[str] | None = None,
        checksum: str = "",
    ) -> None:
        super().__init__()
        self.name, self.sample_rate, self.shortest, self.labels = name, sample_rate, shortest, labels
        self.window, self.hop = (window or hop) / sample_rate, hop / sample_rate
        self._window, self._hop, self._checksum = window, hop, checksum

    @property
    def checksum(self) -> str:
        """sha256 of the file of its weights, or of their names and values where they come in several."""
        self._checksum = self._checksum or _state_checksum(self)
        return self._checksum

    @property
    def device(self) -> torch.device:
        """Where it is, and where its embeddings are."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> "NetworkJudge":
        """Stays in evaluation mode."""
        return super().train(False)

    @abstractmethod
    def hear(self, pieces_VS: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings [V, F, D] and class scores [V, L] of pieces of one length; for ``embed_audio`` to call.

        F is 1 where there are class scores, so that every window has its own.
        """

    @torch.inference_mode()
    def embed_audio(self, wav: Tensor, lengths: Tensor) -> AudioEmbeddings:
        """Hears clips.

        Args:
            wav: [B, 1, N] at ``sample_rate``, padded on the right with anything.
            lengths: [B], true samples of each clip.

        Raises:
            InputError: a clip shorter than ``shortest`` samples or with samples that are not finite, a wrong shape,
                or embeddings that are not finite.
        """
        clips = self._clips(wav, lengths)
        pieces = [[clip[start : start + (self._window or len(clip))] for start in self.starts(clip)] for clip in clips]
        with torch.autocast(self.device.type, enabled=False):
            heard = self._in_batches([piece for some in pieces for piece in some])
        windows, logits, first = [], [], 0
        for some in pieces:
            embeddings, scores = zip(*heard[first : first + len(some)], strict=True)
            windows.append(torch.cat(embeddings))
            logits += [torch.stack(scores)] if self.labels is not None else []
            first += len(some)
        counts = torch.tensor([len(clip) for clip in windows], device=self.device)
        mask = torch.arange(int(counts.max()), device=self.device) < counts[:, None]
        scores_BWL = pad_sequence(logits, batch_first=True) if logits else None
        return AudioEmbeddings(pad_sequence(windows, batch_first=True), scores_BWL, mask).checked(self.name)

    def starts(self, clip: Tensor) -> list[int]:
        """Where the pieces of a clip [N] begin: every hop, and so that the last one ends where the clip does."""
        last = max(0, len(clip) - (self._window or len(clip)))
        return [*range(0, last, self._hop), last]

    def _clips(self, wav: Tensor, lengths: Tensor) -> list[Tensor]:
        """B clips [N_b]."""
        if wav.dim() != 3 or wav.shape[1] != 1:
            raise InputError(f"a judge wants wav [B, 1, N], not {list(wav.shape)}; mix it to mono first")
        clips = [clip[:length] for clip, length in zip(wav[:, 0], lengths.tolist(), strict=True)]
        for number, clip in enumerate(clips):
            if len(clip) < self.shortest:
                raise InputError(
                    f"clip {number} of the batch, {len(clip)} samples at {self.sample_rate} Hz, is too short to judge "
                    f"with {self.name} (at least {self.shortest}); leave it out"
                )
            if not clip.isfinite().all():
                raise InputError(f"clip {number} of the batch holds samples that are not finite; leave it out")
        return [clip.to(self.device).float() for clip in clips]

    def _in_batches(self, pieces: Sequence[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """For every piece embeddings [F, D] and class scores [L]."""
        by_length: dict[int, list[int]] = {}
        for number, piece in enumerate(pieces):
            by_length.setdefault(len(piece), []).append(number)
        heard: dict[int, tuple[Tensor, Tensor | None]] = {}
        for length, numbers in by_length.items():
            at_once = max(1, int(self.seconds_at_once * self.sample_rate) // length)
            for first in range(0, len(numbers), at_once):
                some = numbers[first : first + at_once]
                embeddings, logits = self.hear(torch.stack([pieces[number] for number in some]))
                for row, number in enumerate(some):
                    heard[number] = embeddings[row], None if logits is None else logits[row]
        return [heard[number] for number in range(len(pieces))]


def audioset_labels(count: int) -> tuple[str, ...]:
    """Names for the classes of AudioSet (527 in all): their numbers in its class_labels_indices.csv."""
    return tuple(f"audioset:{number}" for number in range(count))


def _state_checksum(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
