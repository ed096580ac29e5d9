"""A program that uses the package keeps its process as it is: see docs/predict.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles" / "mednextv2_hippocampus"

# Libraries first: what they set when they are imported is theirs.
_START = """
import importlib, json, logging, pkgutil, random, sys, tempfile, warnings
from pathlib import Path
import numpy as np, torch
import fire, ignite.engine, itk, monai.bundle, nibabel, scipy.ndimage, tqdm, yaml
import torch._dynamo, torch.utils.cpp_extension
for name in ("highdicom", "matplotlib.figure", "pydicom", "triton"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
for name in ("ImageFileReader", "ImageFileWriter", "GDCMImageIO", "PyBuffer"):
    getattr(itk, name)
import process_state as process
process.record_libraries()
torch.set_num_threads(1)
random.seed(1), np.random.seed(2), torch.manual_seed(3)
logging.basicConfig(level=logging.ERROR)
logging.getLogger("mednextv2").setLevel(logging.ERROR)
warnings.simplefilter("error", BytesWarning)
torch.serialization.add_safe_globals([np.dtype])
bundle, image = sys.argv[1:3]
before = process.state()
"""
_END = """
print(json.dumps(process.changes(before, process.state())))
"""
_IMPORT = """
import mednextv2
names = [module.name for module in pkgutil.walk_packages(mednextv2.__path__, "mednextv2.")]
assert len(names) > 100
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as e:
        assert e.name.split(".")[0] in ("triton", "matplotlib", "highdicom", "pydicom"), e
"""
_PREDICT = """
import mednextv2
predictor = mednextv2.Predictor(bundle, device="cpu", test_mirror_axes=[])
image_of = lambda size: (np.random.default_rng(0).normal(size=size).astype(np.float32), np.eye(4))
assert predictor(image_of((34, 44, 30))).labels.shape == (34, 44, 30)
predictor.inferer.memory = 0  # as for a large image
with tempfile.TemporaryDirectory() as folder:
    mask = predictor(image, probabilities=Path(folder) / "p.npy")
    mask.save(Path(folder) / "mask.nrrd")
"""
_OTHERS = """
from mednextv2.bundle import find_bundle, plan
from mednextv2.bundle.run import workflow_files
from mednextv2.nets.training_memory import training_memory
from mednextv2.nets.variants import VARIANTS
from mednextv2.scores.evaluation import score_case
from mednextv2.weights.files import load_file
load_file(Path(bundle) / "models" / "model.pt")
for variant in VARIANTS:
    training_memory(variant, (32, 32, 32), 2)
labels = torch.zeros(2, 9, 9, 9)
labels[:, 3:6] = 1
score_case(labels, labels, (1.0, 1.0, 1.0))
"""


def run(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    import itk

    path = tmp_path_factory.mktemp("image") / "case.nrrd"
    itk.imwrite(itk.image_from_array(np.random.default_rng(1).normal(size=(20, 44, 34)).astype(np.float32)), str(path))
    return path


def test_a_host_process_stays_as_it_is(image):
    """After each use in turn: a prediction imports what it needs, and the last use imports all the rest."""
    uses = {"predict": _PREDICT, "others": _OTHERS, "import": _IMPORT}
    done = run(_START + "".join(f"{use}\nprint('changes by', end=' '){_END}" for use in uses.values()), BUNDLE, image)
    told = [line.removeprefix("changes by ") for line in done.stdout.splitlines() if line.startswith("changes by ")]
    assert dict(zip(uses, map(json.loads, told), strict=True)) == {name: [] for name in uses}
    assert "NvImgCodec" not in done.stderr
    assert "nvImageCodec" not in done.stderr


_EVERYTHING = """
import os, signal, ctypes
os.environ["MEDNEXTV2_CACHE"] = "x"
logging.getLogger("monai.data").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "x")
sys.excepthook = print
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.chdir("/")
sys.path.append("x")
import mednextv2
assert mednextv2.keep_freed_memory() or not sys.platform.startswith("linux")
random.random(), np.random.rand(), torch.rand(1)
torch.set_num_threads(2)
torch.backends.cudnn.benchmark = True
torch.set_default_dtype(torch.float64)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such allocator")
def test_what_is_set_would_be_seen(image):
    changed = json.loads(run(_START + _EVERYTHING + _END, BUNDLE, image).stdout.splitlines()[-1])
    assert [line.split(": ")[0] for line in changed if not line.startswith("torch")] == [
        "environment", "loggers", "warnings", "hooks", "signals", "folder", "sys.path", "allocator", "random", "NumPy",
    ]  # fmt: skip
    assert [line.split(": ")[1] for line in changed if line.startswith("torch")] == [
        "threads", "dtype", "cudnn", "random numbers",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import mednextv2", ("torch", "numpy", "monai")),
        ("import mednextv2; mednextv2.keep_freed_memory()", ("torch", "numpy", "monai")),
        (
            "import mednextv2.ops, mednextv2.nets, mednextv2.nets.training_memory\n"
            "mednextv2.nets.create_mednext('v2_tiny')",
            ("monai", "nibabel", "itk", "scipy"),
        ),
    ],
)
def test_an_import_is_no_heavier_than_it_has_to_be(code, absent):
    done = run(f"{code}\nimport sys, json\nprint(json.dumps([m for m in {absent} if m in sys.modules]))")
    assert json.loads(done.stdout) == []
