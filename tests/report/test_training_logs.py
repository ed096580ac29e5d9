"""Logs of trainings, alone and joined."""

import numpy as np
import pytest

from mednextv2.errors import InputError
from mednextv2.report.training_logs import read_training

FIRST = "epoch,learning_rate,train_loss,steps,seconds,val_ema_dice\n1,1e-3,0.9,10,5.0,0.1\n2,1e-3,0.8,20,11.5,0.2\n"
SECOND = "epoch,learning_rate,train_loss,steps,seconds,val_ema_dice\n1,1e-3,0.7,4,3,\n2,1e-3,0.6,8,6,0.4\n"
OLD = "epoch,learning_rate,train_loss,val_ema_dice\n1,0.1,0.9,0.5\n2,0.1,0.6,0.6\n"


def make(folder, text, first=None):
    folder.mkdir(parents=True)
    (folder / "training_log.csv").write_text(text)
    if first is not None:
        make(folder / "kernel_3", first)
    return folder


def test_a_training_goes_on_from_the_one_with_smaller_kernels(tmp_path):
    training = read_training(make(tmp_path / "upkern" / "fold_0", SECOND, FIRST))
    assert training.name == "upkern/fold_0"
    assert training.joints == [(2, "kernel 3")]
    log = training.log
    assert log["epoch"].tolist() == [1, 2, 3, 4]
    assert log["steps"].tolist() == [10, 20, 24, 28]
    assert log["seconds"].tolist() == [5.0, 11.5, 14.5, 17.5]
    assert log["train_loss"].tolist() == [0.9, 0.8, 0.7, 0.6]
    np.testing.assert_array_equal(log["val_ema_dice"], [0.1, 0.2, np.nan, 0.4])


@pytest.mark.parametrize("name", [None, "mine"])
def test_a_training_alone_is_as_it_is_logged(name, tmp_path):
    folder = make(tmp_path / "models" / "fold_1", SECOND)
    for place in (folder, folder / "training_log.csv"):
        training = read_training(place, name)
        assert training.name == (name or "models/fold_1")
        assert training.joints == []
        assert training.log["steps"].tolist() == [4, 8]


def test_what_was_not_logged_is_not_known(tmp_path):
    training = read_training(make(tmp_path / "fold_0", OLD, FIRST))
    assert training.log["epoch"].tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(training.log["steps"], [10, 20, np.nan, np.nan])


def test_a_folder_without_a_log_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no training_log\.csv; give the folder of a training"):
        read_training(tmp_path)
