import pytest
from collection_files import collection, two_folders, write

from mednextv2.data.collection_entries import is_collection, read_collection_file
from mednextv2.errors import InputError

LABELS = {1: "spleen"}


@pytest.fixture
def data(tmp_path):
    for name in ("a", "b", "c"):
        two_folders(tmp_path / "data" / name, ["x", "y"], 1)
    return tmp_path


def test_the_four_lines_and_the_defaults(data):
    file = write(data / "c.yaml", "datasets:\n- root: data/a\n  labels: {1: spleen}\n")
    found = read_collection_file(file)
    (entry,) = found.entries
    assert (entry.name, entry.root.resolve(), entry.layout) == ("a", data / "data" / "a", "dataset")
    assert (entry.strict, entry.may_be_empty, entry.annotates, entry.patients, entry.cases) == (
        True,
        False,
        *[None] * 3,
    )
    assert (found.sampling, found.overlaps) == ("square_root", {})
    assert is_collection(file)
    assert not is_collection(data)


def test_roots_are_relative_to_the_file_absolute_or_from_the_environment(data, monkeypatch):
    monkeypatch.setenv("WHERE", str(data / "data"))
    monkeypatch.chdir("/")
    entries = [{"root": root, "labels": LABELS} for root in ("../data/a", "$WHERE/b", "${WHERE}/c")]
    found = read_collection_file(collection(data / "lists" / "c.yaml", *entries))
    assert [entry.root.resolve() for entry in found.entries] == [data / "data" / name for name in "abc"]


def test_a_pattern_stands_for_several_data_sets(data):
    given = {"root": "data/[ab]*", "labels": LABELS, "leave_out": ["a"]}
    found = read_collection_file(collection(data / "c.yaml", given, {"root": "data/c", "labels": LABELS}))
    assert [entry.name for entry in found.entries] == ["b", "c"]


def test_every_option_is_read(data):
    write(data / "left.txt", "x\n\n other \n")
    given = {
        "root": "data/a", "name": "first", "labels": LABELS, "annotates": ["spleen", "liver"], "layout": "dataset",
        "other_values": "background", "empty_cases": "keep", "patients": "(.)", "leave_out": "left.txt",
    }  # fmt: skip
    other = {"root": "data/b", "labels": LABELS, "cases": [{"image": "i.nii", "label": "l.nii", "name": "n"}]}
    overlaps = {"first": ["Dataset017_BTCV"]}
    found = read_collection_file(collection(data / "c.yaml", given, other, sampling="uniform", overlaps=overlaps))
    first, second = found.entries
    assert (first.strict, first.may_be_empty, first.patients) == (False, True, "(.)")
    assert first.leave_out == {"x", "other"}
    assert not first.must_exist
    assert second.cases == (other["cases"][0],)
    assert (found.sampling, found.overlaps) == ("uniform", {"first": ("Dataset017_BTCV",)})
    weights = {"first": 3, "b": 0.5}
    assert read_collection_file(collection(data / "c.yaml", given, other, sampling=weights)).sampling == weights


A = {"root": "data/a", "labels": LABELS}


def test_an_overlap_of_no_data_set_is_told(data, caplog):
    given = {"root": "a", "labels": LABELS}
    read_collection_file(collection(data / "c.yaml", {**given, "root": "data/a"}, overlaps={"a": ["X"], "b": ["X"]}))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        f"{data / 'c.yaml'}: overlaps names b, which is no data set of this collection, so that its line has no effect"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("datasets: [", r"c\.yaml: is not valid YAML.*line"),
        ("[]", "should have the key datasets"),
        ({"datasets": []}, "datasets should be a list"),
        ({"dataset": [A]}, "'dataset' is no key of a collection; did you mean datasets?"),
        ({"datasets": [A], "x": 1}, "'x' is no key of a collection; the keys are datasets, sampling, overlaps"),
        ({"datasets": ["a"]}, "data set 1: should have root and labels, not 'a'"),
        ({"datasets": [{**A, "lables": 1}]}, "data set 1: 'lables' is no key of a collection; did you mean labels?"),
        (
            {"datasets": [{"root": "data/a"}]},
            "data set 1: lacks labels, what its values mean, such as {1: spleen, 2: liver}",
        ),
        ({"datasets": [{"name": "n", "labels": LABELS}]}, "data set n: lacks root, the folder of the data set"),
        ({"datasets": [{**A, "labels": {}}]}, "data set 1: labels should have"),
        ({"datasets": [{**A, "root": 3}]}, "root should be a text of one line, not 3"),
        ({"datasets": [{**A, "name": "a/b"}]}, "the name 'a/b' cannot be part of a file's name"),
        ({"datasets": [{**A, "layout": "bids"}]}, "layout 'bids' should be dataset or cads or totalsegmentator"),
        ({"datasets": [{**A, "other_values": "x"}]}, "other_values 'x' should be error or background"),
        ({"datasets": [{**A, "empty_cases": "x"}]}, "empty_cases 'x' should be error or keep"),
        ({"datasets": [{**A, "patients": "("}]}, r"patients \(: is not a regular expression"),
        ({"datasets": [{**A, "annotates": "spleen"}]}, "annotates should be a list of structures"),
        ({"datasets": [{**A, "leave_out": [[]]}]}, "leave_out should be a list of names"),
        ({"datasets": [{**A, "leave_out": "no.txt"}]}, r"no\.txt: there is no such file"),
        ({"datasets": [{**A, "cases": []}]}, "cases should be a list of cases"),
        ({"datasets": [{**A, "cases": [{"image": "i.nii"}]}]}, "cases should be a list of cases, such as"),
        ({"datasets": [{**A, "root": "data/none"}]}, "root .*data/none: there is no such folder; correct root"),
        ({"datasets": [{**A, "root": "data/*z"}]}, r"root .*data/\*z: there is no such folder"),
        ({"datasets": [{**A, "root": "c.yaml"}]}, "is a file, not a folder"),
        ({"datasets": [{**A, "root": "$NO_SUCH_VARIABLE/a"}]}, "no environment variable NO_SUCH_VARIABLE; set it"),
        ({"datasets": [{**A, "root": "data/*", "name": "n"}]}, "name and cases are for one folder"),
        ({"datasets": [{**A, "root": "data/*", "leave_out": ["a", "b", "c"]}]}, "leave_out names all folders"),
        ({"datasets": [A, {**A, "name": "again"}]}, "data/a is listed twice, as a and again"),
        ({"datasets": [A, {**A, "root": "data/b", "name": "A"}]}, "two data sets are called A"),
        ({"datasets": [A], "sampling": "log"}, "sampling should be square_root, proportional, uniform, or a weight"),
        ({"datasets": [A], "sampling": {"b": 1}}, r"sampling should be .* each data set \(a\)"),
        ({"datasets": [A], "sampling": {"a": 0}}, "sampling should be"),
        ({"datasets": [A], "sampling": {"a": "x"}}, "sampling should be"),
        ({"datasets": [A], "overlaps": ["a"]}, "overlaps should name"),
    ],
)
def test_wrong_files_are_refused(data, content, message):
    file = write(data / "c.yaml", content)
    with pytest.raises(InputError, match=message):
        read_collection_file(file)


def test_a_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: there is no such file; give the collection file"):
        read_collection_file(tmp_path / "none.yaml")
