import json

from comparison_helpers import make_done

from mednextv2.comparison.budget import Schedule
from mednextv2.comparison.entries import Entry
from mednextv2.comparison.runs import Job, list_runs, read_job

A, B = Entry("a", {"variant": "a"}), Entry("a", {"variant": "a"}, "model.pt")


def test_every_network_has_the_first_seed_before_any_has_the_second(tmp_path):
    runs = list_runs(tmp_path, [A, B], [0, 2], [5, 6])
    assert [(r.entry is B, r.fold, r.seed) for r in runs] == [
        (False, 0, 5), (True, 0, 5), (False, 2, 5), (True, 2, 5),
        (False, 0, 6), (True, 0, 6), (False, 2, 6), (True, 2, 6),
    ]  # fmt: skip
    assert len({r.folder for r in runs}) == len({r.name for r in runs}) == 8
    assert runs[1].folder == tmp_path / "runs" / "a-finetuned" / "fold_0_seed_5"
    assert runs[1].name == "a, fine-tuned, fold 0, seed 5"


def test_a_run_is_done_when_its_outcome_says_so(tmp_path):
    (run,) = list_runs(tmp_path, [A], [0], [0])
    assert (run.outcome(), run.done) == ({}, False)
    run.folder.mkdir(parents=True)
    (run.folder / "outcome.json").write_text(json.dumps({"status": "failed", "reason": "x"}))
    assert not run.done
    assert make_done(tmp_path, "a", {"c": [0.5]}).done


def test_a_job_is_read_as_it_was_written(tmp_path):
    for schedule in (None, Schedule(3, 4), Schedule(3, 4, 5, 6)):
        job = Job(tmp_path / "run", "bundle", {"fold": 0, "patch_size": [16, 16, 16]}, {"overlap": 0.5}, 1.5, schedule)
        assert read_job(job.write()) == job
