# SPDX-License-Identifier: Apache-2.0
"""The wording of generated reports, and the little grammar it needs.

In templates "a~" stands for "a" or "an", words in braces are filled in, and the capital in front comes last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

VOWEL_SOUND = re.compile(r"[aeioAEIO]|un|8|11\b|18\b")

ATTENUATION = {
    "hypo": ("hypodense", "hypoattenuating", "low-attenuation", "low density", "hypovascular"),
    "iso": ("isodense", "isoattenuating"),
    "hyper": ("hyperdense", "hyperattenuating", "high-attenuation", "hypervascular"),
    "mixed": ("heterogeneous", "mixed-attenuation", "heterogeneously enhancing"),
    "unknown": ("", "", "enhancing", "well-defined", "rounded"),
}
ATTENUATION_BEHIND = {
    "hypo": ("with low attenuation", "of low density"),
    "iso": ("that is isodense to the parenchyma",),
    "hyper": ("with high attenuation", "of high density"),
    "mixed": ("of mixed attenuation", "with heterogeneous enhancement"),
}
HEDGES = {"high": ("likely", "probable"), "low": ("possible", "questionable")}
HEDGES_BEHIND = {
    "high": ("likely", "most likely", "probably", "consistent with", "compatible with"),
    "low": ("possibly", "which may represent", "suspicious for"),
}

ORGAN_ADJECTIVES = {
    "liver": "hepatic",
    "pancreas": "pancreatic",
    "kidney": "renal",
    "colon": "colonic",
    "esophagus": "esophageal",
    "uterus": "uterine",
    "spleen": "splenic",
    "adrenal gland": "adrenal",
    "bladder": "bladder",
    "gallbladder": "gallbladder",
    "breast": "breast",
    "stomach": "gastric",
    "lung": "pulmonary",
    "bone": "osseous",
    "prostate": "prostatic",
    "duodenum": "duodenal",
}
LIVER_GROUPS = {
    (1,): ("the caudate lobe",),
    (2, 3): ("the left lateral section",),
    (2, 3, 4): ("the left lobe", "the left hepatic lobe"),
    (5, 6, 7, 8): ("the right lobe", "the right hepatic lobe"),
    (5, 8): ("the right anterior section",),
    (6, 7): ("the right posterior section",),
    (7, 8): ("the dome",),
}
PART_NAMES = {
    ("pancreas", "head"): ("head", "head", "neck", "uncinate process"),
    ("kidney", "upper pole"): ("upper pole", "superior pole"),
    ("kidney", "interpolar region"): ("interpolar region", "mid pole"),
    ("kidney", "lower pole"): ("lower pole", "inferior pole"),
    ("colon", "ascending"): ("ascending colon",),
    ("colon", "transverse"): ("transverse colon",),
    ("colon", "descending"): ("descending colon",),
    ("colon", "sigmoid"): ("sigmoid colon",),
}
OWN_NAMES = ("colon",)
"""Organs whose parts go by names of their own: "the cecum", not "the cecum of the colon"."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MANY = ("multiple", "several", "numerous", "innumerable")

# {found}: the lesion with its place, {lesion}: the lesion alone, {hedge}: how sure
ONE = (
    "there is a~ {hedge} {size} {found}.",
    "a~ {hedge} {size} {found} is noted.",
    "a~ {hedge} {found} measuring {size}.",
    "a~ {hedge} {found} measures approximately {size}.",
    "a~ {hedge} {found} is seen, {size}.",
    "{hedge} {size} {found}.",
    "{hedge} {found}, {size}.",
    "{hedge} {found} ({size}).",
    "again seen is a~ {hedge} {found}, which measures {size}.",
)
ONE_IN_PLACE = (
    "{place} shows a~ {hedge} {lesion} of {size}.",
    "{place} contains a~ {hedge} {size} {lesion}.",
    "in {place} there is a~ {hedge} {size} {lesion}.",
    "within {place}, a~ {hedge} {lesion} measures {size}.",
    "{place}: {hedge} {size} {lesion}.",
    "{place}: {hedge} {lesion}, {size}.",
)
ONE_CHANGED = (
    "a~ {hedge} {found} has increased from {prior} to {size}.",
    "a~ {hedge} {found} measures {size}, previously {prior}.",
    "{hedge} {size} {found} (previously {prior}).",
    "a~ {hedge} {found} now measures {size}, compared to {prior} before.",
    "no significant change in the {hedge} {size} {found}.",
)
ONE_UNSIZED = (
    "there is a~ {hedge} {found}.",
    "a~ {hedge} {found} is noted.",
    "a~ {hedge} subcentimeter {found}.",
    "a~ {hedge} tiny {found}, too small to characterize.",
    "a~ {hedge} {found} measuring less than 5 mm.",
    "again noted is a~ {hedge} {found}.",
)
SEVERAL = (
    "there are {number} {hedge} {found}, measuring {sizes}.",
    "{number} {hedge} {found} measuring {sizes}.",
    "{number} {hedge} {found}, {sizes}.",
    "{number} {hedge} {found} are seen and measure {sizes}.",
)
SEVERAL_EQUAL = (
    "{number} {hedge} {found}, {each} measuring {size}.",
    "there are {number} {hedge} {found}, {each} {size}.",
)
SEVERAL_LARGEST = (
    "{number} {hedge} {found}, the largest measuring {size}.",
    "there are {number} {hedge} {found}, the largest {size}.",
    "{number} {hedge} {found} measuring up to {size}.",
    "{number} {hedge} {found}, up to {size}.",
)
SEVERAL_UNSIZED = (
    "there are {number} {hedge} {found}.",
    "{number} {hedge} {found} are noted.",
    "{number} {hedge} subcentimeter {found}.",
    "{number} {hedge} {found}, too small to characterize.",
)
IMAGES = ("(series {series}, image {image})", "(image {image})", "on series {series} image {image}")

