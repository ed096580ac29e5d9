"""Codes of structures: those of public models and data sets have SNOMED CT codes, and no name gets a wrong one."""

import re
from collections import defaultdict
from itertools import product

import highdicom as hd
import numpy as np
import pytest
from dicom_helpers import numbers, write_series
from pydicom.sr.codedict import codes

from mednextv2.data import LabelScheme, choose_series
from mednextv2.images.dicom_codes import _BESIDE, _rows, _table, find_code
from mednextv2.images.dicom_seg import write_dicom_seg

SPINE = [*(f"C{i}" for i in range(1, 8)), *(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6))]


def listed(names):
    return names.split()


def both_sides(names):
    return [f"{name}_{side}" for name in listed(names) for side in ("left", "right")]


TEETH = [
    f"{jaw} {side} {tooth}"
    for (jaw, side), tooth in product(
        [("Upper", "Right"), ("Upper", "Left"), ("Lower", "Left"), ("Lower", "Right")],
        ["Central Incisor", "Lateral Incisor", "Canine", "First Premolar", "Second Premolar",
         "First Molar", "Second Molar", "Third Molar"],
    )
]  # fmt: skip
TOOTHFAIRY2 = [
    "Lower Jawbone", "Upper Jawbone", "Left Inferior Alveolar Canal", "Right Inferior Alveolar Canal",
    "Left Maxillary Sinus", "Right Maxillary Sinus", "Pharynx", "Bridge", "Crown", "Implant", *TEETH,
]  # fmt: skip
DATASETS = {
    "TotalSegmentator v2": [
        *listed("""spleen gallbladder liver stomach pancreas lung_middle_lobe_right esophagus trachea thyroid_gland
        small_bowel duodenum colon urinary_bladder prostate sacrum vertebrae_S1 heart aorta pulmonary_vein
        brachiocephalic_trunk atrial_appendage_left superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein
        spinal_cord brain skull sternum costal_cartilages"""),
        *both_sides("""kidney adrenal_gland lung_upper_lobe lung_lower_lobe kidney_cyst subclavian_artery
        common_carotid_artery brachiocephalic_vein iliac_artery iliac_vena humerus scapula clavicula femur hip
        gluteus_maximus gluteus_medius gluteus_minimus autochthon iliopsoas"""),
        *(f"vertebrae_{level}" for level in SPINE),
        *(f"rib_{side}_{i}" for side in ("left", "right") for i in range(1, 13)),
    ],
    "Pediatric-CT-SEG": [
        *listed("""bladder duodenum esophagus gall_bladder gonads heart large_intestine liver pancreas prostate rectum
        small_intestine spinal_canal spleen stomach thymus uterocervix skin bones"""),
        *both_sides("adrenal breast femoral_head kidney lung"),
    ],
    "SKM-TEA": listed("""patellar_cartilage femoral_cartilage tibial_cartilage_medial tibial_cartilage_lateral
        meniscus_medial meniscus_lateral"""),
    "OAIZIB-CM": listed("femur femoral_cartilage tibia medial_tibial_cartilage lateral_tibial_cartilage"),
    "SKI10": ["femur", "femoral_cartilage", "tibia", "tibial_cartilage"],
    "ToothFairy2": TOOTHFAIRY2,
    "ToothFairy3": [
        *TOOTHFAIRY2, "Left Mandibular Incisive Canal", "Right Mandibular Incisive Canal", "Lingual Canal",
        *(f"{tooth} Pulp" for tooth in TEETH),
    ],
    "BrainMetShare": ["metastasis"],
    "PANTHER": ["tumour", "pancreas"],
    "CTSpine1K": [*SPINE, "L6"],
    "BTCV": listed("""spleen right_kidney left_kidney gallbladder esophagus liver stomach aorta inferior_vena_cava
        portal_vein_and_splenic_vein pancreas right_adrenal_gland left_adrenal_gland"""),
    "AMOS22": listed("""spleen right_kidney left_kidney gall_bladder esophagus liver stomach aorta postcava pancreas
        right_adrenal_gland left_adrenal_gland duodenum bladder prostate/uterus"""),
    "KiTS19": ["kidney", "tumour"],
    "KiTS19 regions": ["kidney_and_tumour", "tumour"],
    "KiTS23": ["kidney", "tumor", "cyst"],
    "KiTS23 regions": ["kidney", "masses", "tumor"],
    "BraTS21": ["edema (ED)", "necrotic/non-enhancing core (NCR/NET)", "enhancing tumour (ET)"],
    "BraTS21 as it comes": ["NCR/NET", "ED", "ET"],
    "BraTS21 regions": ["whole_tumour", "tumour_core", "enhancing_tumour"],
    "ACDC": ["right_ventricle", "myocardium_left_ventricle", "left_ventricle_cavity"],
    "ACDC, short": ["RV", "myocardium", "LV cavity"],
}  # fmt: skip
#: Structures that only their labels tell apart, for want of exact codes.
ALIKE = [
    {"Bridge", "Crown"},
    {"Left Inferior Alveolar Canal", "Left Mandibular Incisive Canal"},
    {"Right Inferior Alveolar Canal", "Right Mandibular Incisive Canal"},
]


