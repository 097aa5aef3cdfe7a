"""A SegFormer or MiT as a folder that `from_pretrained` of Hugging Face transformers takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn

from attnseg.core.errors import check
from attnseg.core.types import IGNORE, Normalisation
from attnseg.models.assembled import Classifier
from attnseg.models.backbones.mit import MiT
from attnseg.models.heads.linear import LinearHead
from attnseg.models.heads.segformer import SegFormerHead
from attnseg.weights.export import export_torch, write_state

LAYOUT = "Hugging Face MiT"
CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
FILES = (CONFIG, PROCESSOR, WEIGHTS)
EPSILON = 1e-5  # of every LayerNorm there, whatever their configuration says


def check_folder(folder: str | Path) -> Path:
    """The path of a folder to be.

    Raises:
      UserError: it holds a model already, or cannot be made.
    """
    folder = Path(folder)
    check(not folder.is_file(), f"{folder} is a file; name a folder for the model.")
    there = [name for name in FILES if (folder / name).exists()]
    check(
        not there,
        f"{folder} holds {', '.join(there)}, which are not overwritten; name another folder.",
    )
    return folder


def model_config(model: nn.Module, classes: Sequence[str]) -> dict[str, Any]:
    """Contents of ``config.json``.

    Raises:
      UserError: neither SegFormer nor a MiT classifier.
    """
    backbone, head = model.backbone, model.head
    classifier = isinstance(model, Classifier)
    fits = isinstance(backbone, MiT) and isinstance(
        head, LinearHead if classifier else SegFormerHead
    )
    check(
        fits,
        "transformers' SegFormer is a MiT with SegFormer's decoder or a linear classifier; this "
        f"is {type(backbone).__name__} with {type(head).__name__}. Export it as stablehlo or onnx.",
    )
    stages = len(backbone.widths)
    names = {str(i): name for i, name in enumerate(classes)}
    config = {
        "architectures": [
            f"SegformerFor{'ImageClassification' if classifier else 'SemanticSegmentation'}"
        ],
        "model_type": "segformer",
        "num_channels": 3,
        "num_encoder_blocks": stages,
        "depths": list(backbone.depths),
        "sr_ratios": list(backbone.reductions),
        "hidden_sizes": list(backbone.widths),
        "patch_sizes": [7] + [3] * (stages - 1),
        "strides": [4] + [2] * (stages - 1),
        "num_attention_heads": list(backbone.heads),
        "mlp_ratios": list(backbone.ratios),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": backbone.drop_path,
        "layer_norm_eps": EPSILON,
        "reshape_last_stage": True,
        "semantic_loss_ignore_index": IGNORE,
        "id2label": names,
        "label2id": {name: int(i) for i, name in names.items()},
        "torch_dtype": "float32",
    }
    if not classifier:
        config |= {"decoder_hidden_size": head.width, "classifier_dropout_prob": head.dropout}
    return config


def processor_config(normalisation: Normalisation) -> dict[str, Any]:
    """Contents of ``preprocessor_config.json``: images keep their size, as in our evaluation."""
    return {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in normalisation.mean],
        "image_std": [value / 255 for value in normalisation.std],
        "do_reduce_labels": False,
    }


def export_huggingface(
    model: nn.Module,
    variables: Mapping[str, Any],
    folder: str | Path,
    *,
    classes: Sequence[str],
    normalisation: Normalisation,
) -> Path:
    """Writes ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``.

    Args:
      model, variables: as `attnseg.export_torch` takes them.
      folder: made if it is not there.
      classes: names of the classes, for ``id2label``.
      normalisation: of the images.

    Returns:
      The folder.

    Raises:
      UserError: another network than SegFormer or MiT, one whose LayerNorm epsilons or decoder
        transformers does not have, or a folder that cannot be written.
    """
    folder = check_folder(folder)
    config = model_config(model, classes)
    state = export_torch(model, variables, layout=LAYOUT)
    folder.mkdir(parents=True, exist_ok=True)
    write_state(folder / WEIGHTS, state)
    for name, content in ((CONFIG, config), (PROCESSOR, processor_config(normalisation))):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder
