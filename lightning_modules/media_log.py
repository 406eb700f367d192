"""Sound and pictures for whatever loggers a run has.

TensorBoard and Weights & Biases show them; beside a CSV logger they are files in ``media/``. Other loggers get none.

Shape letters: C channels, N samples, H rows and W columns of pixels.
"""

from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from datamodules.audio_io import write_audio

MEDIA = "media"


def log_audio(loggers: Iterable[Logger], name: str, wav: Tensor, sample_rate: int, step: int) -> None:
    """Logs a clip [C, N]; in TensorBoard, whose player has one channel, the mean of them.

    Args:
        loggers: the run's.
        name: as of a scalar.
        wav: cut off at -1 and 1; what is no number is silence.
        sample_rate: in Hz.
        step: optimiser step.
    """
    wav = wav.detach().float().cpu().nan_to_num().clamp(-1, 1)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_audio(name, wav.mean(0), step, sample_rate=sample_rate)
        elif isinstance(logger, WandbLogger):
            logger.log_audio(name, [wav.T.numpy()], step, sample_rate=[sample_rate])
        elif isinstance(logger, CSVLogger):
            write_audio(_file(logger, name, step, ".wav"), wav, sample_rate)


def log_picture(loggers: Iterable[Logger], name: str, picture: Tensor, step: int) -> None:
    """Logs a picture [3, H, W] uint8."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture.movedim(0, 2).numpy()], step)
        elif isinstance(logger, CSVLogger):
            from PIL import Image

            Image.fromarray(picture.movedim(0, 2).numpy()).save(_file(logger, name, step, ".png"))


def media_folder(loggers: Iterable[Logger]) -> Path | None:
    """Where sound and pictures are files; None where loggers show them, or there are none."""
    return next((Path(logger.log_dir) / MEDIA for logger in loggers if isinstance(logger, CSVLogger)), None)


def _file(logger: CSVLogger, name: str, step: int, suffix: str) -> Path:
    path = Path(logger.log_dir) / MEDIA / f"{name}-{step}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
