"""`refersam convert ...`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from refersam.cli.app import convert_app
from refersam.cli.console import check_folder, quiet_transformers, say, waiting


class Preset(StrEnum):
    """Presets with published sizes."""

    base = "base"
    large = "large"
    huge = "huge"


class TextEncoder(StrEnum):
    """Text encoders."""

    bert = "bert"
    clip = "clip"


@convert_app.command("official")
def convert_official(
    weights: Annotated[
        Path, typer.Argument(help="Checkpoint of the authors: a .pth or .safetensors file.", metavar="WEIGHTS")
    ],
    out: Annotated[Path, typer.Option(help="New folder for the model.")],
    preset: Annotated[
        Preset | None,
        typer.Option(help="Size of the model's image encoder: SAM ViT-B, ViT-L or ViT-H. Or give --config."),
    ] = None,
    text: Annotated[
        TextEncoder | None, typer.Option(help="Text encoder of the model, with --preset. Without it: bert.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with the model's sizes, instead of --preset.")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Tokenizer of the text encoder: a folder or a Hub id. Without it: the model cannot read phrases."
        ),
    ] = None,
    image_size: Annotated[
        int, typer.Option(min=32, max=4096, help="Side of the model's square input in pixels, a multiple of 32.")
    ] = 448,
) -> None:
    """Convert the authors' ReferSAM weights into a model folder. Nothing in the file is executed."""
    if (preset is None) == (config is None):
        raise typer.BadParameter("Give either --preset or --config.")
    if config is not None and text is not None:
        raise typer.BadParameter("--text goes with --preset; a --config names the text encoder itself.")
    if image_size % 32:
        raise typer.BadParameter(f"--image-size must be a multiple of 32, but is {image_size}.")
    check_folder(out)
    from refersam.checkpoints.official import convert_official_checkpoint, read_authors_config
    from refersam.errors import CheckpointError
    from refersam.hub import DownloadError

    quiet_transformers()
    with waiting("Converting"):
        from refersam.config import ReferSamConfig

        if config is not None:
            sizes = read_authors_config(config)
        else:
            sizes = ReferSamConfig.from_preset(preset.value, (text or TextEncoder.bert).value)  # type: ignore[union-attr]
        try:
            count = convert_official_checkpoint(weights, sizes, out, tokenizer, image_size)
        except DownloadError as error:
            raise CheckpointError(f"--tokenizer: {error}") from error
    say(f"{count} weights converted into {out}/")
    if tokenizer is None:
        say(
            f"The tokenizer is missing: the weights load with ReferSamModel.from_pretrained({str(out)!r}), but phrases "
            "need one. Convert again with --tokenizer naming the text encoder's (google-bert/bert-base-uncased, "
            "openai/clip-vit-base-patch16, or a folder)."
        )
