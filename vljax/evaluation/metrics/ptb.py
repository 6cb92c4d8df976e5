"""Penn Treebank tokenization of captions, as the official COCO caption scorer does it.

The official scorer runs Stanford CoreNLP 3.4.1 (`PTBTokenizer -preserveLines -lowerCase`, a Java
program) and drops a list of punctuation. This module was written from the documented rules of Penn
Treebank tokenization and from the outputs of that program on texts composed for the purpose: its
abbreviations, sentence openers and character classes were found by asking it. The tests compare
with stored outputs and, where Java and pycocoevalcap are installed, with the program itself.

As in the original, at each position the longest match of any rule wins, and the first rule of those
that match equally much. What a rule requires to follow counts as matched but is not consumed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import regex

PUNCTUATION = frozenset((*"'`.?!,:;-", "''", "``", "--", "...", "-LRB-", "-RRB-", "-LCB-", "-RCB-"))
"""Tokens that the official scorer drops. Brackets stay: by then they are lower case (`-lrb-`)."""


def ptb_tokenize(captions: Sequence[str], *, separate: bool = False) -> list[tuple[str, ...]]:
    r"""Lower-case Penn Treebank tokens of each caption, without punctuation.

    >>> ptb_tokenize(["A dog's ball (red), it doesn't bounce.", ""])
    [('a', 'dog', "'s", 'ball', '-lrb-', 'red', '-rrb-', 'it', 'does', "n't", 'bounce'), ()]

    Equal to `pycocoevalcap.tokenizer.ptbtokenizer.PTBTokenizer` 1.2 (Stanford CoreNLP 3.4.1).
    Its quirks:

    - Parentheses stay as `-lrb-` and `-rrb-`, and so do `-lcb-`, `-lsb-` and the like.
    - Emoji and other characters beyond the Basic Multilingual Plane separate words and disappear.
    - A telephone number, a mixed fraction (`1 1/2`) or an HTML tag is one token, with no-break
      spaces inside. BLEU and CIDEr-D split it there; ROUGE-L does not.
    - All captions are read as one text, so that the end of one can depend on the next: in
      "plan b." the period goes away before a caption that begins with "The", and stays with the
      letter otherwise. `separate=True` takes each caption alone.

    Line breaks within a caption count as spaces. (In the official scorer those other than `\n`
    shift all later captions by one.)

    Args:
      captions: raw texts.
      separate: whether a caption is tokenized without regard to the next one.
    """
    if _LINE_BREAKS.search("".join(captions)):
        captions = [_LINE_BREAKS.sub(" ", caption) for caption in captions]
    tokens = []
    last = len(captions) - 1
    tokens_of = _CHUNKS.__getitem__
    for index, caption in enumerate(captions):
        if separate or index < last:
            # Most captions are the same as their parts between spaces, one after another.
            try:
                parts = map(tokens_of, caption.split(" "))
                tokens.append(tuple(chain.from_iterable(parts)))  # type: ignore[arg-type]
                continue
            except TypeError:  # the tokens of a part are None: they depend on its neighbours
                pass
        following = ""  # the official text has no line break at its end
        if separate or index < last:
            following = "\n\n" if separate else f"\n{captions[index + 1]}\n"
        tokens.append(_kept(_lex(caption, following)))
    return tokens


def _classes() -> dict[str, str]:
    """Sets of characters for regular expressions: letters, marks, digits and symbols."""
    classes: dict[str, str] = {}
    name = ""
    for line in Path(__file__).with_name("ptb_characters.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            name, classes[line] = line, ""
            continue
        for span in line.split():
            first, _, last = span.partition("..")
            classes[name] += rf"\u{first}" + (rf"-\u{last}" if last else "")
    return classes


_CLASSES = _classes()
_LINE_BREAKS = regex.compile("[\r\n\v\f\u0085\u2028\u2029]")
_A = "A-Za-z" + _CLASSES["letters"]
_D = "0-9" + _CLASSES["digits"]
_AM = _A + _CLASSES["marks"]
_L = rf"(?:[{_AM}\u00AD]|&[aeiouAEIOU](?:acute|grave|uml);)"
_LD = rf"(?:{_L}|[{_D}])"
_APOSTROPHE = r"(?:['\u0092\u2019]|&apos;)"
_TYPESET_APOSTROPHE = r"(?:[\u0092\u2019]|&apos;)"
_APOSTROPHE_LIKE = r"(?:['\u0092\u2019`\u0091\u2018\u201B]|&apos;)"
_CLITIC = r"(?i:[msd]|re|ve|ll)"
_SPACE = r"[ \t\n\u00A0]"
_BLANK = regex.compile(r"[ \t\u00A0\u2000-\u200A\u3000]+")
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])*"
_NUMBER = rf"(?:[{_D}]+|[{_D}]*(?:[.:,\u00AD\u066B\u066C][{_D}]+)+)"
_URL_END = r'[^ \t\n\f\r"<>|.!?(){},\-]'
_PATH = rf'(?:/[^ \t\n\f\r"<>|()]+{_URL_END})?'
_HOST = r'[^ \t\n\f\r"<>|(){}.\u00A0]'
_MAIL = r'[^ \t\n\f\r"<>|(){}\u00A0]'
_TAG = r"[A-Za-z][A-Za-z0-9_:.\-]*"
_TAGS = (
    rf"(?:<[!?][A-Za-z\-][^>\r\n]*>|</{_TAG} *>"
    rf"|<{_TAG}(?: +{_TAG}(?:=(?:'[^']*'|\"[^\"]*\"))?)* */? *>)"
)

# Abbreviations that never end a sentence.
_TITLES = (
    "adj adm adv alex asst atty ave brig capt cf cie cmdr col cpl dept det dr drs elec ens ft gen "
    "gov govs hon insp invt jos lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres "
    "prof pvt rep reps rev sen sens sfc sgt spc st ste supt vs wm"
)
# Abbreviations that may end a sentence. Whatever follows, the period belongs to them.
_ENDINGS = (
    "al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est "
    "etc ext feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon "
    "mont neb nev nov oct okla penn plc rd rt sep sept seq sq sr sys tel tenn thu tue tues "
    "univ va vt wed wis wisc wyo"
)
# These too, if they begin with a capital.
_CAPITAL_ENDINGS = "ark az del ill la mass miss ore pa tex wash"
# A sentence begins with one of these: the period of initials before it is a token of its own.
_OPENERS = (
    "a about according additionally after an as at but earlier he her here however if in it last "
    "many more now once one other our she since so some such that the their then there these they "
    "this we what when while yet you mr\\. ms\\."
)


# Words with a period before one of these are names of files.
_EXTENSIONS = (
    "bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php "
    "pl png ppt ps py sql tar txt wav x xml zip"
)


def _any(words: str) -> str:
    return "(?i:" + "|".join(words.split()) + ")"


def _capital(words: str) -> str:
    return "(?:" + "|".join(f"{w[0].upper()}(?i:{w[1:]})" for w in words.split()) + ")"


class _Rule(NamedTuple):
    kind: str
    token: str
    follows: str = ""
    """What has to follow the token."""


_RULES = (
    # Words that are two: cannot, gonna, wanna, gotta, lemme, gimme, 'tis, 'twas.
    _Rule("half", "(?i:can)", "(?i:not)"),
    _Rule("half", "(?i:gon|wan)", "(?i:na)"),
    _Rule("half", "(?i:got)", "(?i:ta)"),
    _Rule("half", "(?i:lem|gim)", "(?i:me)"),
    _Rule("clitic", rf"{_APOSTROPHE}[tT]", "(?i:is|was)"),
    _Rule("tag", _TAGS),
    _Rule("dash", r"&(?:MD|mdash|ndash);|[\u0096\u0097\u2013-\u2015]"),
    _Rule("plain", r"&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);"),
    _Rule("nothing", r"&nbsp;|[\u00A0\u2000-\u200A\u3000][ \t\u00A0\u2000-\u200A\u3000]*"),
    _Rule("clitic", _APOSTROPHE + _CLITIC, "[^A-Za-z]"),
    _Rule("clitic", _APOSTROPHE + "[msdMSD]", r"\Z"),
    _Rule("clitic", _TYPESET_APOSTROPHE + _CLITIC),
    _Rule("clitic", rf"[nN]{_APOSTROPHE_LIKE}[tT]"),
    _Rule(
        "plain",
        r"\u00AD*(?=[A-Za-z])[A-Za-z\u00AD]*[A-MO-Za-mo-z\u00AD]",
        rf"[nN]{_APOSTROPHE_LIKE}[tT]",
    ),
    _Rule("plain", rf"{_L}{_LD}*(?:[.!?]{_L}{_LD}*)*", _APOSTROPHE + _CLITIC),
    # Abbreviations.
    _Rule("plain", rf"{_any(_TITLES)}\."),
    _Rule("plain", r"(?i:nos?|arts?|figs?|pp|ca|op|prop)\.", rf"{_SPACE}?[{_D}]"),
    _Rule("plain", "[A-Za-z]", rf"\.{_SPACE}+(?:{_capital(_OPENERS)}{_SPACE}|{_TAGS}{_SPACE})"),
    _Rule("plain", rf"{_INITIALS}\."),
    _Rule("plain", rf"{_L}{_LD}*(?:[.!?]{_L}{_LD}*)*\.", "[,;:]"),
    _Rule("plain", rf"[{_A}{_D}\u00AD]+(?:[_\-][{_A}{_D}\u00AD]+)*\.", "[,;:]"),
    _Rule("plain", r"[A-Z]+(?:&[A-Z]+)+\.", "[,;:]"),
    # Words.
    _Rule("plain", rf"{_L}{_LD}*(?:[.!?]{_L}{_LD}*)*"),
    _Rule("address", rf"(?:<|&lt;)?[a-zA-Z0-9]{_MAIL}*@(?:{_HOST}+\.)*{_HOST}+(?:>|&gt;)?"),
    _Rule("plain", rf"(?:{_any(_ENDINGS)}|(?i:ph\.d)|{_capital(_CAPITAL_ENDINGS)})\.", r"(?s:..)?"),
    _Rule("plain", r"(?:[Pp]p?t[ey]|[Pp]t[ey][sS]|[Mm][ft][gG])\.", r"(?s:..)?"),
    _Rule("plain", rf"[{_A}{_D}]+"),
    _Rule(
        "apostrophe",
        rf"(?i:{_APOSTROPHE}n{_APOSTROPHE}|ol{_APOSTROPHE}|{_APOSTROPHE}em|c{_APOSTROPHE}mon|"
        rf"{_APOSTROPHE}cause|cap{_APOSTROPHE}n|[eo]{_APOSTROPHE}er|ne{_APOSTROPHE}er|"
        rf"{_APOSTROPHE}til|dunkin{_APOSTROPHE}|somethin{_APOSTROPHE})",
    ),
    _Rule("apostrophe", rf"[lLdDjJ]{_APOSTROPHE}|{_APOSTROPHE}[0-9]0[sS]"),
    _Rule("apostrophe", rf"[yY]{_APOSTROPHE}", f"[{_A}]"),
    _Rule("apostrophe", rf"[A-HJ-XZn]{_APOSTROPHE_LIKE}[{_A}]{{2,}}"),
    _Rule(
        "apostrophe",
        rf"(?:[{_A}{_D}]+[_\-])*[dDoOlL]{_APOSTROPHE_LIKE}[{_A}{_D}]{{2,}}(?:[_\-][{_A}{_D}]+)*",
    ),
    _Rule("apostrophe", rf"[{_AM}]+[aeiouyAEIOUY]{_APOSTROPHE_LIKE}[aeiouA-Z][{_AM}]*"),
    _Rule("apostrophe", rf"{_APOSTROPHE}[nN]|{_APOSTROPHE}[{_D}]{{2}}", _SPACE),
    _Rule("apostrophe", rf"{_TYPESET_APOSTROPHE}[nN]"),
    _Rule("apostrophe", rf"{_APOSTROPHE}[nN]", r"\Z"),
    _Rule(
        "plain",
        r"[A-Za-z0-9][A-Za-z0-9.,\u00AD]*(?:-(?:[A-Za-z0-9\u00AD]+|[A-Za-z](?:\.[A-Za-z])+\.))+",
    ),
    _Rule("plain", rf"[{_A}{_D}]+(?:[_\-][{_A}{_D}]+)+"),
    _Rule(
        "address",
        rf"[{_A}{_D}\u00AD]+(?:\.[{_A}{_D}\u00AD]+)*\.{_any(_EXTENSIONS)}",
        r"[ \t\n\u00A0.,!?]",
    ),
    _Rule("plain", r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"),
    _Rule("ampersand", "[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"),
    _Rule("plain", r"[cC]\+\+|[cCfF]#"),
    # Addresses.
    _Rule("address", rf'(?i:https?)://[^ \t\n\f\r"<>|(){{}}]+{_URL_END}'),
    _Rule("address", rf'www\.(?:[^ \t\n\f\r"<>|.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}{_PATH}'),
    _Rule("address", rf'(?:[^ \t\n\f\r"`\'<>|.!?(){{}},-_$]+\.)+(?:com|net|org|edu){_PATH}'),
    _Rule("address", rf"@[A-Za-z_][A-Za-z_0-9]*|#{_L}+"),
    # Numbers.
    _Rule("number", rf"(?:[{_D}]{{1,4}}[- \u00A0])?[{_D}]{{1,4}}(?:\\?/|\u2044)[{_D}]{{1,4}}"),
    _Rule("number", rf"[{_D}]{{1,2}}[\-/][{_D}]{{1,2}}[\-/][{_D}]{{2,4}}"),
    _Rule("number", rf"[\-+]?{_NUMBER}"),
    _Rule(
        "bracketed",
        r"(?:\([0-9]{2,3}\)[ \u00A0]?|(?:\+\+?)?(?:[0-9]{2,4}[\- \u00A0])?[0-9]{2,4}[\- \u00A0])"
        r"[0-9]{3,4}[\- \u00A0]?[0-9]{3,5}"
        r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
    ),
    _Rule("symbol", r"[\u00BC-\u00BE\u2153\u2154\u00A2-\u00A4\u0080\u20A0\u20AC]"),
    _Rule("plain", r"[A-Z]*\$|#+|@+"),
    # Emoticons.
    _Rule("bracketed", r"[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]]", "[^A-Za-z0-9]"),
    _Rule(
        "bracketed",
        r"[\-^x=~<>']_[\-^x=~<>']|\([\-^x=~<>'][_.]?[\-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)",
    ),
    # Punctuation.
    _Rule("ellipsis", r"\.(?:[ \u00A0]\.){2,}|\.{3,5}|\u2026"),
    _Rule("dash", "-{2,4}"),
    _Rule("plain", "-{5,}"),
    _Rule("double", '"|&quot;'),
    _Rule("symbol", r"[`\u0091-\u0094\u2018\u2019\u201B-\u201D\u2039\u203A\u00AB\u00BB]{2}|''"),
    _Rule("symbol", r"[`\u0091-\u0094\u2018\u2019\u201B-\u201D\u2039\u203A\u00AB\u00BB]"),
    _Rule("apostrophe", _APOSTROPHE),
    _Rule("plain", r"[?!]+|\*+|_+|\\\*|<<|>>"),
    _Rule("symbol", "&(?:lt|gt|amp);"),
    _Rule("symbol", r"[(){}\[\]]"),
    _Rule("hyphen", r"\u00AD"),
    _Rule("plain", rf"[{_CLASSES['symbols']}~!@#$%^&*\-_=+\\|;:,.<>/?]"),
)

_NORMAL = {
    **dict.fromkeys("\u0091\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\u0092\u2019\u203a", "'"),
    **dict.fromkeys("\u0093\u201c\u00ab", "``"),
    **dict.fromkeys("\u0094\u201d\u00bb", "''"),
    **dict.fromkeys("\u0080\u00a4\u20a0\u20ac", "$"),
    "\u00a3": "#",
    "\u00a2": "cents",
    "\u00bc": "1/4",
    "\u00bd": "1/2",
    "\u00be": "3/4",
    "\u2153": "1/3",
    "\u2154": "2/3",
    "&lt;": "<",
    "&gt;": ">",
    "&amp;": "&",
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}
_COMPILED = [
    (kind, regex.compile(f"(?P<token>{token})(?:{follows})", regex.POSIX | regex.V1))
    for kind, token, follows in _RULES
]
# If none of these occurs in its parts, a caption is the same as its parts between spaces, one after
# another: most captions are. Digits begin telephone numbers and fractions; "no. 5" differs from
# "no. x"; tags have spaces; an initial may stand before a word that opens a sentence.
_DEPENDENT = regex.compile(
    rf"[{_D}<\t\u00A0]|(?<![A-Za-z])[A-Za-z]\.$|(?i:nos?|arts?|figs?|pp|ca|op|prop)\.$"
)
# No rule goes beyond a word of letters before a space.
_WORD = re.compile("[A-Za-z]+(?= )")
_TWO_WORDS = frozenset(("cannot", "gonna", "gotta", "wanna", "lemme", "gimme"))


@lru_cache(maxsize=1 << 14)
def _candidates(first: str) -> list[tuple[str, regex.Pattern[str]]]:
    """The rules that can match a text that begins with a character."""
    return [rule for rule in _COMPILED if rule[1].match(first, partial=True) is not None]


def _lex(text: str, following: str = "\n\n") -> list[str]:
    """Tokens with punctuation; `following` is what stands after the text."""
    end, whole = len(text), text + following
    tokens, position = [], 0
    while position < end:
        if text[position] in " \t":
            position = _BLANK.match(text, position).end()
            continue
        if (plain := _WORD.match(text, position)) is not None:  # for speed
            word = plain[0].lower()
            if word not in _TWO_WORDS:
                tokens.append(word)
                position = plain.end()
                continue
        longest, best, best_kind = 0, None, ""
        for kind, pattern in _candidates(text[position]):
            found = pattern.match(whole, position)
            if found is not None and found.end() - position > longest:
                longest, best, best_kind = found.end() - position, found, kind
        if best is None:  # characters that are unknown to the tokenizer separate and disappear
            position += 1
            continue
        stop = best.end("token")
        tokens.append(_normal(best_kind, text[position:stop], whole[stop : stop + 1]))
        position = stop
    return tokens


def _normal(kind: str, token: str, after: str) -> str:
    """The token as it is written out."""
    if kind == "dash":
        return "--"
    if kind == "ellipsis":
        return "..."
    if kind == "nothing":
        return ""
    if kind == "hyphen":
        return "-"
    if kind == "double":
        return "``" if after.isascii() and (after.isalnum() or after == "$") else "''"
    if kind == "symbol":
        return _NORMAL.get(token) or "".join(_NORMAL.get(c, c) for c in token)
    if kind in ("clitic", "apostrophe"):
        token = token.replace("&apos;", "'")
    if kind == "clitic":
        token = "".join(_NORMAL.get(c, c) for c in token)
    if kind == "ampersand":
        token = token.replace("&amp;", "&")
    if kind == "bracketed":
        token = token.replace("(", "-lrb-").replace(")", "-rrb-")
    if kind in ("bracketed", "number", "tag"):
        token = token.replace(" ", "\u00a0")
    return token.lower() if kind == "address" else token.replace("\u00ad", "").lower()


def _kept(tokens: Sequence[str]) -> tuple[str, ...]:
    return tuple(token for token in tokens if token and token not in PUNCTUATION)


_ABBREVIATIONS = frozenset(
    f"{_TITLES} {_ENDINGS} {_CAPITAL_ENDINGS} mfg mtg pte pty ppte ppty ptes ptys".split()
)
_MARKED_WORD = re.compile("([A-Za-z]{2,})([.,]?)")


class _Chunks(dict[str, "tuple[str, ...] | None"]):
    """Tokens of texts without spaces; None for those that depend on what stands around them."""

    def __missing__(self, chunk: str) -> tuple[str, ...] | None:
        if len(self) >= 1 << 17:
            self.clear()
        self[chunk] = tokens = None if _DEPENDENT.search(chunk) else self._tokens(chunk)
        return tokens

    def _tokens(self, chunk: str) -> tuple[str, ...]:
        if (plain := _MARKED_WORD.fullmatch(chunk)) is not None:  # for speed
            word, mark = plain[1].lower(), plain[2]
            if word not in _TWO_WORDS and not (mark == "." and word in _ABBREVIATIONS):
                return (word,)
        return _kept(_lex(chunk))


_CHUNKS = _Chunks()
