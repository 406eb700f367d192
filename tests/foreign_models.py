"""Language models of transformers, alive, as folders and as audiocraft's files; and what comparing them takes."""

import functools
import json
import re

import torch
import yaml
from foreign_codecs import audiocraft_names, xp_cfg
from foreign_codecs import peer as codec_peer

PROMPTS = ["calm piano", "a"]  # of different lengths
KINDS = {
    "mono": {},
    "mono, text as wide": {"text_dim": 16},
    "stereo": {"books": 8},
    "melody": {"melody": True},
    "melody, chroma as wide": {"melody": True, "dim": 12, "heads": 3},
    "stereo melody": {"melody": True, "books": 8},
}


@functools.cache
def tokenizer():
    """A T5 tokenizer of 262 tokens, of which every letter is one."""
    from transformers import T5Tokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters, *(f"▁{a}{b}" for a in "abcdef" for b in letters[:22])]
    return T5Tokenizer(vocab=[(piece, 0.0 if piece[0] == "<" else -3.0) for piece in pieces], extra_ids=100)


def t5_config(dim=20, **fields):
    from transformers import T5Config

    shape = {"vocab_size": 300, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 3, "dropout_rate": 0.0}
    return T5Config(**{**shape, "d_model": dim, **fields})


@torch.no_grad()
def enliven(model):
    """Random weights of which each shows: norms away from one, matrices that keep the size of what they are given."""
    for name, parameter in model.named_parameters():
        if name.startswith("audio_encoder"):
            continue
        if "norm" in name:
            parameter.add_(0.3 * torch.randn_like(parameter))
        elif "embed_tokens" in name or "shared" in name:
            parameter.normal_()
        elif parameter.dim() == 2:
            parameter.normal_(std=parameter.shape[1] ** -0.5)
        else:
            parameter.normal_(std=0.3)
    return model


@torch.no_grad()
def musicgen(dim=16, heads=2, books=4, melody=False, text_dim=20, layers=2, entries=16, **decoder):
    """MusicgenForConditionalGeneration, or its melody counterpart."""
    import transformers as hf

    fields = {
        "vocab_size": entries, "num_hidden_layers": layers, "ffn_dim": 3 * dim, "num_attention_heads": heads,
        "hidden_size": dim, "num_codebooks": books, "audio_channels": 2 if books == 8 else 1,
        "pad_token_id": entries, "bos_token_id": entries, "decoder_start_token_id": entries, **decoder,
    }  # fmt: skip
    audio = codec_peer(codebook_size=entries)
    parts = {"text_encoder": t5_config(text_dim), "audio_encoder": audio.config}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if melody:
            config = hf.MusicgenMelodyConfig(
                **parts, decoder=hf.MusicgenMelodyDecoderConfig(**fields), num_chroma=12, chroma_length=9
            )
            model = hf.MusicgenMelodyForConditionalGeneration(config)
        else:
            config = hf.MusicgenConfig(**parts, decoder=hf.MusicgenDecoderConfig(**fields))
            model = hf.MusicgenForConditionalGeneration(config)
        enliven(model)
    model.audio_encoder.load_state_dict(audio.state_dict())
    special = {f"{name}_token_id": entries for name in ("decoder_start", "pad", "bos")}
    model.generation_config = hf.GenerationConfig(guidance_scale=3.0, max_length=1500, do_sample=True, **special)
    return model.eval()


def save(model, folder, **options):
    """What its users have: model and processor in one folder."""
    import transformers as hf

    model.save_pretrained(folder, **options)
    if model.config.model_type == "musicgen_melody":
        extractor = hf.MusicgenMelodyFeatureExtractor(sampling_rate=800, n_fft=256, hop_length=64, chunk_length=2)
        hf.MusicgenMelodyProcessor(extractor, tokenizer()).save_pretrained(folder)
    else:
        extractor = hf.EncodecFeatureExtractor(model.config.decoder.audio_channels, 800)
        hf.MusicgenProcessor(extractor, tokenizer()).save_pretrained(folder)
    return folder


