"""Controlled vocabularies: the only words of a header that may enter a catalog."""

from __future__ import annotations

import re

from medssl.dicom.fields import words_of

MODALITIES = frozenset(
    [
        "CR",
        "CT",
        "DX",
        "ES",
        "IO",
        "IVOCT",
        "MG",
        "MR",
        "NM",
        "OCT",
        "OP",
        "OPT",
        "OT",
        "PT",
        "PX",
        "RF",
        "RG",
        "SC",
        "SM",
        "US",
        "XA",
        "XC",
    ]
)
SEXES = frozenset("MFO")
LATERALITIES = frozenset("LRBU")
SCANNING_SEQUENCES = frozenset(["SE", "IR", "GR", "EP", "RM"])
VIEWS = frozenset(
    [
        "AP",
        "PA",
        "LL",
        "RL",
        "LAT",
        "LATERAL",
        "RLD",
        "LLD",
        "RLO",
        "LLO",
        "OBL",
        "DECUB",
        "CC",
        "MLO",
        "ML",
        "LM",
        "LMO",
        "XCC",
        "XCCL",
        "XCCM",
        "FB",
        "SIO",
        "ISO",
        "CV",
        "AT",
        "TAN",
    ]
)
BODY_PARTS = frozenset(
    [
        "ABDOMEN",
        "ABDOMENPELVIS",
        "ADRENAL",
        "ANKLE",
        "AORTA",
        "ARM",
        "AXILLA",
        "BACK",
        "BLADDER",
        "BRAIN",
        "BREAST",
        "BRONCHUS",
        "BUTTOCK",
        "CALCANEUS",
        "CALF",
        "CAROTID",
        "CEREBELLUM",
        "CERVIX",
        "CHEEK",
        "CHEST",
        "CHESTABDOMEN",
        "CHESTABDPELVIS",
        "CLAVICLE",
        "COCCYX",
        "COLON",
        "CORNEA",
        "CORONARYARTERY",
        "CSPINE",
        "CTSPINE",
        "DUODENUM",
        "EAR",
        "ELBOW",
        "ESOPHAGUS",
        "EXTREMITY",
        "EYE",
        "EYELID",
        "FACE",
        "FEMUR",
        "FINGER",
        "FOOT",
        "GALLBLADDER",
        "HAND",
        "HEAD",
        "HEADNECK",
        "HEART",
        "HIP",
        "HUMERUS",
        "ILEUM",
        "ILIUM",
        "JAW",
        "JEJUNUM",
        "KIDNEY",
        "KNEE",
        "LARYNX",
        "LEG",
        "LIVER",
        "LSPINE",
        "LSSPINE",
        "LUNG",
        "MANDIBLE",
        "MAXILLA",
        "MEDIASTINUM",
        "NECK",
        "NECKCHEST",
        "NECKCHESTABDOMEN",
        "NECKCHESTABDPELV",
        "NOSE",
        "ORBIT",
        "OVARY",
        "PANCREAS",
        "PARATHYROID",
        "PAROTID",
        "PATELLA",
        "PELVIS",
        "PENIS",
        "PHARYNX",
        "PROSTATE",
        "RECTUM",
        "RETINA",
        "RIB",
        "SCALP",
        "SCAPULA",
        "SCLERA",
        "SCROTUM",
        "SHOULDER",
        "SKULL",
        "SPINE",
        "SPLEEN",
        "SSPINE",
        "STERNUM",
        "STOMACH",
        "TESTIS",
        "THIGH",
        "THORAX",
        "THUMB",
        "THYMUS",
        "THYROID",
        "TIBIA",
        "TLSPINE",
        "TOE",
        "TONGUE",
        "TRACHEA",
        "TSPINE",
        "ULNA",
        "URETER",
        "URETHRA",
        "UTERUS",
        "VAGINA",
        "VULVA",
        "WHOLEBODY",
        "WRIST",
        "ZYGOMA",
    ]
)
VENDORS = {
    "siemens": "Siemens",
    "ge medical": "GE",
    "ge healthcare": "GE",
    "general electric": "GE",
    "philips": "Philips",
    "canon": "Canon",
    "toshiba": "Toshiba",
    "fuji": "Fujifilm",
    "fujifilm": "Fujifilm",
    "hitachi": "Hitachi",
    "agfa": "Agfa",
    "carestream": "Carestream",
    "kodak": "Kodak",
    "konica": "Konica Minolta",
    "hologic": "Hologic",
    "lorad": "Lorad",
    "samsung": "Samsung",
    "shimadzu": "Shimadzu",
    "uih": "United Imaging",
    "united imaging": "United Imaging",
    "neusoft": "Neusoft",
    "mindray": "Mindray",
    "esaote": "Esaote",
    "hyperfine": "Hyperfine",
    "sectra": "Sectra",
    "planmeca": "Planmeca",
    "dentsply": "Dentsply Sirona",
    "sirona": "Dentsply Sirona",
    "swissray": "Swissray",
    "varian": "Varian",
    "elekta": "Elekta",
    "ims": "IMS Giotto",
    "topcon": "Topcon",
    "zeiss": "Zeiss",
    "heidelberg": "Heidelberg",
    "nidek": "Nidek",
    "bruker": "Bruker",
}
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/+\-]{0,39}")
NUMBER = re.compile(r"\d{5,}")  # long enough to be a serial or patient number, or a date


def known(value: str, words: frozenset[str]) -> str | None:
    """Return ``value`` in capitals, without spaces and signs, if it is one of ``words``, else None."""
    plain = re.sub(r"[^A-Z0-9]", "", value.upper())
    return plain if plain in words else None


def vendor(value: str) -> str | None:
    """Return the known name of a manufacturer, else None."""
    plain = " ".join(re.findall(r"[a-z]+", value.lower()))
    return next((name for prefix, name in VENDORS.items() if f"{plain} ".startswith(f"{prefix} ")), None)


def model(value: str, private: frozenset[str]) -> str | None:
    """Return a scanner's model unless it could name somebody: odd signs, long numbers, or a word of ``private``."""
    value = " ".join(value.split())
    if not MODEL.fullmatch(value) or NUMBER.search(value):
        return None
    folded = value.casefold()
    named = words_of(value) & private or any(word in folded for word in private if len(word) > 3)
    return None if named else value
