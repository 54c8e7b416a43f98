"""Export SAM and the text encoder of a trained model as checkpoints in transformers' formats.

    python tools/backbones.py --out runs/backbones                       # from the bundled checkpoint

The exported checkpoints are pretrained backbones for small-scale experiments, as Meta's SAM and BERT are for full-size
ones. A run that starts from them (`model.sam`, `model.text`) trains a new interactor and prompter, as the recipe
`miniature` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from transformers import BertModel, CLIPTextModel, SamConfig, SamModel

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT, load_model


def write_backbones(name: str, out: Path) -> None:
    """Write `out`/sam and `out`/text; the latter includes the tokenizer."""
    model, processor = load_model(name)
    config = model.config
    sam = SamModel(
        SamConfig(
            vision_config=config.vision_config.to_dict(),
            prompt_encoder_config=config.prompt_encoder_config.to_dict(),
            mask_decoder_config=config.mask_decoder_config.to_dict(),
        )
    )
    weights = {key: value for key, value in model.sam.state_dict().items() if not key.startswith("object_score_head")}
    fixed = "shared_image_embedding.positional_embedding"
    weights[fixed] = weights["prompt_encoder.shared_embedding.positional_embedding"]
    sam.load_state_dict(weights)
    sam.save_pretrained(out / "sam")
    kind = BertModel if config.text_encoder_kind == "bert" else CLIPTextModel
    text = kind(config.text_config)
    inner = getattr(text, "text_model", text)
    inner.load_state_dict(model.text_encoder.state_dict(), strict=False)  # BERT's pooler is not used
    text.save_pretrained(out / "text")
    processor.tokenizer.save_pretrained(out / "text")


def main() -> None:
    """Load a model and export its backbones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=BUNDLED_CHECKPOINT, help="folder or Hub id (default: bundled checkpoint)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write_backbones(args.model, args.out)
    Console().print(f"Written: {args.out / 'sam'} and {args.out / 'text'}")


if __name__ == "__main__":
    main()
