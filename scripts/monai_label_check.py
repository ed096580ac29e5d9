"""Test bundles in a real MONAI Label server: what scripts/check_monai_label.sh runs, in Label's environment."""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai_label_bundles
import nibabel as nib
import numpy as np
import requests
import torch

from mednextv2.__main__ import main as mednextv2_main
from mednextv2.bundle import write_bundle
from mednextv2.weights import read_about

ROOT = Path(__file__).parents[1]
NAME, REGIONS = "mednextv2_hippocampus", "mednextv2_hippocampus_regions"
HIPPOCAMPUS = ROOT / "bundles" / NAME
IMAGES, LABELLED = 8, 6
#: As MONAI Label's clients send it: with all options of the trainer.
TRAINING = {
    "max_epochs": 2, "val_split": 0.34, "batch_size": 2, "iterations_per_epoch": 8, "val_iterations": 4,
    "learning_rate": 5e-4,
}  # fmt: skip
_START_S, _TRAINING_S = 600, 3600


class Server:
    """A MONAI Label server that scripts/monai_label.sh started."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of an answer."""
        answer = requests.get(f"{self.url}/{path}", params=query, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def infer(self, model: str, image: str, file: Path, **params: Any) -> np.ndarray:
        """Return the label map that a bundle predicts."""
        answer = requests.post(
            f"{self.url}/infer/{model}", params={"image": image, "output": "image"},
            data={"params": json.dumps(params)}, timeout=600,
        )  # fmt: skip
        answer.raise_for_status()
        file.write_bytes(answer.content)
        return np.asarray(nib.load(file).dataobj)

    def submit(self, image: str, label: Path) -> None:
        """Submit a label map as final."""
        with label.open("rb") as f:
            answer = requests.put(
                f"{self.url}/datastore/label", params={"image": image, "tag": "final"},
                files={"label": (label.name, f)}, timeout=60,
            )  # fmt: skip
        answer.raise_for_status()

    def train(self, model: str, **params: Any) -> requests.Response:
        """Train with the submitted labels, and wait for the end."""
        return requests.post(
            f"{self.url}/train/{model}", params={"run_sync": "true"}, json={**TRAINING, **params}, timeout=_TRAINING_S
        )


class Check:
    """The steps, each of which prints what it found.

    Args:
        data: The folder of Task04_Hippocampus.
        env: The environment of MONAI Label.
        port: A free port.
        log: Where the output of the server goes, besides the ending `.server`.
        folder: A temporary folder.
    """

    def __init__(self, data: Path, env: Path, port: int, log: Path, folder: Path) -> None:
        self.data, self.env, self.port, self.folder = data, env, port, folder
        self.log = Path(f"{log}.server")
        self.studies = folder / "studies"
        self.app = folder / "app"  # of its own, so that bundles in the user's app stay
        self.server = Server(port)

    def run(self) -> None:
        """Run all steps.

        Raises:
            AssertionError: If one fails.
        """
        versions = ("monailabel", "monai", "torch", "torchvision", "numpy", "pydicom", "mednextv2")
        say("versions", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in versions))
        self._copy_images()
        weak, regions = self._weak_bundle(), self._region_bundle()
        with self._serving(f"{weak},{regions}"):
            self._info()
            self._port_in_use()
            before = self._inference("before any training")
            self._options()
            self._regions()
            self._too_early()
            self._active_learning()
            dice = [self._dice(before)]
            say("training", f"mean Dice of {self.image} before any training: {dice[0]:.4f}")
            dice += [self._training(number) for number in (1, 2)]
            assert dice[0] < dice[1], dice
            self._worse_weights()
        self._refusals()
        say("done", "all steps passed")

    def _copy_images(self) -> None:
        self.studies.mkdir()
        listed = json.loads((self.data / "dataset.json").read_text(encoding="utf-8"))["training"]
        self.names = sorted(Path(item["image"]).name.removesuffix(".nii.gz") for item in listed)[:IMAGES]
        for name in self.names:
            shutil.copy(self.data / "imagesTr" / f"{name}.nii.gz", self.studies)
        self.image = self.names[-1]  # its label is never submitted

    def _weak_bundle(self) -> Path:
        """Make the bundle with weights that training improves."""
        bundle = self.folder / "bundles" / NAME
        shutil.copytree(HIPPOCAMPUS, bundle, ignore=shutil.ignore_patterns("output", "fold_*"))
        random = torch.Generator().manual_seed(0)
        state = torch.load(bundle / "models" / "model.pt", weights_only=True)
        for value in state.values():
            if value.ndim > 1:
                value += 0.7 * value.std() * torch.randn(value.shape, generator=random)
        torch.save(state, bundle / "models" / "model.pt")
        return bundle

    def _region_bundle(self) -> Path:
        """Make a bundle with the regions of the whole hippocampus and of its posterior part."""
        bundle = self.folder / "bundles" / REGIONS
        (bundle / "models").mkdir(parents=True)
        text = (HIPPOCAMPUS / "task.yaml").read_text(encoding="utf-8")
        regions = "[{name: whole, values: [1, 2], paint: 1}, {name: back, values: [2], paint: 2}]"
        assert "\nregions: []" in text
        (bundle / "task.yaml").write_text(text.replace("\nregions: []", f"\nregions: {regions}"), encoding="utf-8")
        write_bundle(bundle / "task.yaml")
        state = torch.load(HIPPOCAMPUS / "models" / "model.pt", weights_only=True)
        for name, value in state.items():  # as a softmax of two classes against the others
            if name.startswith("heads."):
                background, front, back = value
                state[name] = torch.stack([(front + back) / 2 - background, back - (background + front) / 2])
        torch.save(state, bundle / "models" / "model.pt")
        return bundle

    def _start(self, bundles: str, studies: Path | None = None) -> list[str]:
        return [
            "bash", str(ROOT / "scripts" / "monai_label.sh"), "--studies", str(studies or self.studies),
            "--bundles", bundles, "--port", str(self.port), "--env", str(self.env), "--app", str(self.app),
        ]  # fmt: skip

    @contextlib.contextmanager
    def _serving(self, bundles: str) -> Iterator[None]:
        started = time.monotonic()
        with self.log.open("w", encoding="utf-8") as f:
            process = subprocess.Popen(self._start(bundles), stdout=f, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while True:
                assert process.poll() is None, f"the server ended; see {self.log}"
                assert time.monotonic() - started < _START_S, f"the server does not answer; see {self.log}"
                with contextlib.suppress(requests.ConnectionError):
                    self.server.get("info/")
                    break
                time.sleep(1)
            say("start", f"the server answers after {time.monotonic() - started:.0f} s, without a download")
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def _refusals(self) -> None:
        """Start with what cannot work, and expect one error."""
        names = ("untrained", "newer", "pickled", "other")
        untrained, newer, pickled, other = (self.folder / "refused" / name for name in names)
        for bundle in (untrained, newer, pickled, other):
            shutil.copytree(HIPPOCAMPUS, bundle, ignore=shutil.ignore_patterns("output", "fold_*"))
        (untrained / "models" / "model.pt").unlink()
        metadata = json.loads((newer / "configs" / "metadata.json").read_text(encoding="utf-8"))
        metadata["required_packages_version"]["mednextv2"] = "99.0.0"
        (newer / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
        torch.save(torch.nn.Conv3d(1, 1, 1), pickled / "models" / "model.pt")
        torch.save(torch.nn.Conv3d(1, 1, 1).state_dict(), other / "models" / "model.pt")
        empty = self.folder / "empty"
        empty.mkdir()
        for bundle, studies, words in (
            (untrained, None, "has no weights"),
            (HIPPOCAMPUS, self.folder / "nowhere", "there is no such folder"),
        ):
            self._refused(self._start(str(bundle), studies), words)
        options = ["--app", str(self.app), "--host", "127.0.0.1", "--port", str(self.port)]
        options += ["--names", str(self.folder / "names.txt")]
        for bundle, studies, words in (  # by the script's step for bundles alone, since a start of Python takes seconds
            (newer, self.studies, "needs mednextv2 99.0.0"),
            (pickled, self.studies, "refused, since reading it would run code"),
            (other, self.studies, "the weights are of another network"),
            (HIPPOCAMPUS, empty, "holds no image"),
            (self.folder / "none", self.studies, "none"),
        ):
            printed = io.StringIO()
            with contextlib.redirect_stderr(printed):
                status = monai_label_bundles.main([*options, "--studies", str(studies), "--bundles", str(bundle)])
            self._one_error(status, printed.getvalue(), words)

    def _refused(self, command: list[str], words: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=False)
        self._one_error(done.returncode, done.stderr, words)

    def _one_error(self, status: int, printed: str, words: str) -> None:
        errors = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert status == 1, printed
        assert len(errors) == 1, printed
        assert words in errors[0], printed
        assert "Traceback" not in printed, printed
        say("refused", errors[0].replace(str(self.folder), "…"))

    def _port_in_use(self) -> None:
        self._refused(self._start(str(HIPPOCAMPUS)), f"--port {self.port}")

    def _info(self) -> None:
        info = self.server.get("info/")
        models, trainers = info["models"], info["trainers"]
        assert sorted(models) == sorted(trainers) == [NAME, REGIONS], info
        for name in (NAME, REGIONS):
            assert models[name]["labels"] == {"anterior": 1, "posterior": 2}, models[name]
            assert {"overlap", "mirroring"} <= set(models[name]["config"])
            assert {"max_epochs", *TRAINING} - {"val_split"} <= set(trainers[name]["config"])
        say("info", f"{sorted(models)}, labels {models[NAME]['labels']}, strategies {sorted(info['strategies'])}")

    def _predict(self, model: str, image: str, *options: str) -> np.ndarray:
        masks = Path(tempfile.mkdtemp(dir=self.folder))
        words = [
            "predict",
            str(self.app / "model" / model),
            str(self.studies / f"{image}.nii.gz"),
            str(masks),
            *options,
        ]
        printed = io.StringIO()
        with unittest.mock.patch.object(sys, "argv", ["mednextv2", *words]), contextlib.redirect_stdout(printed):
            mednextv2_main()
        return np.asarray(nib.load(masks / f"{image}_seg.nii.gz").dataobj)

    def _inference(self, when: str) -> np.ndarray:
        """Compare masks of the server with those of `mednextv2 predict`."""
        for image in (self.names[0], self.image):
            mask = self.server.infer(NAME, image, self.folder / "mask.nii.gz")
            files = (self.folder / "mask.nii.gz", self.studies / f"{image}.nii.gz")
            there, here = (nib.load(file).affine for file in files)
            assert np.allclose(there, here, atol=1e-5), (there, here)
            wanted = self._predict(NAME, image)
            assert mask.shape == wanted.shape
            assert (mask == wanted).all(), (mask != wanted).sum()
            say("inference", f"{when}: all {mask.size} voxels of {image} as mednextv2 predict gives them")
        return mask

    def _options(self) -> None:
        mask = self.server.infer(NAME, self.image, self.folder / "mask.nii.gz", overlap=0.25, mirroring=False)
        wanted = self._predict(NAME, self.image, "--overlap", "0.25", "--test_mirror_axes", "[]")
        default = self._predict(NAME, self.image)
        assert (mask == wanted).all()
        assert (mask != default).any()
        say("options", f"overlap and mirroring are taken: {(mask != default).sum()} voxels differ from the default's")

    def _regions(self) -> None:
        mask = self.server.infer(REGIONS, self.image, self.folder / "mask.nii.gz")
        wanted = self._predict(REGIONS, self.image)
        assert (mask == wanted).all()
        assert set(np.unique(mask)) == {0, 1, 2}, np.unique(mask)
        say("regions", f"painted as in our masks; voxels with 0, 1 and 2: {np.bincount(mask.astype(int).ravel())}")

    def _too_early(self) -> None:
        answer = self.server.train(NAME)
        assert answer.status_code == 500, answer.text
        assert "lists no case to train on" in self.log.read_text(encoding="utf-8")
        say("training", "refused before any label was submitted")

    def _active_learning(self) -> None:
        for strategy in ("first", "random"):
            answer = requests.post(f"{self.server.url}/activelearning/{strategy}", json={}, timeout=60)
            assert answer.ok, answer.text
            assert answer.json()["id"] in self.names
            say("active learning", f"{strategy} proposes {answer.json()['id']}")
        for name in self.names[:LABELLED]:
            self.server.submit(name, self.data / "labelsTr" / f"{name}.nii.gz")
        submitted = self.server.get("datastore/", output="train")
        assert sorted(Path(item["image"]).name for item in submitted) == [f"{n}.nii.gz" for n in self.names[:LABELLED]]
        answer = requests.post(f"{self.server.url}/activelearning/first", json={}, timeout=60)
        assert answer.json()["id"] == self.names[LABELLED], answer.text
        say("active learning", f"{LABELLED} labels were submitted, and first now proposes {answer.json()['id']}")

    def _dice(self, mask: np.ndarray) -> float:
        truth = np.asarray(nib.load(self.data / "labelsTr" / f"{self.image}.nii.gz").dataobj)
        scores = [2 * ((mask == v) & (truth == v)).sum() / ((mask == v).sum() + (truth == v).sum()) for v in (1, 2)]
        return float(np.mean(scores))

    def _training(self, number: int) -> float:
        """Train once, and return the Dice of the new weights on an image whose label was not submitted."""
        models = self.app / "model" / NAME / "models"
        before, backups = (models / "model.pt").read_bytes(), set(models.glob("replaced_*/model.pt"))
        started = time.monotonic()
        answer = self.server.train(NAME)
        assert answer.ok, answer.text
        seconds = time.monotonic() - started
        new = set(models.glob("replaced_*/model.pt")) - backups
        assert len(new) == 1, new
        assert new.pop().read_bytes() == before != (models / "model.pt").read_bytes()
        about = read_about(models / "model.pt")
        assert about["epochs"] == TRAINING["max_epochs"]
        assert len(about["training"]) == LABELLED * 2 // 3
        assert about["pretrained"]["file"] == "model.pt"
        log = (models.parent / "output" / "given_cases" / "training_log.csv").read_text(encoding="utf-8").splitlines()
        rate = log[0].split(",").index("learning_rate")
        rates = [float(line.split(",")[rate]) for line in log[1:]]
        assert len(rates) == TRAINING["max_epochs"]
        assert rates == sorted(rates, reverse=True), rates
        say(
            "training",
            f"number {number} took {seconds:.0f} s, with the learning rates {rates}; the old weights are kept",
        )
        dice = self._dice(self._inference(f"after training {number}"))
        say("training", f"mean Dice of {self.image}, whose label was not submitted: {dice:.4f}")
        return dice

    def _worse_weights(self) -> None:
        """A training with a learning rate that is far too large is worse, so that the weights stay."""
        weights = self.app / "model" / NAME / "models" / "model.pt"
        before = weights.read_bytes()
        answer = self.server.train(NAME, max_epochs=1, learning_rate=0.5, iterations_per_epoch=5)
        assert weights.read_bytes() == before, answer.text
        text = self.log.read_text(encoding="utf-8")
        assert "The weights stay as they are" in text or "infinite or NaN" in text
        say("training", "of worse weights: those that are served stay")


def say(step: str, text: str) -> None:
    """Print a line of the log."""
    print(f"[{time.strftime('%H:%M:%S')}] {step}: {text}", flush=True)


def main() -> None:
    """Run the check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--env", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Check(given.data.resolve(), given.env.resolve(), given.port, given.log, Path(folder)).run()


if __name__ == "__main__":
    main()
