"""Small random checkpoints in the file formats of the published models, written by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import PreTrainedModel

SIDE = 64
"""Input size in pixels of all models but the detector's, whose shortest side has so many."""
WORDS = ("the", "dog", "a", "red", "cat", "on", "left", "star", "chair", "of")


def save_clipseg(folder: Path) -> Path:
    """Write a CLIPSeg checkpoint."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.CLIPSegConfig(
        text_config={**tower, **clip_entries(folder)},
        vision_config={**tower, "image_size": SIDE, "patch_size": 8},
        projection_dim=16,
        extract_layers=[0, 1],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        use_complex_transposed_convolution=True,
    )
    model = _lively(transformers.CLIPSegForImageSegmentation(config))
    with torch.no_grad():
        model.decoder.film_mul.weight *= 4
        model.decoder.film_add.weight *= 4
    image_processor = transformers.ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    _save(folder, model, image_processor)
    return folder


def save_grounding_dino(folder: Path) -> Path:
    """Write a Grounding DINO checkpoint whose best boxes have scores on both sides of 0.25."""
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.GroundingDinoConfig(
        text_config={"model_type": "bert", **text, "vocab_size": save_bert_tokenizer(folder)},
        backbone_config=transformers.SwinConfig(
            embed_dim=8,
            depths=[1, 1, 1],
            num_heads=[1, 2, 2],
            window_size=4,
            image_size=SIDE,
            out_features=["stage2", "stage3"],
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=12,
        num_feature_levels=3,
        dropout=0.0,
    )
    model = _lively(transformers.GroundingDinoForObjectDetection(config))
    norm = model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    nn.init.normal_(norm.bias, std=2.0, generator=torch.Generator().manual_seed(1))  # logits of one sign for all tokens
    nn.init.constant_(model.model.decoder.layer_norm.weight, 0.4)
    image_processor = transformers.GroundingDinoImageProcessorPil(
        size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}
    )
    _save(folder, model, image_processor)
    return folder


def save_sam(folder: Path) -> Path:
    """Write a SAM checkpoint."""
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "global_attn_indexes": [1],
            "image_size": SIDE,
            "patch_size": 8,
            "window_size": 2,
            "output_channels": 16,
            "num_pos_feats": 8,
            "mlp_dim": 32,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 32, "iou_head_hidden_dim": 16, "num_attention_heads": 2},
    )
    model = _lively(transformers.SamModel(config))
    image_processor = transformers.SamImageProcessorPil(
        size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}, mask_size={"longest_edge": 32}
    )
    _save(folder, model, image_processor)
    return folder


def save_sam3(folder: Path, video: bool = True) -> Path:
    """Write a SAM 3 checkpoint: with its tracker, as it is published, or the detector alone."""
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    detector = transformers.Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                **small,
                "num_hidden_layers": 2,
                "image_size": SIDE,
                "pretrain_image_size": SIDE,
                "patch_size": 8,
                "window_size": 4,
                "global_attn_indexes": [1],
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={
            "model_type": "clip_text_model",
            **small,
            "num_hidden_layers": 1,
            "projection_dim": 16,
            "max_position_embeddings": 32,
            **clip_entries(folder),
        },
        geometry_encoder_config={**small, "num_layers": 1},
        detr_encoder_config={**small, "num_layers": 1},
        detr_decoder_config={**small, "num_layers": 2, "num_queries": 10},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    model = _lively(transformers.Sam3Model(detector))
    with torch.no_grad():
        model.dot_product_scoring.query_proj.weight *= 4
        model.detr_decoder.query_embed.weight *= 8
        model.detr_decoder.presence_head.layer3.bias -= 1
    settings = {
        "image_processor_type": "Sam3ImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255,
        "resample": 2,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
    }
    processor = {"processor_class": "Sam3Processor", "target_size": SIDE, "point_pad_value": -10}
    (folder / "processor_config.json").write_text(json.dumps({**processor, "image_processor": settings}))
    if not video:
        model.save_pretrained(folder)
        return folder
    config = transformers.Sam3VideoConfig(detector_config=detector.to_dict())
    weights = {f"detector_model.{name}": value for name, value in model.state_dict().items()}
    weights["tracker_model.no_memory_embedding"] = torch.zeros(1, 1, 32)
    config.architectures = ["Sam3VideoModel"]
    config.save_pretrained(folder)
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    return folder


def clip_entries(folder: Path) -> dict[str, int]:
    """Write a CLIP tokenizer of single bytes in its published format; returns a configuration's fields about it."""
    letters = sorted(ByteLevel.alphabet())
    entries = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={entry: number for number, entry in enumerate(entries)}, merges=[], model_max_length=77
    )
    tokenizer.save_pretrained(folder)
    return {"vocab_size": len(entries), "bos_token_id": len(entries) - 2, "eos_token_id": len(entries) - 1}


def save_bert_tokenizer(folder: Path) -> int:
    """Write a BERT tokenizer, its special tokens at the published places; returns its number of entries."""
    places = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    vocab = {f"[unused{number}]": number for number in range(1030)}
    vocab = {token: number for token, number in vocab.items() if number not in places.values()} | places
    vocab |= {word: 1030 + number for number, word in enumerate(WORDS)}
    transformers.BertTokenizer(vocab=vocab).save_pretrained(folder)
    return len(vocab)


def _lively(model: PreTrainedModel) -> PreTrainedModel:
    """Large random weights, so that outputs differ between pixels and phrases."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.2 / parameter[0].numel() ** 0.5, generator=generator)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return model.eval()


def _save(folder: Path, model: PreTrainedModel, image_processor: object) -> None:
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