def loaded(folder, **options):
    """A model of transformers from a folder in which nothing is missing or left over."""
    import json

    import transformers as hf

    melody = json.loads((folder / "config.json").read_text())["model_type"] == "musicgen_melody"
    kind = hf.MusicgenMelodyForConditionalGeneration if melody else hf.MusicgenForConditionalGeneration
    model, said = kind.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(said.values()), said
    return model.eval()


def melodies(batch, frames=9):
    """Pitch classes [B, frames] uint8."""
    return torch.randint(12, (batch, frames), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


def features(model, classes):
    """What a melody model of transformers is given besides the text; nothing for others."""
    if model.config.model_type != "musicgen_melody":
        return {}
    return {"input_features": torch.nn.functional.one_hot(classes.long(), 12).float()}


@torch.no_grad()
def logits(model, sequence, prompts, classes, without=False, masked=None):
    """transformers' logits [B, K, S, V] for a sequence [B, K, S]; ``without``, as generate has them under no text.

    Padding is hidden as transformers has it, or as ``masked`` says. Of more prompts than rows the last are taken, with
    the padding that they have beside the others.
    """
    batch, books, steps = sequence.shape
    tokens = tokenizer()(prompts, padding=True, return_tensors="pt")
    tokens = {name: rows[-batch:] for name, rows in tokens.items()}
    if without or masked is not None:
        return branch(model, sequence, tokens, classes, with_text=not without, masked=masked)
    made = model(**tokens, decoder_input_ids=sequence.reshape(batch * books, steps), **features(model, classes)).logits
    return made.unflatten(0, (batch, books))[:, :, -steps:]


def branch(model, sequence, tokens, classes, with_text, masked=None):
    """The logits of one half of guidance, put together of transformers' parts as its generate does."""
    batch, books, steps = sequence.shape
    melody = model.config.model_type == "musicgen_melody"
    hidden = model.text_encoder(**tokens).last_hidden_state
    given = model.enc_to_dec_proj(hidden) if hasattr(model, "enc_to_dec_proj") else hidden
    keep = tokens["attention_mask"] * int(with_text)
    given = given * keep[..., None]
    shown = keep if masked or (masked is None and not melody) else torch.ones_like(keep)
    if melody:
        heard = features(model, classes)["input_features"]
        chroma = model.audio_enc_to_dec_proj(heard) if hasattr(model, "audio_enc_to_dec_proj") else heard
        given = torch.cat([chroma, given], 1)
        shown = torch.cat([shown.new_ones(chroma.shape[:2]), shown], 1)
    conditions = {"encoder_hidden_states": given, "encoder_attention_mask": shown}
    made = model.decoder(input_ids=sequence.reshape(batch * books, steps), **conditions).logits
    return made.unflatten(0, (batch, books))[:, :, -steps:]


@torch.no_grad()
def greedy(model, prompts, classes, frames):
    """The codes [B, K, T] that transformers' generate decodes."""
    seen = []
    decode = model.audio_encoder.decode

    def watched(*args, **kwargs):
        codes = kwargs.get("audio_codes", args[0] if args else None)
        seen.append(codes[0])
        return decode(*args, **kwargs)

    model.audio_encoder.decode = watched
    try:
        tokens = tokenizer()(prompts, padding=True, return_tensors="pt")
        model.generate(**tokens, **features(model, classes), do_sample=False, guidance_scale=3.0, max_length=frames + 4)
    finally:
        model.audio_encoder.decode = decode
    return seen[0] if len(seen) == 1 else torch.stack(seen, 2).flatten(1, 2)


def audiocraft_state(model):
    """A model's tensors under audiocraft's names, without those of codec and text encoder."""
    state, made = model.state_dict(), {}
    for name, tensor in state.items():
        if name.startswith("audio_encoder.") or name.startswith("text_encoder."):
            continue
        if re.search(r"attn\.[qkv]_proj", name):
            if "q_proj" not in name:
                continue
            tensor = torch.cat([state[name.replace("q_proj", f"{which}_proj")] for which in "qkv"])
            name = name.replace("q_proj.weight", "in_proj_weight")
        for ours, theirs in (
            ("decoder.lm_heads.", "linears."), ("decoder.model.decoder.embed_tokens.", "emb."),
            ("decoder.model.decoder.layer_norm.", "out_norm."), ("decoder.model.decoder.", "transformer."),
            ("encoder_attn_layer_norm", "norm_cross"), ("self_attn_layer_norm", "norm1"),
            ("encoder_attn", "cross_attention"), ("final_layer_norm", "norm2"), (".fc", ".linear"),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        name = name.replace("audio_enc_to_dec_proj", "condition_provider.conditioners.self_wav.output_proj")
        made[name.replace("enc_to_dec_proj", "condition_provider.conditioners.description.output_proj")] = tensor
    if model.config.model_type == "musicgen_melody":
        made["condition_provider.conditioners.self_wav.chroma.spec.window"] = torch.hann_window(16384)
    return made


def lm_config(model):
    """The config of the run that would have trained it, as far as it matters."""
    decoder = model.config.decoder
    melody, stereo = model.config.model_type == "musicgen_melody", decoder.audio_channels == 2
    conditioners = {
        "args": {"merge_text_conditions_p": 0.25},
        "description": {
            "model": "t5",
            "t5": {"name": "t5-base", "finetune": False, "word_dropout": 0.2, "normalize_text": False},
        },
    }
    if melody:
        chroma = {
            "sample_rate": "${sample_rate}", "n_chroma": 12, "radix2_exp": 14, "argmax": True,
            "match_len_on_eval": False, "cache_path": "${oc.env:HOME}",
        }  # fmt: skip
        conditioners["self_wav"] = {"model": "chroma_stem", "chroma_stem": chroma}
    books = decoder.num_codebooks
    delays = [k // 2 if stereo else k for k in range(books)]
    return {
        "sample_rate": 800, "channels": 2 if stereo else 1, "lm_model": "transformer_lm",
        "compression_model_checkpoint": "//sig/1234",
        "interleave_stereo_codebooks": {"use": stereo, "per_timestep": False},
        # Chroma frames every 4096 samples: 9 of them.
        "dataset": {"segment_duration": 8.5 * 4096 / 800},
        "codebooks_pattern": {
            "modeling": "delay",
            "delay": {"delays": delays, "flatten_first": 0, "empty_initial": 0},
            "unroll": {"flattening": [0, 1, 2, 3], "delays": [0, 0, 0, 0]},
        },
        "transformer_lm": {
            "dim": decoder.hidden_size, "num_heads": decoder.num_attention_heads, "n_q": books,
            "num_layers": decoder.num_hidden_layers, "hidden_scale": decoder.ffn_dim // decoder.hidden_size,
            "card": decoder.vocab_size, "dropout": 0.0, "activation": "gelu", "norm_first": True, "bias_ff": False,
            "bias_attn": False, "bias_proj": False, "causal": True, "custom": False, "memory_efficient": True,
            "weight_init": "gaussian", "layer_scale": None, "positional_embedding": "sin", "kv_repeat": 1,
        },
        "fuser": {
            "cross_attention_pos_emb": False, "cross_attention_pos_emb_scale": 1, "sum": [], "input_interpolate": [],
            "prepend": ["description", "self_wav"] if melody else [], "cross": [] if melody else ["description"],
        },
        "conditioners": conditioners,
    }  # fmt: skip


def export(folder, model, config=None, state=None):
    """A folder of the two files that audiocraft exports."""
    folder.mkdir(parents=True, exist_ok=True)
    package = {
        "best_state": state or audiocraft_state(model),
        "xp.cfg": yaml.safe_dump(config or lm_config(model)),
        "version": "1.4.0a2",
        "exported": True,
    }
    torch.save(package, folder / "state_dict.bin")
    codec = {"best_state": audiocraft_names(model.audio_encoder), "xp.cfg": xp_cfg(model.audio_encoder)}
    torch.save(codec, folder / "compression_state_dict.bin")
    return folder


@torch.no_grad()
def halves(model, sequence, prompts, classes):
    """The logits [B, K, S, V] under the conditions and under none, of which transformers' generate mixes its own."""
    tokens = tokenizer()(prompts, padding=True, return_tensors="pt")
    both = branch(model, sequence, tokens, classes, with_text=True)
    return both, branch(model, sequence, tokens, torch.zeros_like(classes), with_text=False)


def edit(folder, part=None, **fields):
    """Changes fields of the config of transformers in this folder, or of one part of it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if part is None else config[part]).update(fields)
    path.write_text(json.dumps(config))
