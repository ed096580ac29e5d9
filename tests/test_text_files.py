import json
import os
import time

import pytest

from mednextv2.errors import InputError
from mednextv2.text_files import MAX_DEPTH, MAX_EXPANDED, parse_yaml, read_json, read_text


def refused(read, *arguments) -> str:
    """Return the message of a refusal, which is one short line."""
    with pytest.raises(InputError) as caught:
        read(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def as_file(tmp_path, content):
    file = tmp_path / "given.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    "content",
    [
        {"a": [1, -2.5, None, True, 'ä [ { " \\ ] }'], "b": {"c": "\n"}},
        [1e-300, 2**64 - 1, -(2**63), 0.1 + 0.2],
        "text",
        json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_json_writes_is_read(tmp_path, content, mark):
    for ascii_only in (True, False):
        assert read_json(as_file(tmp_path, mark + json.dumps(content, ensure_ascii=ascii_only))) == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than 50 levels deep (line 1)"),
        ('{"a":\n' * 30_000, "levels deep (line 51)"),
        ('{"a": 1, "b": {"x": 1, "y": 2, "x": 3}}', "the key 'x' stands twice, beside 'x', 'y'"),
        ('{"a": 1,\n"b": NaN}', "'NaN' is no number that can be used (line 2)"),
        ("[-Infinity]", "'-Infinity' is no number"),
        ("[1, 1e999]", "'1e999' is no number"),
        ("[" + "9" * 5000 + "]", "is no number that can be used (line 1)"),
        ("[0." + "3" * 100 + "]", "is no number that can be used"),
        ('["a\\ud800"]', "has a character that no text has"),
        ('{"a\\u0000b": 1}', "has a character that no text has"),
        ('{"a": }', "is not valid JSON: Expecting value (line 1, column 7)"),
        ("", "is not valid JSON"),
        ('{"a": "\\"}', "is not valid JSON"),
        ('["one"]'.encode("utf-16"), "is not UTF-8 (line 1, byte 0)"),
        (b'{\n"a": "\xe4"}', "is not UTF-8 (line 2, byte 8)"),
    ],
)
def test_json_that_has_no_sense_is_refused_with_its_place(tmp_path, content, words):
    file = as_file(tmp_path, content)
    message = refused(read_json, file)
    assert message.startswith(f"{file}: ")
    assert words in message


def test_the_advice_of_the_caller_is_given(tmp_path):
    assert refused(read_json, as_file(tmp_path, "["), "plan it again").endswith("; plan it again")
    assert refused(read_json, as_file(tmp_path, "[NaN]"), "plan it again").endswith("; plan it again")


def test_files_that_are_large_or_none_are_not_read(tmp_path, monkeypatch):
    assert "there is no such file" in refused(read_json, tmp_path / "missing.json")
    assert "not a file" in refused(read_json, tmp_path)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    assert "not a file" in refused(read_json, tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as f:
        f.truncate(2**40)
    assert "has 1048576.0 MiB, where at most 50 MiB are read" in refused(read_text, tmp_path / "large")


def test_line_ends_of_all_systems_are_read(tmp_path):
    assert read_text(as_file(tmp_path, b"\xef\xbb\xbfa\r\nb\rc\n")) == "a\nb\nc\n"


def test_a_text_without_an_end_takes_no_longer_than_its_length(tmp_path):
    start = time.process_time()
    assert "is not valid JSON" in refused(read_json, as_file(tmp_path, '["' + '\\"[' * 700_000))
    assert time.process_time() - start < 10


def test_yaml_is_read_with_aliases_and_merged_keys():
    text = "a: &x {k: 1, l: [1.5, no, null, 2024-01-02]}\nb: *x\nc: {<<: *x, k: 2}\nd: 'x # y'\n"
    content = parse_yaml(text, "task.yaml")
    assert content["a"] == content["b"] == {"k": 1, "l": [1.5, False, None, content["a"]["l"][3]]}
    assert content["c"] == {**content["a"], "k": 2}
    assert content["d"] == "x # y"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [x, *a]", "the alias *a stands inside of what it names (line 1, column 11)"),
        ("a: 1\nb: &m\n  again: {deeper: *m}\n", "the alias *m stands inside"),
        ("a: *nothing", "found undefined alias 'nothing'"),
        ("a: " + "[" * 30_000, "nested more than 50 levels deep (line 1"),
        ("\n".join(" " * i + "a:" for i in range(200)), "nested more than 50 levels deep (line 51"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' stands twice (line 3, column 1)"),
        ("{1: x, true: y}", "the key True stands twice"),
        ("? [a]\n: b", "a key is a list or a mapping"),
        ("a: !!python/object/apply:os.getcwd []", "is not read (line 1, column 4)"),
        ("a: !!binary aGVsbG8=", "the tag"),
        ("a: .nan", "'.nan' is no number that can be used"),
        ("a: [-.inf]", "'-.inf' is no number"),
        ("a: 1.0e+999", "'1.0e+999' is no number"),
        ("a: " + "8" * 9000, "is no number that can be used (line 1, column 4)"),
        ("a: 2024-99-99", "is not valid YAML"),
        ("a: [1, 2", "is not valid YAML"),
        ("a: 1\n--- b", "another document"),
        ("a: \x07", "is not valid YAML"),
        ('a: "\\0"', "has a character that no text has"),
        ('a: "\\ud83d"', "has a character that no text has"),
        ("x" * 2**21, "is it the right file"),
    ],
)
def test_yaml_that_has_no_sense_is_refused_with_its_place(text, words):
    message = refused(parse_yaml, text, "task.yaml")
    assert message.startswith("task.yaml: ")
    assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("labels: [a]\nweight_decay: .inf\n", "weight_decay: '.inf' is no number that can be used (line 2, column 15)"),
        ("one: 1\npatch_size:\n- 16\n- .NaN\ntwo: 2\n", "patch_size: '.NaN' is no number that can be used (line 4"),
        ("normalization:\n- {scheme: clip,\n   low: 1.0e+400}\n", "normalization: '1.0e+400' is no number"),
        ("regions :\n  # high: 1\n  low:\n    - " + "9" * 60, "regions: '9999"),
        ("- 1\n- .nan\n", "is not valid YAML: '.nan' is no number"),
    ],
)
def test_a_number_that_cannot_be_used_is_named_with_its_key(text, words):
    assert refused(parse_yaml, text, "task.yaml").startswith(f"task.yaml: {words}")


def test_lines_are_counted_from_where_the_document_starts():
    assert "line 41" in refused(parse_yaml, "a: 1\na: 2\n", "task.yaml", 40)


@pytest.mark.parametrize("flow", ["[{}]", "{{{}}}"])
def test_aliases_that_multiply_are_counted_before_anything_is_made_of_them(flow):
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8]"]
    for level in range(1, 40):
        entries = (f"k{i}: *a{level - 1}" if "{{" in flow else f"*a{level - 1}" for i in range(8))
        lines.append(f"a{level}: &a{level} {flow.format(', '.join(entries))}")
    start = time.process_time()
    message = refused(parse_yaml, "\n".join(lines), "task.yaml")
    assert f"aliases expand to more than {MAX_EXPANDED} entries (line" in message
    assert time.process_time() - start < 2


def test_aliases_of_merged_keys_are_counted_too():
    merged = f"a: &a {{{', '.join(f'k{i}: 1' for i in range(600))}}}\nb: {{<<: [{', '.join(['*a'] * 20)}]}}"
    assert "aliases expand" in refused(parse_yaml, merged, "task.yaml")
