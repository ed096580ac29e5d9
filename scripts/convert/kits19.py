"""Convert KiTS19, which has kidneys and kidney tumours in CT.

SOURCE is a clone of github.com/neheller/kits19 after `python3 -m starter_code.get_imaging`, or its folder data. Cases
from 00210 on are the challenge's test cases, which have no segmentation.

Example:
    python scripts/convert/kits19.py kits19/data Dataset040_KiTS19
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednextv2.data.conversion_cases import Converted, DatasetFacts, SourceCase
from mednextv2.data.conversion_command import main
from mednextv2.data.conversion_sources import Found, find_root, identity, list_folders, missing_files, read_labels

FACTS = DatasetFacts(
    id="kits19",
    title="KiTS19",
    channels=("CT",),
    labels={1: "kidney", 2: "tumour"},
    reference="https://github.com/neheller/kits19",
    licence="CC BY-NC-SA 4.0 (data); MIT (code)",
    regions={"kidney_and_tumour": (1, 2), "tumour": (2,)},
    regions_order=(1, 2),
)
FIRST_TEST_CASE = 210
LAYOUT = "the folder data of kits19, which holds case_00000, case_00001, …"


def find(source: Path, options: Mapping[str, Any]) -> Found:
    """Find imaging.nii.gz and segmentation.nii.gz of each case."""
    root = find_root(source, ["case_?????"], LAYOUT)
    found = Found()
    for name, folder in list_folders(root, r"case_\d{5}", found).items():
        image, label = folder / "imaging.nii.gz", folder / "segmentation.nii.gz"
        test = int(name[-5:]) >= FIRST_TEST_CASE
        needed = (image,) if test else (image, label)
        missing = [file for file in needed if not file.is_file()]
        if missing:
            advice = "run starter_code.get_imaging again" if image in missing else "restore it with git checkout"
            found.incomplete[name] = missing_files(missing, advice)
        else:
            found.cases.append(SourceCase(name, needed, "Ts" if test else "Tr"))
        found.ignored += [file for file in sorted(folder.iterdir()) if file not in needed]
    return found


def convert(case: SourceCase, options: Mapping[str, Any]) -> Converted:
    """Take over the image, and check the label map."""
    return Converted(case.files[:1], read_labels(case.files[1], identity(FACTS.labels)) if case.part == "Tr" else None)


if __name__ == "__main__":
    main(FACTS, find, convert, __doc__)
