"""The stamps of Tux Paint as a source, as `vljax data build tuxpaint-stamps` writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vljax.config import UserError, setting, suggest
from vljax.data.records import Source
from vljax.datasets.items import Item, ItemRecords, read_items


@dataclass(frozen=True)
class Tuxpaint(Source, name="tuxpaint"):
    """948 pictures with transparency and captions in up to 78 languages.

    Pictures without a caption in any of the selected languages are left out.

    >>> Tuxpaint("data/tuxpaint-stamps", languages=("de", "en")).full_name
    'tuxpaint:de+en:train'
    """

    path: str | None = setting(None, path=True)
    """The folder that `vljax data build tuxpaint-stamps` wrote."""
    split: Literal["train", "validation", "test"] = "train"
    """Which split to read; no caption in any language occurs in more than one."""
    languages: tuple[str, ...] = ("en",)
    """Locale codes ("en", "de", "pt_BR", ...), in the order of the captions of an image."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.languages:
            yield "languages", "name at least one"

    @property
    def full_name(self) -> str:
        return f"tuxpaint:{'+'.join(self.languages)}:{self.split}"

    @property
    def dataset(self) -> str:
        """With the languages, since results in one language are not comparable with another."""
        return f"{self.type_name}-{'+'.join(self.languages)}"

    @property
    def split_name(self) -> str:
        return self.split

    def open(self) -> TuxpaintRecords:
        if self.path is None:
            raise UserError(
                "data.source.path: unset; run `vljax data build tuxpaint-stamps`, "
                "then --data.source.path data/tuxpaint-stamps"
            )
        return TuxpaintRecords(Path(os.path.expanduser(self.path)), self.split, self.languages)


class TuxpaintRecords(ItemRecords):
    """One split of the stamps, with captions in the selected languages."""

    def __init__(self, directory: Path, split: str, languages: tuple[str, ...]):
        try:
            content = (directory / "items.jsonl").read_bytes()
            items = read_items(content)
            known = {locale for item in items for locale in item["captions"]}
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{directory}: no stamps; run `vljax data build tuxpaint-stamps --out {directory}`"
            ) from error
        for language in languages:
            if language not in known:
                raise UserError(
                    f"data.source.languages: unknown language {language!r}"
                    f"{suggest(language, known)}"
                )
        chosen = [
            item
            for item in items
            if item["split"] == split and any(code in item["captions"] for code in languages)
        ]

        def annotate(item: Item) -> tuple[tuple[str, ...], tuple[str, ...]]:
            captions = (item["captions"][code] for code in languages if code in item["captions"])
            return tuple(captions), tuple(dict.fromkeys((*item["tags"], item["class"])))

        super().__init__(directory, items, chosen, annotate, content)
