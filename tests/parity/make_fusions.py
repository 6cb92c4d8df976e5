"""Makes the folders of blip, lxmert, vilt and visual_bert in `data/interop`, and their outputs.

Run by hand, never by the tests, in the environment of `make_interop.py`:

    python -m tests.parity.make_fusions            # makes the folders
    python -m tests.parity.make_fusions FOLDER     # compares folders that vljax exported

Each is written by transformers itself, as described in `make_interop.py`. Nothing may be missing or
left over when one is loaded.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from tests.parity import interop_inputs as inputs
from tests.parity.fusion_cases import CASES
from tests.parity.make_families import bert_tokenizer
from tests.parity.make_interop import DATA, pictures, randomise

REGIONS = 5


def blip(case: dict[str, Any]) -> tuple[Any, Any]:
    """A model and its processor."""
    tokenizer = bert_tokenizer()
    tokenizer.model_max_length = case["text"]["max_position_embeddings"]
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    ids |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    config = hf.BlipConfig(
        vision_config=case["vision"],
        text_config={**case["text"], **ids, "sep_token_id": tokenizer.sep_token_id},
        image_text_hidden_size=case["dim"],
    )
    size = case["vision"]["image_size"]
    images = hf.BlipImageProcessorPil(size={"height": size, "width": size})
    return hf.BlipForImageTextRetrieval(config), hf.BlipProcessor(images, tokenizer)


def lxmert(case: dict[str, Any]) -> tuple[Any, Any]:
    """A model and its tokenizer."""
    tokenizer = bert_tokenizer()
    tokenizer.model_max_length = case["config"]["max_position_embeddings"]
    answers = case["answers"]
    labels = {"num_qa_labels": len(answers), "id2label": dict(enumerate(answers))}
    labels |= {"label2id": {answer: i for i, answer in enumerate(answers)}}
    config = hf.LxmertConfig(
        **case["config"], vocab_size=len(tokenizer), **(labels if answers else {})
    )
    kind = hf.LxmertForQuestionAnswering if answers else hf.LxmertModel
    return kind(config), tokenizer


def labels(answers: tuple[str, ...]) -> dict[str, Any]:
    """The fields of `config.json` that name the answers."""
    ids = {answer: i for i, answer in enumerate(answers)}
    return {"id2label": dict(enumerate(answers)), "label2id": ids} if answers else {}


def vilt(case: dict[str, Any]) -> tuple[Any, Any]:
    """A model and its processor."""
    tokenizer = bert_tokenizer()
    tokenizer.model_max_length = case["config"]["max_position_embeddings"]
    fields = {**case["config"], **labels(case["answers"]), "vocab_size": len(tokenizer)}
    config = hf.ViltConfig(**fields, pad_token_id=tokenizer.pad_token_id)
    patch = case["config"]["patch_size"]
    size = {"shortest_edge": case["shortest"]}
    images = hf.ViltImageProcessorPil(size=size, size_divisor=patch)
    return getattr(hf, case["model"])(config), hf.ViltProcessor(images, tokenizer)


def visual_bert(case: dict[str, Any]) -> tuple[Any, Any]:
    """A model and its tokenizer."""
    tokenizer = bert_tokenizer()
    tokenizer.model_max_length = case["config"]["max_position_embeddings"]
    fields = {**case["config"], **labels(case["answers"]), "vocab_size": len(tokenizer)}
    config = hf.VisualBertConfig(**fields, pad_token_id=tokenizer.pad_token_id)
    return getattr(hf, case["model"])(config), tokenizer


MAKERS = {"blip": blip, "lxmert": lxmert, "vilt": vilt, "visual_bert": visual_bert}


def randomise_blip(model: Any, seed: int) -> None:
    """As `randomise`; position and class embeddings of the image have other names there."""
    randomise(model, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    for name, weight in model.named_parameters():
        if name.endswith(("position_embedding", "class_embedding")):
            noise = torch.randn(weight.shape, generator=generator)
            weight.data = (0.5 * noise).bfloat16().float()


@torch.no_grad()
def make(case: dict[str, Any], folder: Path, seed: int) -> None:
    """Writes a folder by `save_pretrained`, and its outputs."""
    model, processor = MAKERS[case["kind"]](case)
    randomise_blip(model, seed)
    processor.save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)
    np.savez_compressed(folder / "outputs.npz", **run(case, folder))


@torch.no_grad()
def run(
    case: dict[str, Any], folder: Path, dtype: torch.dtype = torch.float32
) -> dict[str, np.ndarray]:
    """What a folder computes in transformers."""
    if case["kind"] == "blip":
        kind = hf.BlipForImageTextRetrieval
    elif "model" in case:
        kind = getattr(hf, case["model"])
    else:
        kind = hf.LxmertForQuestionAnswering if case["answers"] else hf.LxmertModel
    model, report = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(report.values()), report
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(inputs.TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    texts = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    runs = {"blip": run_blip, "vilt": run_vilt, "visual_bert": run_visual_bert}
    found = runs.get(case["kind"], run_lxmert)(case, model.eval(), folder, texts, dtype)
    found |= {"ids": batch["input_ids"]}
    return {name: np.asarray(value) for name, value in found.items()}


def run_blip(
    case: dict[str, Any], model: Any, folder: Path, texts: dict[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    """Embeddings, and the scores of image i with text i."""
    processor = hf.AutoProcessor.from_pretrained(folder, backend="pil").image_processor
    pixels = processor(pictures(), return_tensors="pt")["pixel_values"].to(dtype)
    matched = model(pixel_values=pixels, **texts, use_itm_head=True)
    apart = model(pixel_values=pixels, **texts, use_itm_head=False)
    normalize = torch.nn.functional.normalize
    mask = texts["attention_mask"][..., None]
    return {
        "image": normalize(model.vision_proj(apart.last_hidden_state[:, 0]), dim=-1),
        "text": normalize(model.text_proj(apart.question_embeds[:, 0]), dim=-1),
        "similarity": apart.itm_score,
        "match": matched.itm_score,
        "image_tokens": apart.last_hidden_state,
        "text_tokens": apart.question_embeds * mask,
        "grounded_tokens": matched.question_embeds * mask,
    }


def regions(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, boxes and mask of the regions of each text's image; padding is not zero."""
    rng = np.random.default_rng(0)
    rows = len(inputs.TEXTS)
    config = case["config"]
    dim = config.get("visual_feat_dim") or config["visual_embedding_dim"]
    features = rng.standard_normal((rows, REGIONS, dim))
    boxes = np.sort(rng.random((rows, REGIONS, 2, 2)), axis=2).reshape(rows, REGIONS, 4)
    mask = np.arange(REGIONS) < np.array([5, 3, 1, 4, 2])[:, None]
    return features.astype(np.float32), boxes.astype(np.float32), mask


