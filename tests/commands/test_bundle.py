"""`mednextv2 bundle`: what it says about the files that it writes."""

import shutil

from bundle_helpers import HIPPOCAMPUS
from dataset_helpers import make_nnunet
from verb_helpers import call_verb, planned, refusal


def test_bundle_says_what_it_wrote_and_what_is_out_of_date(tumour, tmp_path):
    planned(tumour, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    task = tmp_path / "mednextv2_x" / "task.yaml"
    message = refusal("bundle", task, "--check")
    assert "not up to date: configs/train.yaml" in message
    assert not (task.parent / "configs").exists()
    code, out, _ = call_verb("bundle", task)
    assert code == 0
    assert "written: configs/train.yaml" in out
    assert call_verb("bundle", task)[1].strip() == "all files are up to date"
    assert call_verb("bundle", task, "--check")[0] == 0


def test_mirroring_of_left_and_right_that_a_user_switches_on_is_warned_of(tmp_path):
    folder = make_nnunet(tmp_path / "data", {"background": 0, "kidney_left": 1, "kidney_right": 2}, None)
    planned(folder, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    task = tmp_path / "mednextv2_x" / "task.yaml"
    assert "warning" not in call_verb("bundle", task)[1]
    task.write_text(task.read_text().replace("mirror_axes: [1, 2]", "mirror_axes: [0, 1, 2]"))
    for _ in range(2):  # also when nothing changes
        _, out, _ = call_verb("bundle", task)
        assert "warning: mirror_axes [0, 1, 2]: axis 0 swaps left and right, and with them kidney_left and" in out
        assert "Without it: mirror_axes: [1, 2]" in out


def test_a_task_that_cannot_be_built_ends_in_one_message_and_no_file(tmp_path):
    (tmp_path / "mednextv2_x").mkdir()
    task = tmp_path / "mednextv2_x" / "task.yaml"
    assert refusal("bundle", task) == f"error: {task}: there is no such file\n"
    task.write_text((HIPPOCAMPUS / "task.yaml").read_text().replace("variant: v2_tiny", "variant: v3"))
    assert refusal("bundle", task).startswith(f"error: {task}: variant v3 is none of ")
    assert [p.name for p in task.parent.iterdir()] == ["task.yaml"]


def test_the_folder_of_a_bundle_stands_for_its_task(tmp_path):
    shutil.copytree(HIPPOCAMPUS, tmp_path / "mednextv2_hippocampus", ignore=shutil.ignore_patterns("models", "output"))
    code, out, err = call_verb("bundle", tmp_path / "mednextv2_hippocampus", "--check")
    assert (code, out.strip(), err) == (0, "all files are up to date", "")


def test_several_bundles_are_built_at_once_and_named(tumour, tmp_path):
    for name in ("mednextv2_x", "mednextv2_y"):
        planned(tumour, tmp_path / name, "--variant", "v2_tiny")
    tasks = [tmp_path / "mednextv2_x" / "task.yaml", tmp_path / "mednextv2_y"]
    message = refusal("bundle", *tasks, "--check")
    assert [line.split(": not up to date")[0].removeprefix("error: ") for line in message.splitlines()] == [
        str(tasks[0]), str(tasks[1] / "task.yaml"),
    ]  # fmt: skip
    code, out, _ = call_verb("bundle", *tasks)
    assert code == 0
    assert "written: mednextv2_x/configs/train.yaml" in out
    assert "written: mednextv2_y/configs/train.yaml" in out
    assert call_verb("bundle", *tasks, "--check")[1].strip() == "all files are up to date"


def test_of_several_tasks_none_is_built_if_one_cannot_be_read(tumour, tmp_path):
    planned(tumour, tmp_path / "mednextv2_x", "--variant", "v2_tiny")
    message = refusal("bundle", tmp_path / "mednextv2_x", tmp_path / "none.yaml")
    assert message == f"error: {tmp_path / 'none.yaml'}: there is no such file\n"
    assert not (tmp_path / "mednextv2_x" / "configs").exists()
