"""Makes the folders of transformers and open_clip in `data/interop`, and what they compute.

Run by hand, never by the tests, in an environment of its own, since vljax does not need PyTorch:

    pip install torch==2.14.1 torchvision==0.29.1 open_clip_torch==3.3.0 timm==1.0.31 \
        transformers==5.23.0 sentencepiece==0.2.3 protobuf numpy==2.4.6
    python -m tests.parity.make_interop

With a folder of vljax exports, named as in `data/interop`, it loads those instead and compares what
they compute: `python -m tests.parity.make_interop FOLDER`.

Every folder is written by the software itself, and zipped: a tiny model with random weights (of a
size that keeps activations near 1, in bfloat16), its tokenizer and its preprocessing. Tokens that
no text has are zero, so that the zip file is small. `outputs.npz` in it holds what the software
computes in float32 from the files and texts of `tests.parity.interop_inputs`: the whole pipeline,
from a file to an embedding.
"""

from __future__ import annotations

import io
import json
import math
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from tests.parity import interop_inputs as inputs
from tests.parity.interop_cases import OPEN_CLIP, TRANSFORMERS, TRUNKS

DATA = Path(__file__).parent / "data" / "interop"


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every weight random and exact in bfloat16: biases, norms and positions too."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "logit_scale" in name or "logit_bias" in name:
            value = noise * 0.1 + (math.log(10) if "scale" in name else -5)
        elif ("norm" in name or "ln_" in name) and name.endswith("weight"):
            value = 1 + 0.3 * noise
        elif (
            weight.ndim < 2
            or ("embedding" in name and "patch" not in name)
            or name.endswith(("probe", "latent", "pos_embed"))
        ):
            value = 0.5 * noise
        else:
            value = noise / math.sqrt(weight[0].numel())
        weight.data = value.bfloat16().float()


def pictures() -> list[Image.Image]:
    return [Image.open(io.BytesIO(file)).convert("RGB") for file in inputs.images()]


@torch.no_grad()
def keep_used_tokens(model: torch.nn.Module, ids: np.ndarray) -> None:
    """Sets the embeddings of tokens that no text has to zero."""
    for name, weight in model.named_parameters():
        if name.endswith("token_embedding.weight"):
            used = torch.zeros(len(weight), 1)
            used[torch.from_numpy(ids).flatten().long()] = 1
            weight *= used


def clip_tokenizer(context: int) -> Any:
    from transformers import CLIPTokenizer

    vocabulary, merges = inputs.byte_pairs()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=context)


def siglip_tokenizer(context: int, folder: Path) -> Any:
    from transformers import SiglipTokenizer

    (folder / "spiece.model").write_bytes(inputs.sentence_pieces())
    return SiglipTokenizer(
        str(folder / "spiece.model"), model_max_length=context, model_input_names=["input_ids"]
    )