NEGATIVE = (
    "no focal lesion in the {place}.",
    "the {place} is unremarkable.",
    "the {place} is normal in appearance, without focal lesion.",
    "the {place} is normal in size and contour. No focal lesion is identified in the {place}.",
    "no suspicious mass or lesion in the {place}.",
    "{place}: unremarkable.",
    "{place}: normal.",
    "{place}: no focal lesion.",
)
NEGATIVE_HEADED = ("unremarkable.", "normal.", "no focal lesion.", "normal in size. No focal lesion.", "no mass.")
NEGATIVE_LISTED = (
    "the {places} are unremarkable.",
    "{places}: unremarkable.",
    "{places}: no focal lesion.",
    "no focal lesion in the {places}.",
)

# what stands beside lesions in reports and is none: {small} 3 to 9 mm, {large} 18 to 28 mm, {length} 9 to 16 cm
ASIDES = {
    "liver": (
        "the liver measures {length} cm in craniocaudal dimension.",
        "the common bile duct measures {small} mm.",
        "the portal vein is patent, measuring {small} mm.",
        "mild hepatic steatosis.",
        "no intrahepatic biliary ductal dilatation.",
    ),
    "spleen": ("the spleen measures {length} cm in length.", "the splenic vein is patent.", "no perisplenic fluid."),
    "kidney": (
        "a~ {small} mm nonobstructing stone in the {place}.",
        "no hydronephrosis of the {place}.",
        "the {place} measures {length} cm in length.",
        "the {place} enhances normally.",
    ),
    "pancreas": ("the main pancreatic duct measures {small} mm.", "no peripancreatic fat stranding."),
    "gallbladder": ("the gallbladder wall measures {small} mm in thickness.", "gallstones measuring up to {small} mm."),
    "bladder": ("the bladder wall measures {small} mm in thickness.",),
    "colon": ("colonic diverticulosis without diverticulitis.",),
    "prostate": ("the prostate measures {large} mm in transverse dimension.",),
}
ASIDES_ANYWHERE = (
    "the abdominal aorta measures {large} mm in diameter.",
    "retroperitoneal lymph nodes measure up to {small} mm in short axis.",
    "a~ {small} mm mesenteric lymph node.",
    "small right pleural effusion.",
    "no free fluid or free air.",
    "no bowel obstruction.",
    "the appendix measures {small} mm in diameter.",
    "fat-containing umbilical hernia measuring {large} mm.",
    "degenerative changes of the lumbar spine.",
)
GONE = (
    "the previously seen {small} mm cyst in the {place} is no longer visualized.",
    "the {small} mm lesion in the {place} seen previously has resolved.",
)

HISTORY = (
    "abdominal pain.",
    "{age}-year-old with weight loss.",
    "history of renal cell carcinoma.",
    "status post resection of a 3 cm liver mass.",
    "follow-up of a~ {large} mm lesion.",
    "metastatic colon cancer on chemotherapy.",
)
TECHNIQUE = (
    "axial CT images of the abdomen with {slice} mm slice thickness after {contrast} mL of intravenous contrast.",
    "helical CT of the abdomen and pelvis without contrast, reconstructed at {slice} mm.",
    "multiphase CT of the abdomen.",
)
COMPARISON = ("none.", "CT from {month}/{day}/{year}.", "CT of {year}, which showed a~ {small} mm liver lesion.")
IMPRESSION_HEADINGS = ("IMPRESSION:", "Impression:", "CONCLUSION:")
CALM = ("no acute abdominal abnormality.", "no acute findings.")


def fill(template: str, **words: str) -> str:
    """The template with its words, single spaces and articles."""
    return articles(" ".join(template.format(**words).split()).replace(" ,", ","))


def sentence(template: str, **words: str) -> str:
    """`fill`, with a capital in front."""
    text = fill(template, **words)
    return text[:1].upper() + text[1:]


def articles(text: str) -> str:
    """ "a~ oval mass, a~ cyst" to "an oval mass, a cyst"."""
    return re.sub(r"\ba~ ", lambda found: "an " if VOWEL_SOUND.match(text, found.end()) else "a ", text)


def listed(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def plural(noun: str) -> str:
    """Of a type of lesion: "metastases", "masses", "hypodensities", "cysts"."""
    for ending, many in (("is", "es"), ("s", "ses"), ("y", "ies")):
        if noun.endswith(ending):
            return noun.removesuffix(ending) + many
    return f"{noun}s"


def decimals(value: float, least: int) -> str:
    """At least `least` decimals, one more where the value has it: "2.0" and "2.45", "20" and "20.5"."""
    text = f"{value:.{least + 1}f}"
    return text if text[-1] != "0" else f"{value:.{least}f}"
