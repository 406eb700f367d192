"""Small random weights of the published judges, in the layouts in which they are published."""

import importlib
import sys
import types
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, EncodecConfig, EncodecModel, RobertaTokenizer


def _random(*shape, noise):
    """Weights under which signals keep their size; biases and norms away from 0 and 1."""
    wide = (2.0 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.3
    return wide * torch.randn(shape, generator=noise)


@torch.no_grad()
def alive(network, seed=0):
    """Norms, biases and statistics away from the 1 and 0 that hide a mistake."""
    noise = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter += 0.3 * _random(*parameter.shape, noise=noise)
    for name, buffer in network.named_buffers():
        of_decibels = name.startswith("bn0.")
        if "running_mean" in name:
            buffer.copy_(torch.randn(buffer.shape, generator=noise) - 30 * of_decibels)
        if "running_var" in name:
            buffer.copy_((0.5 + torch.rand(buffer.shape, generator=noise)) * (100 if of_decibels else 1))
    return network.eval()


def encodec_folder(folder, channels=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = EncodecConfig(
            num_filters=4, hidden_size=12, codebook_dim=12, upsampling_ratios=[8, 5], audio_channels=channels,
            codebook_size=16, normalize=channels == 2, chunk_length_s=0.5 if channels == 2 else None,
        )  # fmt: skip
        model = alive(EncodecModel(config))
    for name, parameter in model.named_parameters():
        if name.endswith("original0"):  # the length of a weight: signals of random ones fade from layer to layer
            parameter.data *= 2
    model.save_pretrained(folder)
    return folder


def byte_tokenizer(folder):
    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    RobertaTokenizer(vocab={name: place for place, name in enumerate(names)}, merges=[]).save_pretrained(folder)
    return folder


def clap_folder(folder):
    audio = {
        "patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2],
    }  # fmt: skip
    text = {
        "vocab_size": 261, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 90,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alive(ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16))).save_pretrained(folder)
    ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc").save_pretrained(folder)
    return byte_tokenizer(folder)


def laion_clap_file(path):
    """As laion-clap's training writes it, of its own HTS-AT and a small RoBERTa."""
    import test_clap

    package = types.ModuleType("laion_networks")
    package.__path__ = [f"{find_spec('laion_clap').submodule_search_locations[0]}/clap_module"]
    sys.modules["laion_networks"] = package
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = test_clap.alive(test_clap.Theirs(importlib.import_module("laion_networks.htsat")))
    test_clap.checkpoint(network, path)
    return network


def passt_file(path, **shape):
    """As hear21passt's own network writes it; 64 wide and two deep unless told otherwise."""
    package = importlib.import_module("hear21passt.models.passt")
    shape = {"embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 20} | shape
    with torch.random.fork_rng(), redirect_stdout(StringIO()):
        torch.manual_seed(0)
        network = package.PaSST(img_size=(128, 998), stride=(10, 10), distilled=True, **shape)
    torch.save(alive(network).state_dict(), path)
    return path


def vggish_file(path, widths=(4, 6, 8, 8, 10, 10), hidden=16, dim=12):
    noise = torch.Generator().manual_seed(0)
    state = {}
    for place, inputs, outputs in zip((0, 3, 6, 8, 11, 13), (1, *widths), widths, strict=False):
        state[f"features.{place}.weight"] = _random(outputs, inputs, 3, 3, noise=noise)
        state[f"features.{place}.bias"] = 0.3 * _random(outputs, noise=noise)
    for place, inputs, outputs in ((0, widths[-1] * 24, hidden), (2, hidden, hidden), (4, hidden, dim)):
        state[f"embeddings.{place}.weight"] = _random(outputs, inputs, noise=noise)
        state[f"embeddings.{place}.bias"] = 0.3 * _random(outputs, noise=noise)
    torch.save(state, path)
    return path


def pann_network(narrower=16):
    """frechet-audio-distance's own Cnn14, so many times narrower in all layers but the last.

    The package itself is not imported: that would ask the network.
    """
    package = types.ModuleType("fad_networks")
    package.__path__ = [f"{find_spec('frechet_audio_distance').submodule_search_locations[0]}/models"]
    sys.modules["fad_networks"] = package
    module = importlib.import_module("fad_networks.pann")

    def width(channels):
        return channels if channels in (1, 527) else channels // narrower

    block = module.ConvBlock.__init__

    def narrow_block(self, in_channels, out_channels):
        block(self, width(in_channels), width(out_channels))

    layers = types.SimpleNamespace(**vars(nn))
    layers.Linear = lambda inputs, outputs, bias: nn.Linear(width(inputs), width(outputs), bias)
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(module.ConvBlock, "__init__", narrow_block)
        patch.setattr(module, "nn", layers)
        return alive(
            module.Cnn14_16k(
                sample_rate=16_000, window_size=512, hop_size=160, mel_bins=64, fmin=50, fmax=8000, classes_num=527
            )
        )


def pann_file(path, network=None, **more):
    """The network, and beside it what training left there."""
    state = (network or pann_network()).state_dict()
    torch.save({"iteration": 5, "model": {**state, **more}, "sampler": {"pointers": np.arange(3)}}, path)
    return path
