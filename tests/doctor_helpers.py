"""What the tests of `mednextv2 doctor` share."""

import trial_standin as standin

from mednextv2.ops import _trial_worker_pool as children
from mednextv2.ops import native
from mednextv2.ops._trial_store import Verdict


def rows(text):
    """The lines of a table, whatever the width of its columns."""
    return [" ".join(line.split()) for line in text.splitlines()]


def install_gpu(monkeypatch, tmp_path):
    """Install a GPU whose kernels are right but for those of 32 channels; return the list of what was tried."""
    standin.install(monkeypatch.setattr)
    monkeypatch.setenv(native.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(native, "load", lambda: native.Outcome(native.State.LOADED, "AVX2"))
    cases = []

    def try_all(found, job, number):
        for case in found:
            cases.append(case)
            wrong = case.channels == 32 and not case.transposed
            yield case, Verdict("wrong", "gave other numbers") if wrong else Verdict("passed")

    monkeypatch.setattr(children, "try_all", try_all)
    return cases