def all_codes(found):
    return [c for c in (found.kind, *found.modifiers, found.region, *found.region_modifiers) if c]


def code_of(name, names=()):
    found = find_code(name, names)
    return found.kind.value, found.category.meaning, [c.meaning for c in all_codes(found)[1:]]


def is_private(name, names=()):
    return find_code(name, names).kind.scheme_designator == "99MEDNEXTV2"


def is_snomed(code):
    """Say whether the check digit of a SNOMED CT identifier is right (Verhoeff's, in the dihedral group D5)."""
    order, check = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4], 0
    for place, digit in enumerate(map(int, reversed(code))):
        for _ in range(place % 8):
            digit = order[digit]
        turn = (check + (digit if check < 5 else -digit)) % 5
        check = turn + 5 * ((check < 5) != (digit < 5))
    return not check


def test_the_lists_are_whole():
    counts = {name: len(set(names)) for name, names in DATASETS.items()}
    expected = {"TotalSegmentator v2": 117, "Pediatric-CT-SEG": 29, "ToothFairy2": 42, "ToothFairy3": 77,
                "CTSpine1K": 25, "BTCV": 13, "AMOS22": 15, "SKM-TEA": 6, "OAIZIB-CM": 5}  # fmt: skip
    assert {name: counts[name] for name in expected} == expected


@pytest.mark.parametrize("names", DATASETS.values(), ids=DATASETS)
def test_every_structure_has_a_standard_code_of_its_own(names):
    alike = defaultdict(set)
    for name in names:
        found = find_code(name, names)
        assert found.kind.scheme_designator in ("SCT", "DCM"), name
        assert re.fullmatch(r"\d{4,16}", found.kind.value), name
        alike[found].add(name)
    assert [same for same in alike.values() if len(same) > 1 and same not in ALIKE] == []


@pytest.mark.parametrize("names", DATASETS.values(), ids=DATASETS)
def test_sides_are_those_of_the_names(names):
    for name in names:
        in_name = set(re.findall("left|right", name.lower())) | ({"left"} if name == "LV cavity" else set())
        in_name |= {"right"} if name == "RV" else set()
        in_codes = set(re.findall("left|right", " ".join(c.meaning for c in all_codes(find_code(name, names))).lower()))
        assert in_codes == in_name, name


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # values as DICOM PS3.16, TotalSegmentator or SNOMED CT publish them
        ("Liver", ("10200004", "Anatomical Structure", [])),
        ("lung_upper_lobe_left", ("45653009", "Anatomical Structure", ["Left"])),
        ("Lower lobe of lung R", ("90572001", "Anatomical Structure", ["Right"])),
        ("lung_middle_lobe_right", ("72481006", "Anatomical Structure", [])),
        ("vertebrae_L5", ("49668003", "Anatomical Structure", [])),
        ("rib_left_1", ("48535007", "Anatomical Structure", ["Left"])),
        ("Rib-12 R", ("43993008", "Anatomical Structure", ["Right"])),
        ("subclavian_artery_left", ("36765005", "Anatomical Structure", ["Left"])),
        ("brachiocephalic_vein_right", ("8887007", "Anatomical Structure", ["Right"])),
        ("portal_vein_and_splenic_vein", ("110765007", "Anatomical Structure", [])),
        ("left_ventricle_cavity", ("87878005", "Anatomical Structure", [])),  # of the heart, and no side of a ventricle
        ("left atrium", ("82471001", "Anatomical Structure", [])),
        ("heart", ("80891009", "Anatomical Structure", [])),
        ("brain", ("12738006", "Anatomical Structure", [])),
        ("hip", ("28254004", "Anatomical Structure", [])),  # the bone, neither the region nor the joint
        ("hip_right", ("28254004", "Anatomical Structure", ["Right"])),
        ("head", ("69536005", "Anatomical Structure", [])),
        ("femoral_head_left", ("2812003", "Anatomical Structure", ["Left"])),
        ("kidney_cyst_left", ("367643001", "Morphologically Abnormal Structure", ["Kidney", "Left"])),
        ("cyst", ("367643001", "Morphologically Abnormal Structure", [])),
        ("lesion", ("52988006", "Morphologically Abnormal Structure", [])),
        ("tumour", ("108369006", "Morphologically Abnormal Structure", [])),
        ("oedema", ("79654002", "Morphologically Abnormal Structure", [])),
        ("medial_tibial_cartilage", ("309312004", "Tissue", ["Medial", "Tibia"])),
        ("Upper Left Canine", ("860780009", "Anatomical Structure", [])),
        ("Upper Left Canine Pulp", ("87784001", "Tissue", ["Permanent maxillary left canine tooth"])),
        ("FDI 48", ("38994002", "Anatomical Structure", [])),
        ("Implant", ("40388003", "Physical object", [])),
        ("adrenal_gland_right", ("23451007", "Anatomical Structure", ["Right"])),
        ("hippocampus", ("5366008", "Anatomical Structure", [])),  # from here on in the context groups alone
        ("Lateral ventricle L", ("66720007", "Anatomical Structure", ["Left"])),
        ("fat", ("55603005", "Tissue", [])),
        ("urine", ("78014005", "Body Substance", [])),
    ],
)
def test_codes_of_names(name, expected):
    assert code_of(name) == expected


