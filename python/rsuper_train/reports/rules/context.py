# SPDX-License-Identifier: Apache-2.0
"""What does not count in a sentence: negated, past, asked-for lesions; landmarks, origins; earlier sizes, bounds."""

from __future__ import annotations

from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.scan import Item, Words

ANATOMY = c.ORGAN | c.PART | c.ELSEWHERE | c.SIDE
MONTHS = frozenset((
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
))  # fmt: skip
# Behind a comma these begin something new, which an earlier "no" or "history of" does not reach.
FRESH = c.MANY | c.ONE | c.NUMBER | c.DEFINITE | c.SIZE
CLOSED = c.END | c.SEMICOLON | c.VERB
# What changes the scope, or is looked at in it; anything else only passes.
TURNS = (
    FRESH | CLOSED | c.NEUTRAL | c.NEGATION | c.NEGATION_AFTER | c.HISTORY | c.HYPOTHETICAL | c.CHANGE | c.COMMA
    | c.OPEN | c.CLOSE | c.AND | c.WITH | c.PLACE | c.LANDMARK | c.ORIGIN | c.LESION | c.FINDING | c.FEATURE
)  # fmt: skip
# A clause that begins with one of these belongs to what stands before it.
RELATIVE = frozenset(("when", "where", "which", "whose"))
# These speak of the size before them as of the present one.
NEVER_BEHIND = frozenset((
    "was", "were", "from", "to", "compared", "versus", "vs", "relative", "in", "comparison", "as",
))  # fmt: skip
ELSEWHEN = frozenset(("in", "on", "at", "by", "with"))
TRANSPARENT = c.AXIS | c.MEASURE | c.ONE | c.DEFINITE | c.PARTIAL | c.OPEN | c.PLACE
STOPS = c.END | c.SEMICOLON
NOT_NOW = c.HISTORY | c.HYPOTHETICAL
PAUSES = c.COMMA | c.OPEN | c.CLOSE
LISTS = c.COMMA | c.AND
DOUBTS = c.HIGH | c.LOW
LISTING = c.COMMA | c.SEMICOLON
NO_TUMOUR = c.FINDING | c.FEATURE
BOUNDS = c.SMALLER | c.BOUND


def mark(items: list[Item], tokens: Words) -> None:
    """Set `off` of every item that does not count."""
    negated = past = asked = landmark = origin = False
    comma = False  # since the negation, the history or the question began
    definite = False  # "in the", "of the" since the negation
    denied = False  # something is negated already
    passed = False  # the landmark itself is behind us
    clause = 0
    for position, item in enumerate(items):
        kinds = item.kinds
        if not kinds & TURNS:
            if kinds & ANATOMY and (landmark or origin):
                item.off = "landmark"
                passed = True
            elif kinds & c.ATTENUATION and negated:
                item.off = "negated"
            continue
        if kinds & c.NEUTRAL:
            continue
        if kinds & c.NEGATION:
            if tokens.words[item.start] == "none" and _is_some_of(items, position):
                continue
            negated, comma, definite, denied, landmark = True, False, False, False, False
            continue
        if kinds & CLOSED:
            negated = negated and not denied and bool(kinds & c.VERB)
            past = asked = landmark = origin = False
            if kinds & STOPS:
                clause = position
            continue
        if kinds & c.NEGATION_AFTER:
            _take_back(items, clause, position, tokens)
            if not kinds & c.HISTORY:
                continue
        if kinds & NOT_NOW:
            past, asked, comma = past or bool(kinds & c.HISTORY), asked or bool(kinds & c.HYPOTHETICAL), False
            continue
        if kinds & c.CHANGE and not denied:
            negated = False
        if kinds & PAUSES or (kinds & c.AND and (negated or past)):
            comma = comma or (bool(kinds & LISTS) and RELATIVE.isdisjoint(tokens.words[item.end : item.end + 2]))
            landmark = landmark and bool(kinds & c.AND)
            origin = False
            continue
        if comma and kinds & FRESH and not kinds & DOUBTS and not _lists_on(items, position):
            negated = past = asked = False
        if kinds & c.WITH:
            past = False
        if kinds & c.PLACE:
            definite = position + 1 < len(items) and bool(items[position + 1].kinds & c.DEFINITE)
            if tokens.words[item.start] != "of":
                landmark = origin = False
        elif kinds & c.LANDMARK:
            landmark, passed = not _is_no_landmark(items, position, tokens.words[item.start]), False
        if kinds & c.ORIGIN:
            origin = _is_origin(items, position)
        if landmark and kinds & c.DEFINITE and passed:
            landmark = _is_joined(items, position)
        if kinds & c.LESION:
            if origin:
                item.off = "origin"
            elif landmark and _is_known(items, position):
                item.off = "landmark"
            elif negated and not (definite and _presupposed(items, position)):
                item.off = "negated"
                denied = True
            elif past:
                item.off = "past"
            elif asked:
                item.off = "asked"
            landmark = False
        elif kinds & NO_TUMOUR:
            item.off = "landmark" if landmark else "negated" if negated else ""
            denied = True
        elif kinds & ANATOMY:
            if landmark or origin:
                item.off = "landmark"
        elif kinds & c.SIZE:
            item.off = _why_not(items, position, tokens)
            landmark = False


