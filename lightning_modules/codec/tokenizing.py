"""Encodes tracks, for Lightning's ``predict``: codes and chroma of each piece go to the token writer.

Shape letters: B pieces, C channels, N samples, K codebooks, T frames, P pitch classes.
"""

from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader

from datamodules.features.chroma import ChromaExtractor, strongest_class
from datamodules.features.stems import load_separator
from datamodules.tokens.pieces import PieceBatch, PieceDataset, piece_loader
from datamodules.tokens.plan import CHROMA_HOP, CHROMA_WINDOW
from datamodules.tokens.writer import TokenWriter
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.encodec import EnCodec


class CodecTokenizing(LightningModule):
    """Encodes batches of pieces with a codec and hands the result to the writer.

    Args:
        codec: with saved weights.
        writer: of this process; its encoding says in which stems melodies are heard.
    """

    def __init__(self, codec: Codec, writer: TokenWriter) -> None:
        super().__init__()
        # A frozen codec is no submodule.
        self._codec = [codec]
        self.writer = writer
        self.chroma = ChromaExtractor(codec.sample_rate, n_fft=CHROMA_WINDOW, hop=CHROMA_HOP)
        stems = writer.encoding.stems
        self.separator = load_separator(stems, sample_rate=codec.sample_rate) if stems else None

    def on_predict_start(self) -> None:
        """Brings the codec, which no strategy moves, to the device; hours of audio are worth compiling for on a GPU."""
        self._codec[0].to(self.device).eval()
        for module in self._codec[0].modules():
            if isinstance(module, EnCodec):
                module.compiled = self.device.type == "cuda"

    def predict_step(self, batch: PieceBatch, batch_index: int) -> float:
        """Encodes audio [B, C, N] and gives its codes and chroma to the writer; returns the seconds of audio."""
        if batch.audio is None:
            self.writer.add(batch, None, None)
            return 0.0
        codes = self._codec[0].encode(batch.audio)
        chroma, mask = self.chroma(batch.audio if self.separator is None else self.separator(batch.audio))
        chroma = strongest_class(chroma[:, mask[0]])  # pieces of one length have frames alike
        self.writer.add(batch, codes.cpu().numpy(), chroma.cpu().numpy())
        return batch.audio.shape[0] * batch.audio.shape[2] / self.chroma.sample_rate


class PieceDataModule(LightningDataModule):
    """The pieces that a process encodes: those of its shards that are not finished.

    Args:
        writer: knows which.
        batch_size: full windows that are encoded at once.
        workers: loader processes that read ahead.
    """

    def __init__(self, writer: TokenWriter, batch_size: int, workers: int) -> None:
        super().__init__()
        # With more processes than shards to write some have nothing to do.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.writer, self.batch_size, self.workers = writer, batch_size, workers
        self.seconds = 0.0

    def predict_dataloader(self) -> DataLoader[PieceBatch]:
        """Whole batches in the order of the shards; ``seconds`` is then how much there is to do."""
        assert self.trainer is not None, "a datamodule gives loaders only to a trainer"
        shards = self.writer.pending(self.trainer.global_rank, self.trainer.world_size)
        dataset = PieceDataset(self.writer.manifest, self.writer.encoding, shards, self.batch_size)
        self.seconds = dataset.seconds
        return piece_loader(dataset, self.workers)
