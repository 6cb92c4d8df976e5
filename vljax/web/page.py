"""A whole HTML page, and images inside it."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import UInt8

from vljax.web.markup import Markup, element

# Defence in depth: even if a text became markup, the browser would run and load nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #5b6470;
  --line: #d9dee4; --card: #f6f7f9; --mark: #0072b2; --warn: #a33b00 }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --text: #e6e9ed; --soft: #9aa4b0;
  --line: #333a42; --card: #1d2126; --mark: #56b4e9; --warn: #ffab7a } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem clamp(.8rem, 3vw, 2rem) 4rem; max-width: 84rem;
  background: var(--back); color: var(--text); font: 15px/1.45 system-ui, sans-serif;
  overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0 }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem }
h4 { font-size: .9rem; margin: .8rem 0 .3rem }
p { margin: .3rem 0 .8rem; max-width: 48rem }
a { color: var(--mark) }
.soft { color: var(--soft); font-size: .87em }
.warn { color: var(--warn) }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem }
.cards { display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)) }
.card { background: var(--card); border-radius: .5rem; padding: .7rem .8rem; min-width: 0 }
.card h4 { margin-top: 0 }
.card svg { display: block; width: 100%; height: auto }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
.card table { width: 100% }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line) }
th { font-weight: 600; color: var(--soft); font-size: .85rem }
th.number, td.number { text-align: right; white-space: nowrap }
.pictures { display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(46%, 9.5rem), 1fr)) }
.row { display: flex; gap: .75rem; overflow-x: auto; padding: .6rem 0;
  border-bottom: 1px solid var(--line) }
.row figure { flex: 0 0 8.5rem }
figure { margin: 0; min-width: 0 }
figure img, .missing { display: block; max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: .25rem }
.missing { padding: 1.5rem .5rem; background: none; color: var(--soft); text-align: center;
  font-size: .8rem }
figcaption { font-size: .8rem; margin-top: .3rem }
figcaption div { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 6;
  overflow: hidden }
"""


def page(title: str, *body: str) -> str:
    """A whole HTML file, in the light or dark style of the reader's system.

    Args:
      title: the title of the window.
      *body: texts and markup. These classes have a style: `cards` with `card`, `pictures` and `row`
        with `figure`, `scroll` around wide content, `number`, `soft`, `warn` and `missing`.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Markup(_STYLE)),
    )
    return f"<!doctype html>\n{element('html', head, element('body', *body), lang='en')}\n"


def picture(pixels: UInt8[np.ndarray, "height width 3"], text: str, quality: int = 80) -> Markup:
    """An image element whose WebP file is inside the page.

    Args:
      pixels: the image, at the size to show.
      text: what the image shows, for screen readers.
      quality: of the WebP file, 0 to 100.
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=quality)
    height, width = pixels.shape[:2]
    source = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    return element("img", src=source, width=width, height=height, alt=text)