@pytest.mark.parametrize(
    ("name", "beside", "expected"),
    [
        ("T1", ["T2", "FLAIR"], None),  # contrasts of MR
        ("T1", ["T2", "T3", "T4"], None),  # stages of a tumour
        ("T1", ["T2", "L1"], "64864005"),
        ("L2", ["L1", "L3"], None),  # label 2
        ("L2", ["sacrum", "L3"], "14293000"),
        ("C1", ["vertebrae_C2"], "14806007"),
        ("crown", ["liver"], None),
        ("crown", ["crown", "Third Molar"], "27606000"),
        ("bridge", [], None),
        ("canine", ["head"], None),  # which tooth, or a dog
        ("ED", ["ES"], None),  # end of diastole
        ("ED", ["NCR/NET", "ET"], "79654002"),
        ("LV", ["lung"], None),
        ("LV", ["RV"], "87878005"),
    ],
)
def test_names_that_mean_a_structure_only_beside_others(name, beside, expected):
    if expected is None:
        assert is_private(name, [name, *beside])
    else:
        assert find_code(name, [name, *beside]).kind.value == expected


@pytest.mark.parametrize(
    "name",
    ["anterior", "left", "L", "label 3", "肝", "urinary", "", "T1", "C3", "crown", "canine", "ED", "muscle_mass",
     "liver and kidney", "left and right kidney", "lung_middle_lobe_left", "rib 13", "vertebrae_T13", "not liver",
     "tumour bed", "upper canine", "enhancing", "background", "normal", "system", "media"],
)  # fmt: skip
def test_other_names_get_private_codes(name):
    found = find_code(name)
    assert is_private(name)
    assert (found.kind.meaning, found.modifiers, found.region) == (name or "structure", (), None)
    assert len(found.kind.value) <= 16
    assert found.kind != find_code(name + "x").kind


def test_the_table_agrees_with_dicoms_dictionary():
    public = {(c.value, c.meaning) for scheme in (codes.SCT, codes.NCIt) for c in scheme.concepts.values()}
    rows = [(row["value"], row["meaning"]) for row in _rows() if row["source"] == "PS3.16"]
    assert len(rows) > 150
    assert [row for row in rows if row not in public] == []


def test_the_table_is_well_formed():
    assert [is_snomed(code) for code in ("10200004", "10200005", "12000004")] == [True, False, False]
    names = [name for row in _rows() if row["category"] not in ("category", "modifier")
             for name in row["names"].split("|")]  # fmt: skip
    assert len(_table()) == len(names)  # no two rows have the same name
    for row in _rows():
        assert len(row["meaning"]) <= 64
        assert len(row["value"]) <= 16
        assert is_snomed(row["value"]) if row["scheme"] == "SCT" else re.fullmatch(r"C\d+", row["value"])
        assert row["source"] == "PS3.16" or len(row["source"].split("; ")) == 2, row
    assert {name.partition("@")[2] for name in names} == {"", *_BESIDE}


def test_a_dicom_seg_has_them(tmp_path):
    names = ["kidney_cyst_left", "medial_tibial_cartilage", "T1", "L1", "hip_right"]
    write_series(tmp_path / "in", numbers())
    (series,) = choose_series(tmp_path / "in")
    labels = np.arange(9 * 7 * 6).reshape(9, 7, 6) % 6
    write_dicom_seg(tmp_path / "seg.dcm", labels.astype(np.uint8), LabelScheme(["background", *names]), series)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    cyst, cartilage, t1, _, hip = (seg.get_segment_description(n) for n in range(1, 6))
    assert cyst.segmented_property_category.value == "49755003"
    assert (cyst.segmented_property_type.value, cyst.anatomic_regions[0].value) == ("367643001", "64033007")
    (side,) = cyst.AnatomicRegionSequence[0].AnatomicRegionModifierSequence
    assert (side.CodeValue, side.CodingSchemeDesignator) == ("7771000", "SCT")
    (medial,) = cartilage.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert (medial.CodeMeaning, cartilage.segmented_property_category.meaning) == ("Medial", "Tissue")
    assert t1.segmented_property_type.meaning == "T1 vertebra"
    (side,) = hip.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert (side.CodeMeaning, hip.segment_label) == ("Right", "hip_right")
