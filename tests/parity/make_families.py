"""Makes the folders of siglip2 and of single towers in `data/interop`, and what they compute.

Run by hand, never by the tests, in the environment of `make_interop.py`:

    python -m tests.parity.make_families            # makes the folders
    python -m tests.parity.make_families FOLDER     # compares folders that vljax exported

Each is written by transformers itself, as described in `make_interop.py`. Nothing may be missing or
left over when one is loaded.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from tests.parity import interop_inputs as inputs
from tests.parity.family_cases import IMAGE, SIGLIP2, TEXT
from tests.parity.make_interop import DATA, pictures, randomise

TEXT_KINDS = ("bert", "roberta")
_MODELS = {
    "vit": (hf.ViTConfig, hf.ViTModel),
    "dinov2": (hf.Dinov2Config, hf.Dinov2Model),
    "dinov2_with_registers": (hf.Dinov2WithRegistersConfig, hf.Dinov2WithRegistersModel),
    "bert": (hf.BertConfig, hf.BertModel),
    "roberta": (hf.RobertaConfig, hf.RobertaModel),
}


def gemma_tokenizer(context: int, masks: bool) -> Any:
    """Byte-pair encoding of Gemma's kind: spaces are letters, unknown ones are bytes."""
    from tokenizers import Tokenizer, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    lower, mark = normalizers.Lowercase(), normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([lower, mark])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special + bytes_, show_progress=False
    )
    tokenizer.train_from_iterator(inputs.TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    names = ["input_ids", "attention_mask"] if masks else ["input_ids"]
    return hf.Siglip2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        model_max_length=context,
        padding_side="right",
        add_eos_token=True,
        add_bos_token=False,
        model_input_names=names,
    )


def siglip2(case: dict[str, Any]) -> tuple[Any, Any]:
    """A model and its processor."""
    tokenizer = gemma_tokenizer(case["text"]["max_position_embeddings"], case["masks"])
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "vocab_size": len(tokenizer)}
    text = {**case["text"], **ids, "projection_size": case["vision"]["hidden_size"]}
    images = hf.Siglip2ImageProcessorPil(
        patch_size=case["vision"]["patch_size"], max_num_patches=case["budget"]
    )
    model = hf.Siglip2Model(hf.Siglip2Config(text_config=text, vision_config=case["vision"]))
    return model, hf.Siglip2Processor(images, tokenizer)


def image_tower(case: dict[str, Any]) -> tuple[Any, Any]:
    """A model and its image processor."""
    config_class, model_class = _MODELS[case["kind"]]
    model = model_class(config_class(**case["config"]))
    if case["kind"] == "vit":
        size = case["config"]["image_size"]
        return model, hf.ViTImageProcessorPil(size={"height": size, "width": size})
    resized, size = case["sizes"]
    crop = {"height": size, "width": size}
    return model, hf.BitImageProcessorPil(size={"shortest_edge": resized}, crop_size=crop)


def text_tower(case: dict[str, Any]) -> tuple[Any, Any]:
    """A model and its tokenizer."""
    config_class, model_class = _MODELS[case["kind"]]
    tokenizer = bert_tokenizer() if case["kind"] == "bert" else roberta_tokenizer()
    offset = 0 if case["kind"] == "bert" else 2
    tokenizer.model_max_length = case["config"]["max_position_embeddings"] - offset
    config = config_class(**case["config"], vocab_size=len(tokenizer))
    return model_class(config), tokenizer


def bert_tokenizer() -> Any:
    """Word pieces, lower-cased."""
    words = sorted({word for text in inputs.TEXTS for word in text.lower().split()})
    letters = sorted({letter for word in words for letter in word})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    names += [f"##{letter}" for letter in letters] + [w for w in words if w.isalpha()]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return hf.BertTokenizer(vocab=vocabulary, do_lower_case=True)


def roberta_tokenizer() -> Any:
    """Byte-level pairs; padding has the id 1."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(inputs.TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return hf.RobertaTokenizer(vocab=model["vocab"], merges=merges)


CASES = {**SIGLIP2, **IMAGE, **TEXT}


@torch.no_grad()
def make(case: dict[str, Any], folder: Path, seed: int) -> None:
    """Writes a folder by `save_pretrained`, and its outputs."""
    kind = case["kind"]
    write = siglip2 if kind == "siglip2" else text_tower if kind in TEXT_KINDS else image_tower
    model, processor = write(case)
    randomise(model, seed)
    for parameter, weight in model.named_parameters():
        if "lambda1" in parameter:  # layer scale multiplies a branch
            weight.data = (0.6 + 0.4 * weight).bfloat16().float()
    processor.save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)
    np.savez_compressed(folder / "outputs.npz", **run(case, folder))


@torch.no_grad()
def run(
    case: dict[str, Any], folder: Path, dtype: torch.dtype = torch.float32
) -> dict[str, np.ndarray]:
    """What a folder computes in transformers."""
    model, report = hf.AutoModel.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(report.values()), report
    model = model.eval()
    if case["kind"] == "siglip2":
        return run_siglip2(case, model, folder)
    if case["kind"] in TEXT_KINDS:
        tokenizer = hf.AutoTokenizer.from_pretrained(folder)
        batch = tokenizer(inputs.TEXTS, padding="max_length", truncation=True, return_tensors="pt")
        made = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        tokens = made.last_hidden_state * batch["attention_mask"][..., None]
        ids = batch["input_ids"].numpy()
        return {"text": made.pooler_output.numpy(), "tokens": tokens.numpy(), "ids": ids}
    processor = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    made = model(**processor(pictures(), return_tensors="pt").to(dtype))
    return {"image": made.pooler_output.numpy(), "tokens": made.last_hidden_state.numpy()}


def run_siglip2(case: dict[str, Any], model: Any, folder: Path) -> dict[str, np.ndarray]:
    """Siglip2Processor ignores the sizes that it saved, so they are passed."""
    processor = hf.AutoProcessor.from_pretrained(folder, backend="pil")
    batch = processor(
        text=inputs.TEXTS,
        images=pictures(),
        patch_size=case["vision"]["patch_size"],
        max_num_patches=case["budget"],
        padding="max_length",
        max_length=case["text"]["max_position_embeddings"],
        truncation=True,
        return_tensors="pt",
    )
    assert ("attention_mask" in batch) == case["masks"]
    made = model(**batch.to(model.dtype))  # integers keep their type
    return {
        "image": made.image_embeds.numpy(),
        "text": made.text_embeds.numpy(),
        "logits": made.logits_per_image.numpy(),
        "ids": batch["input_ids"].numpy(),
    }


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
            off = {name: float(np.max(abs(made[name] - stored[name]))) for name in stored}
        assert max(off.values()) < 1e-5, (folder.name, off)
        print(folder.name, {name: f"{value:.1e}" for name, value in off.items()})


if __name__ == "__main__":
    check(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
