"""Genuine small checkpoints, made on the spot by the installed LeRobot without a network: ACT, Diffusion, VQ-BeT, TD-MPC, SmolVLA.

Random weights, real architecture, real processors. ``make(kind, directory)`` gives the checkpoint's directory.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

STATE, ACTION, HEIGHT, WIDTH = 5, 4, 64, 64
CAMERAS = ("front", "side")
WORDS = "put the red cube into a box"


def features(*, cameras: tuple[str, ...] = CAMERAS) -> dict[str, Any]:
    from lerobot.configs.types import FeatureType, PolicyFeature

    seen = {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))}
    seen |= {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, HEIGHT, WIDTH)) for name in cameras}
    return {
        "input_features": seen,
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        "device": "cpu",
        "push_to_hub": False,
    }


def act() -> Any:
    from lerobot.policies.act.configuration_act import ACTConfig

    return ACTConfig(
        **features(),
        chunk_size=8,
        n_action_steps=8,
        dim_model=32,
        n_heads=2,
        dim_feedforward=64,
        n_encoder_layers=1,
        n_decoder_layers=1,
        n_vae_encoder_layers=1,
        latent_dim=8,
        pretrained_backbone_weights=None,
    )


def diffusion() -> Any:
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

    return DiffusionConfig(
        **features(),
        n_obs_steps=2,
        horizon=8,
        n_action_steps=6,
        crop_shape=(56, 56),
        pretrained_backbone_weights=None,
        use_group_norm=True,
        spatial_softmax_num_keypoints=8,
        down_dims=(16, 32),
        diffusion_step_embed_dim=16,
        num_train_timesteps=10,
        num_inference_steps=3,
    )


def vqbet() -> Any:
    from lerobot.policies.vqbet.configuration_vqbet import VQBeTConfig

    return VQBeTConfig(
        **features(cameras=("front",)),
        n_obs_steps=3,
        n_action_pred_token=2,
        action_chunk_size=4,
        crop_shape=(56, 56),
        pretrained_backbone_weights=None,
        use_group_norm=True,
        spatial_softmax_num_keypoints=8,
        n_vqvae_training_steps=1,
        vqvae_n_embed=4,
        vqvae_embedding_dim=16,
        vqvae_enc_hidden_dim=16,
        gpt_block_size=32,
        gpt_input_dim=32,
        gpt_output_dim=32,
        gpt_n_layer=1,
        gpt_n_head=2,
        gpt_hidden_dim=32,
    )


def tdmpc() -> Any:
    from lerobot.policies.tdmpc.configuration_tdmpc import TDMPCConfig

    given = features(cameras=("front",))  # it looks for its only camera under this name
    given["input_features"]["observation.image"] = given["input_features"].pop("observation.images.front")
    return TDMPCConfig(
        **given,
        horizon=3,
        n_gaussian_samples=16,
        n_pi_samples=4,
        n_elites=4,
        cem_iterations=2,
        image_encoder_hidden_dim=8,
        state_encoder_hidden_dim=16,
        latent_dim=8,
        mlp_dim=16,
        q_ensemble_size=2,
    )


def smolvla(directory: Path) -> Any:
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

    return SmolVLAConfig(
        **features(),
        vlm_model_name=str(language_model(directory)),
        load_vlm_weights=False,
        chunk_size=8,
        n_action_steps=8,
        max_state_dim=8,
        max_action_dim=8,
        num_steps=3,
        resize_imgs_with_padding=(64, 64),
        tokenizer_max_length=16,
        num_vlm_layers=2,
        num_expert_layers=2,
        self_attn_every_n_layers=2,
        expert_width_multiplier=0.5,
    )


def language_model(directory: Path) -> Path:
    """Configuration, processor and tokenizer of a SmolVLM with some ten thousand parameters, as its own programs save them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    special = ["<pad>", "<unk>", "<s>", "</s>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz \n.,'"))
    words = {token: index for index, token in enumerate(special + letters)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=special[4:],
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
    )
    place = directory / "tiny_smolvlm"
    size = {"longest_edge": 64}
    SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size=size, max_image_size=size),
        tokenizer=fast,
        video_processor=SmolVLMVideoProcessor(size=size, max_image_size=size),
        image_seq_len=4,
        chat_template="{{ messages }}",
    ).save_pretrained(place)
    SmolVLMConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": 64,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "pad_token_id": 0,
        },
        image_token_id=words["<image>"],
        pad_token_id=0,
        scale_factor=2,
    ).save_pretrained(place)
    return place


def statistics(config: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Every statistic that any normalisation asks for, different for each entry."""
    found = {}
    for key, feature in {**config.input_features, **config.output_features}.items():
        shape = (3, 1, 1) if len(feature.shape) == 3 else feature.shape
        middle = torch.linspace(-0.5, 0.5, shape[0]).reshape(shape)
        found[key] = {"mean": middle + 0.1, "std": middle.abs() + 0.6, "min": middle - 1.3, "max": middle + 1.7}
    return found


def make(kind: str, directory: Path, **options: Any) -> Path:
    """``options``: of the policy's configuration, in place of those above."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    torch.manual_seed(0)
    config = (
        smolvla(directory) if kind == "smolvla" else {"act": act, "diffusion": diffusion, "vqbet": vqbet, "tdmpc": tdmpc}[kind]()
    )
    config = replace(config, **options)
    policy = get_policy_class(kind)(config)
    if kind == "vqbet":
        policy.vqbet.action_head.vqvae_model.discretized.fill_(True)  # as after its first stage of training
    if kind == "tdmpc":
        for head in (policy.model._reward, *policy.model._Qs):
            torch.nn.init.normal_(head[-1].weight)  # they begin at zero, and any plan is then worth as much as any other
    before, after = make_pre_post_processors(config, dataset_stats=statistics(config))
    place = directory / f"tiny_{kind}"
    for part in (policy, before, after):
        part.save_pretrained(place)
    return place
