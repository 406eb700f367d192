"""``mgl show-sample``: one sample of a run, past or to come, once more."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.crops import Crop
    from datamodules.loading import NumberedDataModule
    from datamodules.tokens import TokenWindow

_SUFFIXES = (".wav", ".flac", ".ogg")


def show_sample(number: int, run: str, audio: str = "") -> None:
    """Shows a training sample of a run: where it comes from, the text it had, whether that was dropped, how it sounds.

    Everything random about a sample follows from its number, so it is made again from the run's config, in the folder
    in which the run was started. The optimiser step is told where the config says how many samples a step has; it holds
    for a run that had as many devices and micro-batches from its start.

    Args:
        number: of the sample, from 0.
        run: folder of the run.
        audio: .wav, .flac or .ogg file to write the sample's audio to; tokens are decoded with the run's codec.
    """
    from datamodules.errors import InputError

    if number < 0:
        raise InputError(f"there is no sample {number}; samples are numbered from 0")
    if audio and Path(audio).suffix not in _SUFFIXES:
        raise InputError(f"{audio}: the name of an audio file ends in {', '.join(_SUFFIXES)}")
    config = _config(run)
    datamodule = _datamodule(run, config["data"])
    sample = datamodule.samples("train", datamodule.seed)[number]
    print(f"sample    {number} of {run}")
    for name, value in _told(sample, datamodule, config).items():
        print(f"{name:<9} {value}")
    if audio:
        _write(audio, sample, datamodule, config)
        print(f"audio     {audio}")


def _config(run: str) -> dict[str, Any]:
    """The run's ``config.yaml``, which has a data section."""
    import yaml

    from datamodules.errors import InputError

    path = Path(run) / "config.yaml"
    if not path.is_file():
        raise InputError(f"{path}: is missing; --run names the folder of a run that was begun")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file") from error
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        raise InputError(f"{path}: not the config of a run: it has no data section")
    return config


def _datamodule(run: str, section: dict[str, Any]) -> "NumberedDataModule":
    """The run's datamodule, made as the run made it."""
    import json
    from typing import NoReturn

    from jsonargparse import ArgumentParser, auto_cli
    from lightning.pytorch import LightningDataModule

    from datamodules.errors import InputError
    from datamodules.loading import NumberedDataModule

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise InputError(f"{run}/config.yaml: {message}") from ex

    def made(data: LightningDataModule) -> LightningDataModule:
        return data

    datamodule = auto_cli(made, args=[f"--data={json.dumps(section)}"], as_positional=False, parser_class=Parser)
    if not isinstance(datamodule, NumberedDataModule):
        raise InputError(f"{run}: its samples have no numbers ({type(datamodule).__name__}); crops and tokens have")
    return datamodule


def _told(
    sample: "Crop | TokenWindow", datamodule: "NumberedDataModule", config: Mapping[str, Any]
) -> dict[str, object]:
    """What there is to say of a sample, in order."""
    from datamodules.crops import Crop

    told: dict[str, object] = {}
    per_step = _samples_per_step(datamodule, config.get("trainer") or {})
    if per_step:
        told["step"] = f"{sample.number // per_step + 1} ({per_step} samples a step)"
    told["track"] = sample.track.id
    if isinstance(sample, Crop) and sample.failures:
        told["instead"] = "of " + "; ".join(f"{failure.track} ({failure.reason})" for failure in sample.failures)
    told["start"] = f"{sample.start:.3f} s"
    told["length"] = f"{_seconds(sample, datamodule):.3f} s"
    told["caption"] = sample.track.caption or "(none)"
    told["drawn"] = sample.caption or "(none)"
    dropped = _dropped(sample.number, config)
    if dropped is not None:
        told["condition"] = f"dropped: trained without its {' and '.join(dropped)}" if dropped else "kept"
    return told


def _samples_per_step(datamodule: "NumberedDataModule", trainer: Mapping[str, Any]) -> int | None:
    """Samples of an optimiser step over all devices; None where the number of devices was left to the machine."""
    devices = _device_count(trainer.get("devices"))
    if devices is None:
        return None
    accumulate: int = trainer.get("accumulate_grad_batches") or 1
    nodes: int = trainer.get("num_nodes") or 1
    return datamodule.batch_size * accumulate * devices * nodes


def _device_count(devices: object) -> int | None:
    """How many devices a trainer's ``devices`` names: a number, "2", [0, 1] or "0,1"; None for "auto" or -1, all."""
    if isinstance(devices, str) and "," in devices:
        devices = [name for name in devices.split(",") if name.strip()]
    if isinstance(devices, list):
        return len(devices)
    count = str(devices)
    return int(count) if count.isdecimal() and int(count) else None


def _seconds(sample: "Crop | TokenWindow", datamodule: Any) -> float:
    from datamodules.crops import Crop

    if isinstance(sample, Crop):
        return sample.audio.shape[1] / float(datamodule.shape.sample_rate)
    return sample.codes.shape[1] / float(datamodule.store.frame_rate)


def _dropped(number: int, config: Mapping[str, Any]) -> list[str] | None:
    """Which conditions the language model was trained without; None for a run that knows no conditions."""
    from lightning_modules.conditioning.dropout import ConditionDropout
    from lightning_modules.lm.model import LanguageModelConfig

    model = (config.get("model") or {}).get("init_args") or {}
    if "condition_dropout" not in model:
        return None
    dropout = ConditionDropout(model["condition_dropout"], model.get("attribute_dropout") or {}, model.get("seed") or 0)
    shape = LanguageModelConfig(**model.get("lm") or {})
    return [name for name in shape.conditions if dropout.drops(number, name)]


def _write(path: str, sample: "Crop | TokenWindow", datamodule: Any, config: Mapping[str, Any]) -> None:
    """Writes the sample's audio."""
    from datamodules.audio_io import write_audio
    from datamodules.crops import Crop
    from datamodules.errors import InputError
    from experiments.console import require_folder
    from lightning_modules.codec.folder import load_codec

    require_folder(Path(path).parent)
    if isinstance(sample, Crop):
        wav, rate = sample.audio, datamodule.shape.sample_rate
    else:
        folder = ((config.get("model") or {}).get("init_args") or {}).get("codec")
        if not folder:
            raise InputError("the run's config names no codec (model.init_args.codec), so its tokens cannot be heard")
        codec = load_codec(folder)
        if codec.checksum != datamodule.store.codec:
            raise InputError(f"{folder}: not the codec that wrote the run's tokens; put that one back to hear them")
        wav, rate = codec.decode(sample.codes[None])[0], codec.sample_rate
    write_audio(path, wav, rate)
