"""The verb `predict`."""

from verb_helpers import call


def test_predict_keeps_freed_memory_for_its_process(monkeypatch, capsys):
    order = []
    monkeypatch.setattr("mednextv2.allocator.keep_freed_memory", lambda: order.append("keep"))
    monkeypatch.setattr("mednextv2.predict_files.predict_files", lambda *_, **__: order.append("predict") or ["a"])
    assert call(monkeypatch, capsys, "predict", "bundle", "a.nii.gz", "a_seg.nii.gz")[:2] == (0, "written: a\n")
    assert order == ["keep", "predict"]