def _lists_on(items: list[Item], position: int) -> bool:
    """ "no mass, a cyst or a stone": the list goes on to an "or"."""
    for item in items[position + 1 :]:
        if item.kinds & c.OR:
            return True
        if item.kinds & (c.SIZE | CLOSED):
            return False
    return False


def _is_some_of(items: list[Item], position: int) -> bool:
    """ "none of the cysts has changed", not "none of the organs contains a mass"."""
    if position + 1 == len(items) or not items[position + 1].kinds & c.DEFINITE:
        return False
    for behind in items[position + 2 :]:
        if behind.kinds & c.LESION:
            return True
        if not behind.kinds & (ANATOMY | c.ATTENUATION | c.NUMBER | c.SIZE):
            return False
    return False


def _is_no_landmark(items: list[Item], position: int, word: str) -> bool:
    """ "compared with 2020, the lesion has grown" says when, "exophytic lesion from the left kidney" where."""
    if word == "from":
        return position > 0 and bool(items[position - 1].kinds & c.LESION)
    return position == 0 and word == "compared"


def _is_joined(items: list[Item], position: int) -> bool:
    """ "abutting the spleen and the stomach", not "... and the stomach contains a mass"."""
    if not items[position - 1].kinds & c.AND:
        return False
    behind = position + 1
    while behind < len(items) and items[behind].kinds & ANATOMY:
        behind += 1
    return behind > position + 1 and (
        behind == len(items) or bool(items[behind].kinds & (c.COMMA | c.MEASURE | c.SIZE))
    )


def _is_known(items: list[Item], position: int) -> bool:
    """ "compression by the pelvic mass" brings in no new lesion; "abutting the 3 cm mass" may."""
    for before in reversed(items[:position]):
        if before.kinds & c.DEFINITE:
            return True
        if not before.kinds & (ANATOMY | c.ATTENUATION):
            return False
    return False


def _presupposed(items: list[Item], position: int) -> bool:
    """ "no change in the liver lesion": the lesion stands behind "the" with places and looks alone between."""
    for before in reversed(items[:position]):
        if before.kinds & c.DEFINITE:
            return True
        if not before.kinds & (ANATOMY | c.ATTENUATION | c.SIZE | c.LESION | c.NUMBER | c.NEUTRAL | c.LARGEST):
            return False
    return False


def _is_origin(items: list[Item], position: int) -> bool:
    """ "metastases from renal cell carcinoma", not "6 cm from the kidney"."""
    if position + 1 < len(items) and items[position + 1].kinds & c.SIZE:
        return False
    for before in reversed(items[:position]):
        if before.kinds & c.LESION:
            return before.phrase.lesion == "metastasis"
        if before.kinds & (c.SIZE | c.COMMA):
            return False
    return False


def _take_back(items: list[Item], clause: int, position: int, tokens: Words) -> None:
    """Negate the lesions of the clause before this item, back to a comma that parts two statements."""
    taken = False
    inner = items[clause:position]
    elsewhere = not ELSEWHEN.isdisjoint(tokens.words[items[position].end : items[position].end + 1])
    if not any(i.kinds & c.LESION for i in inner) and any(i.kinds & c.PRONOUN for i in inner) and not elsewhere:
        # "...; it is not seen today", not "...; it was not seen in 2018"
        clause = 0
    for before in reversed(items[clause:position]):
        kinds = before.kinds
        if kinds & c.LESION and not before.off:
            before.off = "negated"
            taken = True
        elif taken and kinds & LISTING:
            break


