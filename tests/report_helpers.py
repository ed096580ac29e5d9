"""A small evaluation with known numbers, a prediction, and readers of pages and paths."""

import math
import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from mednextv2.data import LabelScheme
from mednextv2.inference import EvaluationTable, StructureMasksd
from mednextv2.report import Results, write_results

SHAPE, SPACING = (20, 24, 10), (0.8, 1.2, 3.0)
ML = math.prod(SPACING) / 1000  # of a voxel
AFFINE = np.array(
    [[-0.8, 0, 0, 11], [0, -1.2, 0, 7], [0, 0, 3.0, -5], [0, 0, 0, 1]]
)  # to the left, posterior, superior
SCHEME = LabelScheme(["background", "anterior", "posterior"])
LOG = "epoch,learning_rate,train_loss,val_mean_dice,val_ema_dice\n1,0.1,0.9,0.5,0.5\n2,0.1,0.6,,\n3,0.1,0.5,0.7,0.52\n"


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def label_map():
    array = np.zeros(SHAPE, np.uint8)
    array[4:10, 4:10, 3:7], array[4:10, 12:20, 3:7] = 1, 2
    return array


def predicted(number):
    """Class 1 shifted by as many voxels along x; class 2 without its last `number` rows, in case 4 not at all."""
    array = np.zeros(SHAPE, np.uint8)
    array[4 + number : 10 + number, 4:10, 3:7] = 1
    if number < 4:
        array[4:10, 12 : 20 - number, 3:7] = 2
    return array


def make_evaluation(root, names=("a", "b", "c", "d", "e"), scheme=SCHEME, weights=(), label=None, title="Test, fold 0"):
    """Write files and let the handler of evaluations score them; return its folder."""
    folder, rng, items, batches = root / "evaluation", np.random.default_rng(0), [], []
    truth = label_map() if label is None else label
    for number, name in enumerate(names):
        file = re.sub(r"[^a-z]", "_", name)
        item = {
            "case": name,
            "image": save(root / "images" / f"{file}.nii.gz", rng.normal(100, 20, SHAPE).astype(np.float32)),
            "label": save(root / "labels" / f"{file}.nii.gz", truth),
        }
        save(folder / "predictions" / f"{file}_seg.nii.gz", predicted(number))
        maps = {"pred": predicted(number), "label": truth}
        maps = {k: MetaTensor(torch.from_numpy(v)[None], affine=torch.from_numpy(AFFINE)) for k, v in maps.items()}
        items.append(item)
        batches.append([{**StructureMasksd(["pred", "label"], scheme)(maps), "case": name}])
    engine = Engine(lambda engine, batch: batch)
    labels = ["background", *scheme.foreground]
    EvaluationTable(folder, labels, 3, scheme, items, title, weights).attach(engine)
    engine.run(batches)
    return folder


class Page(HTMLParser):
    """What is in a page: its elements, its tables as lists of rows of texts, and its text."""

    VOID = ("img", "link", "meta")

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.tables, self.texts, self.unbalanced = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.unbalanced.append(tag)
        if self.open:
            self.open.pop()

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))
        if any(tag in self.open for tag in ("td", "th")):
            self.tables[-1][-1][-1] += data

    def all(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in attributes.items())]

    def of(self, tag):
        return [text for where, text in self.texts if where == tag]


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


def corners(path):
    """Walk along an SVG path of M, h, v and z; return the loops' corners (x, y)."""
    loops = []
    for loop in re.findall(r"M[^z]*z", path):
        x, y = map(int, re.match(r"M(\d+) (\d+)", loop).groups())
        points = [(x, y)]
        for axis, step in re.findall(r"([hv])(-?\d+)", loop):
            x, y = (x + int(step), y) if axis == "h" else (x, y + int(step))
            points.append((x, y))
        loops.append(points)
    return loops


def fill(path, shape):
    """Fill a path by the even-odd rule, from the vertical sides alone."""
    crossed = np.zeros((shape[0], shape[1] + 1), int)
    for loop in corners(path):
        for (x, y), (u, v) in zip(loop, [*loop[1:], loop[0]], strict=True):
            assert x == u or y == v  # along the borders of pixels
            if x == u:
                crossed[min(y, v) : max(y, v), x] += 1
    return crossed.cumsum(axis=1)[:, :-1] % 2 == 1


def make_prediction(root, count=8):
    cases = []
    for n in range(count):
        image = save(
            root / "masks" / "images" / f"{n}.nii.gz", np.random.default_rng(n).random(label_map().shape, np.float32)
        )
        mask = save(root / "masks" / f"{n}_seg.nii.gz", predicted(n % 5))
        cases.append({"case": f"case {n}", "image": [image], "prediction": mask})
    write_results(root / "masks", Results("prediction", "Masks", ["front", "back"], [[1], [2]], cases))
    return root / "masks"
