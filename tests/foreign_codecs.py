"""Codecs of transformers, alive, and what it takes to compare ours with them."""

import json
import re
from math import ceil

import torch
from safetensors.torch import load_file, save_file

# Fields of EncodecConfig; the first differs from the rest as little as can be, so that each option is seen alone.
SHAPES = {
    "plain": {},
    "constant": {"pad_mode": "constant"},
    "causal": {"use_causal_conv": True},
    "causal, constant": {"use_causal_conv": True, "pad_mode": "constant", "upsampling_ratios": [5, 2]},
    "shortcut": {"use_conv_shortcut": True},
    "odd ratio": {"upsampling_ratios": [5, 2]},
    "two layers of LSTM": {"num_lstm_layers": 2},
    "two residual units": {"num_residual_layers": 2, "dilation_growth_rate": 3},
    "two channels": {"audio_channels": 2},
    "kernels": {"kernel_size": 5, "last_kernel_size": 3, "residual_kernel_size": 5, "compress": 4},
    "several bandwidths": {"target_bandwidths": [0.4, 0.8, 1.6]},
}
K, ENTRIES = 4, 16


@torch.no_grad()
def peer(**fields):
    """transformers' EncodecModel, alive: random weights, codebooks of its own latents, and biases that matter."""
    from transformers import EncodecConfig, EncodecModel

    shape = {
        "sampling_rate": 800, "num_filters": 4, "hidden_size": 8, "upsampling_ratios": [4, 2], "num_lstm_layers": 1,
        "codebook_size": ENTRIES, "use_causal_conv": False, "use_conv_shortcut": False, **fields,
    }  # fmt: skip
    frame_rate = ceil(shape["sampling_rate"] / torch.tensor(shape["upsampling_ratios"]).prod().item())
    step = frame_rate * (shape["codebook_size"] - 1).bit_length() / 1000
    shape.setdefault("target_bandwidths", [(K + 0.5) * step])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = EncodecModel(EncodecConfig(**shape)).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("original0"):  # gains away from the norm of their direction
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
        residual = model.encoder(audio(model, 12 * shape["codebook_size"]))[0].T
        for layer in model.quantizer.layers:
            book = layer.codebook
            book.embed.copy_(residual[torch.randperm(len(residual))[: len(book.embed)]])
            book.cluster_size.copy_(torch.rand_like(book.cluster_size))
            book.embed_avg.copy_(torch.rand_like(book.embed_avg))
            residual = residual - book.embed[torch.cdist(residual, book.embed).argmin(1)]
    return model


def audio(model, frames=61, batch=1):
    shape = batch, model.config.audio_channels, frames * model.config.hop_length - 3
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.3


def save(model, folder, change=None):
    """What transformers saves, with a change to the tensors."""
    model.save_pretrained(folder)
    if change is not None:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    return folder


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@torch.no_grad()
def assert_same(ours, theirs, codebooks=K):
    """Codes, and audio of codes, of our codec and of an EncodecModel with as many codebooks or more."""
    wav = audio(theirs, batch=2)
    codes = ours.encode(wav)
    wanted = theirs.encode(wav, bandwidth=theirs.config.target_bandwidths[-1])[0][0]
    assert torch.equal(codes, wanted[:, :codebooks])
    used = sum(len(codes[:, k].unique()) for k in range(codebooks))
    assert used >= codebooks * theirs.config.codebook_size / 2  # parity of something
    decoded, decoded_there = ours.decode(codes), theirs.decode(wanted[None, :, :codebooks], [None])[0]
    assert decoded_there.std() > 1e-3
    torch.testing.assert_close(decoded, decoded_there, atol=1e-5, rtol=1e-5)


def loaded(folder):
    """An EncodecModel from a folder in which nothing is missing or left over."""
    from transformers import EncodecModel

    model, said = EncodecModel.from_pretrained(folder, output_loading_info=True)
    assert not any(said.values()), said
    return model.eval()


def old_names(state):
    return {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in state.items()
    }


def folded(state):
    made = {}
    for name, tensor in state.items():
        if name.endswith("original1"):
            gain = state[name.replace("original1", "original0")]
            weight = torch._weight_norm(tensor, gain, 0)
            made[name.replace("parametrizations.weight.original1", "weight")] = weight
        elif not name.endswith("original0"):
            made[name] = tensor
    return made


@torch.no_grad()
def dac_peer(**fields):
    """transformers' DacModel, alive: its own weights are so small that every input has the same codes."""
    from transformers import DacConfig, DacModel

    shape = {
        "encoder_hidden_size": 4, "downsampling_ratios": [2, 4], "decoder_hidden_size": 16, "n_codebooks": 3,
        "codebook_size": 16, "codebook_dim": 4, "sampling_rate": 800, **fields,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DacModel(DacConfig(**shape)).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("alpha"):
                parameter.add_(0.3 * torch.rand_like(parameter))
            elif name.endswith("codebook.weight"):
                parameter.normal_()
            elif name.endswith("weight"):
                parameter.normal_(std=1.0 / parameter[0].numel() ** 0.5)
    return model


# As its config/model/encodec/default.yaml has it, written out by OmegaConf without following references.
XP_CFG = """
sample_rate: {sampling_rate}
channels: {audio_channels}
compression_model: encodec
encodec:
  autoencoder: seanet
  quantizer: rvq
  sample_rate: ${{sample_rate}}
  channels: ${{channels}}
  causal: {causal}
  renormalize: false
seanet:
  dimension: {hidden_size}
  channels: ${{channels}}
  causal: ${{encodec.causal}}
  n_filters: {num_filters}
  n_residual_layers: {num_residual_layers}
  ratios: {upsampling_ratios}
  activation: ELU
  activation_params:
    alpha: 1.0
  norm: weight_norm
  norm_params: {{}}
  kernel_size: {kernel_size}
  residual_kernel_size: {residual_kernel_size}
  last_kernel_size: {last_kernel_size}
  dilation_base: {dilation_growth_rate}
  pad_mode: {pad_mode}
  true_skip: {true_skip}
  compress: {compress}
  lstm: {num_lstm_layers}
  disable_norm_outer_blocks: 0
  decoder:
    trim_right_ratio: 1.0
    final_activation: null
    final_activation_params: null
  encoder: {{}}
rvq:
  n_q: 4
  q_dropout: false
  bins: {codebook_size}
  decay: 0.99
optim:
  eps: ${{oc.env:HOME}}
"""


def xp_cfg(model):
    config = model.config
    causal, skip = str(config.use_causal_conv).lower(), str(not config.use_conv_shortcut).lower()
    return XP_CFG.format(**config.to_dict(), causal=causal, true_skip=skip)


def audiocraft_names(model):
    """audiocraft's names of an EncodecModel's tensors."""
    from transformers.models.encodec.modeling_encodec import EncodecConvTranspose1d

    transposed = [name for name, module in model.named_modules() if isinstance(module, EncodecConvTranspose1d)]
    state = {}
    for name, tensor in old_names(model.state_dict()).items():
        inner = "convtr" if any(name.startswith(f"{place}.") for place in transposed) else "conv"
        renamed = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", name)
        renamed = renamed.replace(".conv.", f".{inner}.{inner}.")
        renamed = re.sub(r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", renamed)
        state[renamed] = tensor
    return state


def exported(path, model, package=None, config=None, state=None):
    """A file as audiocraft.utils.export writes it."""
    made = {
        "best_state": audiocraft_names(model) if state is None else state,
        "xp.cfg": xp_cfg(model) if config is None else config,
        "version": "1.4.0a2",
        "exported": True,
    }
    torch.save(made if package is None else package(made), path)
    return path