def _why_not(items: list[Item], position: int, tokens: Words) -> str:
    """Why a size is not a current size of something: "prior", "bound", "distance"; "" where it is."""
    item = items[position]
    if item.start and tokens.gaps[item.start - 1] in ("<", ">"):
        return "bound"
    if position > 1 and items[position - 1].kinds & c.OPEN and items[position - 2].kinds & c.SIZE:
        return "prior"
    following = items[position + 1] if position + 1 < len(items) else None
    before_paren = False
    for before in reversed(items[max(0, position - 5) : position]):
        kinds = before.kinds
        if item.start - before.end > 6:
            break
        if kinds & c.DEFINITE and position > 1 and items[position - 2].kinds & c.BOUND:
            return ""
        if kinds & BOUNDS:
            return "bound" if item.start - before.end <= 3 else ""
        if kinds & c.OPEN:
            before_paren = True
        if kinds & c.PRIOR:
            if _is_prior(before, items, position, tokens, before_paren):
                return "prior"
            break
        if kinds & c.CURRENT and not kinds & c.MEASURE:
            break
        if not kinds & (TRANSPARENT | c.CURRENT | c.NUMBER):
            break
    if following is not None and following.start - item.end <= 3:
        near = following.start - item.end <= 1
        kinds = following.kinds
        if kinds & c.PRIOR and near and _prior_behind(items, position, tokens):
            return "prior"
        is_from = tokens.words[following.start] == "from" and _size_follows(items, position + 1)
        if kinds & c.DISTANCE and near and not is_from and not _is_measured(items, position):
            return "distance"
    return "prior" if _is_dated(tokens, item.end) else ""


def _is_dated(tokens: Words, behind: int) -> bool:
    """ "12 mm in 2019", "12 mm in March", "12 mm on 3/4"."""
    words = tokens.words[behind : behind + 3]
    if len(words) < 2 or words[0] not in ("in", "on") or tokens.gaps[behind - 1]:
        return False
    return (
        words[1] in MONTHS
        or words[-1] in MONTHS
        or (words[1].isdigit() and (len(words[1]) == 4 or tokens.gaps[behind + 1] in ("/", "-")))
    )


def _is_prior(cue: Item, items: list[Item], position: int, tokens: Words, in_parentheses: bool) -> bool:
    word = tokens.words[cue.start]
    size = items[position]
    if word in ("was", "were", "before", "last", "old", "earlier"):
        if in_parentheses or (cue.start and tokens.gaps[cue.start - 1].endswith("(")):
            return True
        return _other_size(items, position) or any(i.kinds & c.PRIOR for i in items[:position] if i is not cue)
    if word == "from" and size.size is not None and size.size.upper:
        size.changed = True
        return False
    if word in ("vs", "versus", "from", "relative"):
        return _other_size(items, position)
    if tokens.words[cue.end - 1] == "by" and tokens.words[cue.end] in ("a", "an"):
        return False  # "enlarged by a 6 cm mass", not "enlarged by 5 mm"
    return cue.kinds & c.NEUTRAL == 0 and size.start - cue.end <= 6


def _other_size(items: list[Item], position: int) -> bool:
    return any(item.kinds & c.SIZE and item is not items[position] and not item.off for item in items)


def _prior_behind(items: list[Item], position: int, tokens: Words) -> bool:
    """ "12 mm previously", "12 mm on the prior study", not "12 mm, previously 10 mm"."""
    cue = items[position + 1]
    word = tokens.words[cue.start]
    if tokens.gaps[items[position].end - 1] or word in NEVER_BEHIND:
        return False
    return not _size_follows(items, position + 1)


def _size_follows(items: list[Item], position: int) -> bool:
    """A size comes next, but for words of measuring."""
    for item in items[position + 1 : position + 4]:
        if item.kinds & c.SIZE:
            return True
        if not item.kinds & (TRANSPARENT | c.PRIOR | c.CURRENT):
            return False
    return False


def _is_measured(items: list[Item], position: int) -> bool:
    return position > 0 and bool(items[position - 1].kinds & (c.MEASURE | c.UP_TO))