def clip_of_transformers(case: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """A model and its processor."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    tokenizer = clip_tokenizer(case["text"]["max_position_embeddings"])
    tokens = {"bos": "<|startoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"}
    ids = {f"{k}_token_id": tokenizer.convert_tokens_to_ids(token) for k, token in tokens.items()}
    text = {**case["text"], "vocab_size": len(tokenizer), **ids}
    if case["old_eos"]:
        text["eos_token_id"] = 2
    projection = case["projection"]
    config = CLIPConfig(vision_config=case["vision"], text_config=text, projection_dim=projection)
    size = case["vision"]["image_size"]
    images = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        resample=case["resample"],
    )
    return CLIPModel(config), CLIPProcessor(images, tokenizer)


def siglip_of_transformers(case: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """A model and its processor."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipProcessor

    tokenizer = siglip_tokenizer(case["text"]["max_position_embeddings"], folder)
    text = {**case["text"], "vocab_size": tokenizer.vocab_size}
    text |= {"pad_token_id": 1, "bos_token_id": None, "eos_token_id": 1}
    text |= {"projection_size": case["vision"]["hidden_size"]}
    size = case["vision"]["image_size"]
    images = SiglipImageProcessorPil(
        size={"height": size, "width": size},
        resample=case["resample"],
        image_mean=case["mean"],
        image_std=case["std"],
    )
    model = SiglipModel(SiglipConfig(vision_config=case["vision"], text_config=text))
    return model, SiglipProcessor(images, tokenizer)


def transformers_folder(case: dict[str, Any], folder: Path, seed: int) -> None:
    """A folder by `save_pretrained`, and its outputs by AutoModel and AutoProcessor."""
    make = clip_of_transformers if case["kind"] == "clip" else siglip_of_transformers
    model, processor = make(case, folder)
    randomise(model, seed)
    processor.save_pretrained(folder)
    keep_used_tokens(model, run_transformers(model.eval(), processor)["ids"])
    model.to(torch.bfloat16).save_pretrained(folder)
    np.savez_compressed(folder / "outputs.npz", **load_and_run_transformers(folder))


def load_and_run_transformers(
    folder: Path, dtype: torch.dtype = torch.float32
) -> dict[str, np.ndarray]:
    """What a folder computes in transformers; nothing in it may be missing or left over."""
    from transformers import AutoModel, AutoProcessor

    loaded, report = AutoModel.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    return run_transformers(loaded.eval(), processor)


@torch.no_grad()
def run_transformers(model: Any, processor: Any) -> dict[str, np.ndarray]:
    """Embeddings and logits of the inputs."""
    batch = processor(
        text=inputs.TEXTS,
        images=pictures(),
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    )
    made = model(**batch.to(model.dtype))  # integers keep their type
    return {
        "image": made.image_embeds.numpy(),
        "text": made.text_embeds.numpy(),
        "logits": made.logits_per_image.numpy(),
        "ids": batch["input_ids"].numpy(),
    }


def register_trunks() -> None:
    """timm's SigLIP towers, smaller."""
    for name, trunk in TRUNKS.items():

        def make(pretrained: bool = False, trunk: Any = trunk, **kwargs: Any) -> Any:
            tower = VisionTransformer(
                img_size=trunk["image"],
                patch_size=trunk["patch"],
                embed_dim=trunk["width"],
                depth=trunk["depth"],
                num_heads=trunk["heads"],
                mlp_ratio=trunk["mlp_dim"] / trunk["width"],
                class_token=False,
                act_layer=trunk["activation"],
                global_pool=kwargs.get("global_pool", "map"),
                num_classes=kwargs.get("num_classes", 0),
            )
            tower.default_cfg = {}
            return tower

        make.__name__, make.__module__ = name, __name__
        timm.models.register_model(make)


def open_clip_folder(case: dict[str, Any], folder: Path, seed: int) -> None:
    """A folder in open_clip's layout, and its outputs once open_clip has loaded it."""
    import open_clip

    context = case["model_cfg"]["text_cfg"]["context_length"]
    if case["tokenizer"] == "clip":
        clip_tokenizer(context).save_pretrained(folder)
    elif case["tokenizer"] == "siglip":
        siglip_tokenizer(context, folder).save_pretrained(folder)
    content = {name: case[name] for name in ("model_cfg", "preprocess_cfg")}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2))
    local = f"local-dir:{folder}"
    model = open_clip.create_model(local, load_weights=False)
    randomise(model, seed)
    keep_used_tokens(model, open_clip.get_tokenizer(local)(inputs.TEXTS).numpy())
    weights = {name: w.detach().bfloat16().contiguous() for name, w in model.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    np.savez_compressed(folder / "outputs.npz", **load_and_run_open_clip(folder))


@torch.no_grad()
def load_and_run_open_clip(
    folder: Path, dtype: torch.dtype = torch.float32
) -> dict[str, np.ndarray]:
    """What a folder computes in open_clip, which loads it strictly."""
    import open_clip

    local = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(local)
    ids = open_clip.get_tokenizer(local)(inputs.TEXTS)
    pixels = torch.stack([preprocess(picture) for picture in pictures()])
    image = model.eval().to(dtype).encode_image(pixels.to(dtype), True)
    text = model.encode_text(ids, True)
    logits = image @ text.T * model.logit_scale.exp()
    logits = logits if model.logit_bias is None else logits + model.logit_bias
    made = {"image": image, "text": text, "logits": logits, "ids": ids}
    return {name: value.numpy() for name, value in made.items()}


def main() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    register_trunks()
    kinds = ((TRANSFORMERS, transformers_folder), (OPEN_CLIP, open_clip_folder))
    for cases, make in kinds:
        for seed, (name, case) in enumerate(cases.items()):
            with tempfile.TemporaryDirectory() as folder:
                make(case, Path(folder), seed)
                with zipfile.ZipFile(DATA / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                    for file in sorted(Path(folder).iterdir()):
                        archive.write(file, file.name)
            print(f"{name}: {(DATA / f'{name}.zip').stat().st_size:,} bytes", file=sys.stderr)


def check(exported: Path) -> None:
    """Loads what vljax exported (`NAME/` in a folder) and compares it with what is stored."""
    register_trunks()
    for folder in sorted(exported.iterdir()):
        run = load_and_run_transformers if "transformers" in folder.name else load_and_run_open_clip
        made = run(folder)
        with zipfile.ZipFile(DATA / f"{folder.name}.zip") as archive:
            stored = np.load(io.BytesIO(archive.read("outputs.npz")))
            off = {name: float(np.max(abs(made[name] - stored[name]))) for name in stored}
        assert max(off.values()) < 1e-5, (folder.name, off)
        print(folder.name, {name: f"{value:.1e}" for name, value in off.items()})


if __name__ == "__main__":
    check(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
