# SPDX-License-Identifier: Apache-2.0
"""Remnants of HTML and RTF in reports, and control characters: blanked, so that every offset stays as it was."""

from __future__ import annotations

import html
import re

HTML = "HTML"
RTF = "RTF"
CONTROL = "control characters"

_TAG_NAMES = (
    "a|abbr|b|blockquote|body|br|center|code|col|dd|div|dl|dt|em|font|h[1-6]|head|hr|html|i|img|li|link|meta|o:p|ol|p|pre|"
    "s|script|small|span|strong|style|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul"
)
_TAG = re.compile(rf"</?({_TAG_NAMES})(?=[\s/>])[^<>]*>|<!--|<!doctype[^<>]*>|<\?xml[^<>]*>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:[a-zA-Z][a-zA-Z0-9]{1,30}|#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6});")
_BREAKING = frozenset(
    ["br", "p", "div", "tr", "li", "table", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "dt", "dd", "ul", "ol", "title"]
)

_RTF_WORD = re.compile(r"\\(?:par|pard|plain|fs\d+|rtf\d|ansi|deff\d|tab|cf\d+|lang\d+)(?![a-zA-Z])")
_RTF_TOKEN = re.compile(r"\\'[0-9a-fA-F]{2}|\\([a-zA-Z]{1,32})(-?[0-9]{1,10})? ?|\\[\s\S]|[{}]|[^\\{}]+|\\", re.DOTALL)
_RTF_HIDDEN = frozenset(
    ["fonttbl", "colortbl", "stylesheet", "info", "pict", "header", "footer", "generator", "listtable", "object"]
)
_RTF_BREAKS = frozenset(["par", "line", "sect", "page", "row"])

_CONTROLS = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r\x85"}
_CONTROL = re.compile("[" + "".join(map(re.escape, map(chr, _CONTROLS))) + "]")


def clean(text: str) -> str:
    """The text with markup and control characters blanked, as long as before; see `clean_and_flag`."""
    return clean_and_flag(text)[0]


def clean_and_flag(text: str) -> tuple[str, tuple[str, ...]]:
    """Blank what is not the report's prose, and say what was there: "HTML", "RTF", "control characters".

    Tags, RTF control words and control characters become spaces (a line break where they mean one), entities and RTF's
    escapes the character that they stand for, followed by spaces. Text that has no such remnants comes back as it is.
    The time is linear in the length of the text.
    """
    flags = []
    if text.lstrip()[:5] == "{\\rtf" or len(_RTF_WORD.findall(text)) > 1:
        text = _blank_rtf(text)
        flags.append(RTF)
    if _TAG.search(text) or _ENTITY.search(text):
        blank = _blank_html(text)
        if blank != text:
            text = blank
            flags.append(HTML)
    if _CONTROL.search(text):
        text = text.translate(_CONTROLS)
        flags.append(CONTROL)
    return text, tuple(flags)


def _blank(length: int, start: str = "") -> str:
    return start.ljust(length)


def _blank_html(text: str) -> str:
    pieces, position = [], 0
    unclosed: set[str] = set()
    while match := _TAG.search(text, position):
        pieces.append(text[position : match.start()])
        end = _end_of_hidden(text, match, unclosed)
        name = (match[1] or "").lower()
        pieces.append(_blank(end - match.start(), "\n" if name in _BREAKING else ""))
        position = end
    pieces.append(text[position:])
    return _ENTITY.sub(_character, "".join(pieces))


def _end_of_hidden(text: str, match: re.Match[str], unclosed: set[str]) -> int:
    """End of the tag; behind its contents, where these are no prose."""
    tag = match[0].lower()
    closing = "-->" if tag == "<!--" else "</" if tag.startswith(("<script", "<style")) else ""
    if not closing or closing in unclosed:
        return match.end()
    end = text.find(closing, match.end())
    if end < 0:
        unclosed.add(closing)  # nor is there one further on, and looking again takes quadratic time
        return match.end()
    return end + 3 if closing == "-->" else end


def _character(match: re.Match[str]) -> str:
    meant = html.unescape(match[0]).replace("\xa0", " ")
    return _blank(len(match[0]), meant) if len(meant) <= 2 and meant != match[0] else match[0]


def _blank_rtf(text: str) -> str:
    blanked = _rtf_prose(text, hide=True)
    # a group that never ends would hide the report behind it
    return _rtf_prose(text, hide=False) or text if blanked is None else blanked


def _rtf_prose(text: str, hide: bool) -> str | None:
    """The text with all RTF blanked and tables of fonts and the like hidden; None where such a group never ends."""
    pieces: list[str] = []
    depth = 0
    hidden_at: int | None = None  # depth of the group that is hidden
    skip = 0  # characters that stand in for a \u escape
    for token in _RTF_TOKEN.finditer(text):
        piece, word = token[0], token[1]
        if piece == "{":
            depth += 1
        elif piece == "}":
            if hidden_at is not None and depth <= hidden_at:
                hidden_at = None
            depth -= 1
        elif hide and hidden_at is None and depth > 1 and (word in _RTF_HIDDEN or piece == "\\*"):
            hidden_at = depth
        shown = _rtf_piece(piece, word, token[2]) if hidden_at is None else _blank(len(piece))
        if skip and shown and piece[0] not in "\\{}":
            shown = _blank(skip) + shown[skip:]
        skip = 1 if word == "u" and token[2] else 0
        pieces.append(shown)
    return None if hidden_at is not None else "".join(pieces)


def _rtf_piece(piece: str, word: str | None, number: str | None) -> str:
    length = len(piece)
    if piece[0] not in "\\{}":
        return piece
    if piece.startswith("\\'"):
        return _blank(length, bytes.fromhex(piece[2:]).decode("cp1252", "replace"))
    if word == "u" and number:
        code = int(number) % 65536
        return _blank(length, " " if 0xD800 <= code < 0xE000 else chr(code))
    if word in _RTF_BREAKS:
        return _blank(length, "\n")
    if word is None and piece[1:] in ("{", "}", "\\", "\n", "\r"):
        return _blank(length, piece[1:])
    return _blank(length, "-" if piece in ("\\_", "\\-") else "")
