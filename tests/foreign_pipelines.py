"""Text-to-music pipelines of diffusers, tiny, with random weights that are made alive."""

import foreign_models
import torch

RATE = 800
PROMPTS = ["calm piano", "a bad cab in a dead bed"]  # of different lengths


def save(pipeline, folder):
    """As diffusers saves it."""
    pipeline.save_pretrained(folder)
    return folder


def stable_audio(scheduler="CosineDPMSolverMultistepScheduler"):
    """StableAudioPipeline: stereo, two seconds at most, T5, a transformer, and Oobleck."""
    import diffusers
    import transformers as hf
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = diffusers.AutoencoderOobleck(
            encoder_hidden_size=6, downsampling_ratios=[2, 2], decoder_channels=3, decoder_input_channels=3,
            channel_multiples=[2, 4], sampling_rate=RATE,
        )  # fmt: skip
        vae.decoder.conv2.weight_g.data *= 0.5  # within full scale
        transformer = diffusers.StableAudioDiTModel(
            sample_size=2 * RATE // 4, in_channels=3, out_channels=3, num_layers=2, attention_head_dim=4,
            num_attention_heads=2, num_key_value_attention_heads=2, cross_attention_dim=4, time_proj_dim=8,
            global_states_input_dim=8, cross_attention_input_dim=4,
        )  # fmt: skip
        return diffusers.StableAudioPipeline(
            vae=vae,
            text_encoder=foreign_models.enliven(hf.T5EncoderModel(foreign_models.t5_config(4))),
            projection_model=StableAudioProjectionModel(4, 4, min_value=0, max_value=32),
            tokenizer=_tokenizer(),
            transformer=transformer,
            scheduler=getattr(diffusers, scheduler)(),
        )


def audioldm():
    """AudioLDMPipeline: mono, the text half of CLAP, a U-Net over mel spectrograms, and HiFi-GAN."""
    import diffusers
    import transformers as hf

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            class_embed_type="simple_projection", projection_class_embeddings_input_dim=8,
            class_embeddings_concat=True, **_UNET,
        )  # fmt: skip
        text = foreign_models.enliven(hf.ClapTextModelWithProjection(_clap_text()))
        return diffusers.AudioLDMPipeline(text_encoder=text, tokenizer=_tokenizer(), unet=unet, **_sounding())


def audioldm2():
    """AudioLDM2Pipeline: as AudioLDM, with T5 beside CLAP and GPT-2 behind both."""
    import diffusers
    import transformers as hf
    from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        audio = {"hidden_size": 64, "num_mel_bins": 64, "spec_size": 64, "window_size": 4, "depths": [1, 1],
                 "num_attention_heads": [1, 1], "patch_embeds_hidden_size": 32, "num_classes": 2,
                 "patch_embed_input_channels": 1, "projection_dim": 8}  # fmt: skip
        clap = hf.ClapConfig(text_config=_clap_text().to_dict(), audio_config=audio, projection_dim=8)
        gpt = hf.GPT2LMHeadModel(
            hf.GPT2Config(
                n_embd=16, n_layer=2, n_head=2, vocab_size=100, n_positions=64, bos_token_id=0, eos_token_id=0
            )
        )
        gpt.config.max_new_tokens = 8
        return diffusers.AudioLDM2Pipeline(
            text_encoder=foreign_models.enliven(hf.ClapModel(clap)),
            text_encoder_2=foreign_models.enliven(hf.T5EncoderModel(foreign_models.t5_config(16))),
            projection_model=foreign_models.enliven(AudioLDM2ProjectionModel(8, 16, 16)),
            language_model=foreign_models.enliven(gpt),
            tokenizer=_tokenizer(),
            tokenizer_2=_tokenizer(),
            feature_extractor=hf.ClapFeatureExtractor(),
            unet=AudioLDM2UNet2DConditionModel(**_UNET),
            **_sounding(),
        )


_UNET = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "sample_size": 8, "in_channels": 4, "out_channels": 4,
    "norm_num_groups": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": (8, 16), "attention_head_dim": 4,
}  # fmt: skip


def _tokenizer():
    tokenizer = foreign_models.tokenizer()
    tokenizer.model_max_length = 24
    return tokenizer


def _clap_text():
    from transformers import ClapTextConfig

    return ClapTextConfig(
        vocab_size=300, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        projection_dim=8, max_position_embeddings=40,
    )  # fmt: skip


def _sounding():
    """VAE, vocoder and scheduler."""
    import diffusers
    import transformers as hf

    vae = diffusers.AutoencoderKL(
        block_out_channels=[8, 16], in_channels=1, out_channels=1, latent_channels=4, norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    shape = hf.SpeechT5HifiGanConfig(
        model_in_dim=8, sampling_rate=RATE, upsample_initial_channel=8, upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
    )  # fmt: skip
    vocoder = hf.SpeechT5HifiGan(shape)
    for parameter in vocoder.parameters():  # else it is next to silent
        torch.nn.init.normal_(parameter, std=0.2)
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False)
    return {"vae": vae, "vocoder": vocoder, "scheduler": scheduler}