def run_lxmert(
    case: dict[str, Any], model: Any, folder: Path, texts: dict[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    """Tokens of both streams (zero for padding), the pooled text, and the scores of answers."""
    features, boxes, mask = (torch.from_numpy(array) for array in regions(case))
    visual = {
        "visual_feats": features.to(dtype),
        "visual_pos": boxes.to(dtype),
        "visual_attention_mask": mask.to(dtype),
    }
    made = getattr(model, "lxmert", model)(**texts, **visual)
    found = {
        "question_tokens": made.language_output * texts["attention_mask"][..., None],
        "regions_tokens": made.vision_output * mask[..., None],
        "pooled": made.pooled_output,
        "features": features,
        "boxes": boxes,
        "mask": mask,
    }
    if case["answers"]:
        found["answer"] = model(**texts, **visual).question_answering_score
    return found


def run_vilt(
    case: dict[str, Any], model: Any, folder: Path, texts: dict[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    """Tokens of the text (zero for padding) and of the image's class, and scores, of pair i.

    The patches are left out: their order is random there.
    """
    processor = hf.AutoProcessor.from_pretrained(folder, backend="pil").image_processor
    batch = processor(pictures(), return_tensors="pt")
    seen = {"pixel_values": batch["pixel_values"].to(dtype), "pixel_mask": batch["pixel_mask"]}
    made = getattr(model, "vilt", model)(**texts, **seen)
    length = texts["input_ids"].shape[1]
    found = {
        "text_tokens": made.last_hidden_state[:, :length] * texts["attention_mask"][..., None],
        "image_class": made.last_hidden_state[:, length],
        "pooled": made.pooler_output,
    }
    if case["model"] != "ViltModel":
        found["logits"] = model(**texts, **seen).logits
    return found


def run_visual_bert(
    case: dict[str, Any], model: Any, folder: Path, texts: dict[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    """Tokens of both streams (zero for padding), the pooled vector, and the scores of answers."""
    features, boxes, mask = (torch.from_numpy(array) for array in regions(case))
    visual = {"visual_embeds": features.to(dtype), "visual_attention_mask": mask.long()}
    made = getattr(model, "visual_bert", model)(**texts, **visual)
    length = texts["input_ids"].shape[1]
    found = {
        "text_tokens": made.last_hidden_state[:, :length] * texts["attention_mask"][..., None],
        "regions_tokens": made.last_hidden_state[:, length:] * mask[..., None],
        "pooled": made.pooler_output,
        "features": features,
        "boxes": boxes,
        "mask": mask,
    }
    if case["answers"]:
        found["logits"] = model(**texts, **visual).logits
    return found


def main() -> None:
    for seed, (name, case) in enumerate(CASES.items()):
        with tempfile.TemporaryDirectory() as folder:
            make(case, Path(folder), seed)
            with zipfile.ZipFile(DATA / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(Path(folder).iterdir()):
                    archive.write(file, file.name)
        print(f"{name}: {(DATA / f'{name}.zip').stat().st_size:,} bytes", file=sys.stderr)


def check(exported: Path) -> None:
    """Loads what vljax exported (`NAME/` in a folder) and compares it with what is stored."""
    for folder in sorted(exported.iterdir()):
        made = run(CASES[folder.name], folder)
        with zipfile.ZipFile(DATA / f"{folder.name}.zip") as archive:
            stored = np.load(io.BytesIO(archive.read("outputs.npz")))
            off = {name: float(np.max(abs(made[name] - 1.0 * stored[name]))) for name in stored}
        assert max(off.values()) < 1e-5, (folder.name, off)
        print(folder.name, {name: f"{value:.1e}" for name, value in off.items()})


if __name__ == "__main__":
    check(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
