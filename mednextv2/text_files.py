"""Safe reading of a user's JSON and YAML files: with limits on time and memory, and without running code.

The libraries' own readers keep the last of two equal keys, read NaN and numbers of any length, follow aliases that
expand endlessly, and end with a RecursionError for deep nesting. Here, each of these is one `InputError` that names the
file and the place.
"""

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mednextv2.errors import InputError
from mednextv2.wording import brief

MAX_JSON_BYTES = 50 * 2**20
MAX_YAML_BYTES = 2**20  # PyYAML reads about 100 kB per second
MAX_DEPTH = 50
MAX_EXPANDED = 5000  # largest number of entries of a YAML file that come from aliases
_MAX_DIGITS = 20  # digits of whole numbers: 2**64 has 20
_MAX_FRACTION = 40  # characters of other numbers; 17 digits are all that Python can store
_CORRECT = "correct it"
_MERGE = "tag:yaml.org,2002:merge"
_BRACKET = re.compile(r'["\\\[\]{}]')


class _RefusedError(ValueError):
    """Something in a file that is refused; the message says what and where."""


class _NumberError(yaml.MarkedYAMLError):
    """A number in a YAML file that is refused."""


def read_text(path: str | os.PathLike, limit: int = MAX_JSON_BYTES, advice: str = "") -> str:
    r"""Read a text file.

    Args:
        path: The file.
        limit: The largest number of bytes that it may have.
        advice: Advice for the message if it cannot be read.

    Returns:
        The text, with `\n` at the ends of lines and without a byte order mark.

    Raises:
        InputError: If the file is missing, not an ordinary file, too large, or not UTF-8.
    """
    path = Path(path)
    otherwise = f", or {advice}" if advice else ""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is a folder or a device, not a file; give a text file{otherwise}")
        with path.open("rb") as f:
            content = f.read(limit + 1)
    except FileNotFoundError as e:
        raise InputError(f"{path}: there is no such file{f'; {advice}' if advice else ''}") from e
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror or e}); change its permissions{otherwise}") from e
    if len(content) > limit:
        raise InputError(
            f"{path}: has {status.st_size / 2**20:.1f} MiB, where at most {limit / 2**20:g} MiB are read; is it the "
            f"right file? Give another one{otherwise}"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise InputError(
            f"{path}: is not UTF-8 (line {line}, byte {e.start}); save it again in an editor with the encoding "
            f"UTF-8{otherwise}"
        ) from e
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | os.PathLike, advice: str = _CORRECT) -> Any:
    """Read a JSON file.

    Args:
        path: The file, in UTF-8 with or without a byte order mark.
        advice: Advice for the message if it cannot be used.

    Returns:
        The content of the file. No object in it has a key twice, every number is finite and of a sensible length, and
        every text can be printed and be part of a path.

    Raises:
        InputError: If the file cannot be read, is not JSON, or breaks one of these rules.
    """
    path = Path(path)
    text = read_text(path, advice="" if advice == _CORRECT else advice)
    try:
        _check_depth(text)
        content = json.loads(
            text,
            object_pairs_hook=_without_double_keys,
            parse_constant=lambda word: _refuse_number(text, word),
            parse_int=lambda digits: _whole_number(text, digits),
            parse_float=lambda digits: _fraction(text, digits),
        )
        _check_texts(content)
    except json.JSONDecodeError as e:
        raise InputError(f"{path}: is not valid JSON: {e.msg} (line {e.lineno}, column {e.colno}); {advice}") from e
    except _RefusedError as e:
        raise InputError(f"{path}: {e}; {advice}") from e
    return content


def parse_yaml(text: str, name: str | os.PathLike, first_line: int = 1) -> Any:
    """Read one YAML document.

    Args:
        text: The document.
        name: The file with the document, which messages name.
        first_line: The number of its first line in that file.

    Returns:
        The content: texts, numbers, truth values, None, dates, and lists and mappings of them; texts and numbers follow
        the rules of :func:`read_json`.

    Raises:
        InputError: If the text is not YAML, has tags, a key twice, or numbers that are not finite or absurdly long, is
            nested deeper than `MAX_DEPTH`, or has aliases that contain themselves or expand to more than `MAX_EXPANDED`
            entries.
    """
    if len(text) > MAX_YAML_BYTES:
        raise InputError(f"{name}: has more than {MAX_YAML_BYTES} characters of YAML; is it the right file?")
    try:
        loader = _Loader(text)
        try:
            content = loader.get_single_data()
        finally:
            loader.dispose()
        _check_texts(content)
    except _RefusedError as e:
        raise InputError(f"{name}: {e}; correct it") from e
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        place = f" (line {mark.line + first_line}, column {mark.column + 1})" if mark else ""
        key = _key_above(text, mark.line) if mark and isinstance(e, _NumberError) else "is not valid YAML"
        raise InputError(f"{name}: {key}: {e.problem or e.context}{place}; correct it") from e
    except (yaml.YAMLError, ValueError) as e:  # raised by characters that YAML forbids and dates such as 2024-99-99
        raise InputError(f"{name}: is not valid YAML: {' '.join(str(e).split())[:200]}; correct it") from e
    return content


def _key_above(text: str, line: int) -> str:
    """Return the key at the left margin to which a line belongs."""
    rows = text.split("\n")[line::-1]
    return next((found[1] for row in rows if (found := re.match(r"([\w-]+) *:", row))), "is not valid YAML")


def _check_depth(text: str) -> None:
    depth, in_text, skip = 0, False, -1
    for match in _BRACKET.finditer(text):
        character, at = match[0], match.start()
        if at == skip:  # after a backslash
            continue
        if character == "\\":
            skip = at + 1
        elif character == '"':
            in_text = not in_text
        elif not in_text:
            depth += 1 if character in "[{" else -1
            if depth > MAX_DEPTH:
                raise _RefusedError(f"is nested more than {MAX_DEPTH} levels deep ({_line(text, at)})")


def _line(text: str, at: int) -> str:
    return f"line {text.count(chr(10), 0, at) + 1}"


def _without_double_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _RefusedError(f"the key {brief(key)} stands twice, beside {', '.join(map(brief, list(content)[:3]))}")
        content[key] = value
    return content


def _refuse_number(text: str, number: str) -> Any:
    found = re.search(rf"(?<![\w.+-]){re.escape(number)}(?![\w.+-])", text)
    place = f" ({_line(text, found.start())})" if found else ""
    raise _RefusedError(f"{brief(number)} is no number that can be used{place}")


def _whole_number(text: str, digits: str) -> int:
    return int(digits) if len(digits.lstrip("-")) <= _MAX_DIGITS else _refuse_number(text, digits)


def _fraction(text: str, digits: str) -> float:
    if len(digits) > _MAX_FRACTION or not math.isfinite(number := float(digits)):
        return _refuse_number(text, digits)
    return number


def _check_texts(content: Any) -> None:
    """Refuse texts that cannot be in a file name or a message: halves of characters (surrogates), and NUL."""
    for text in _texts(content):
        try:
            text.encode("utf-8", "surrogateescape")  # file names may have bytes that are not UTF-8
        except UnicodeEncodeError:
            broken = True
        else:
            broken = "\0" in text
        if broken:
            raise _RefusedError(f"the text {text[:60]!a} has a character that no text has")


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(content, list):
        for part in content:
            yield from _texts(part)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses while it composes nodes, before objects are made from them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._entries = self._expanded = 0
        self._sizes: dict[str, int] = {}  # number of entries of each complete anchored node, with its aliases

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._count_alias(event)
            return super().compose_node(parent, index)
        if event.tag is not None:
            raise yaml.MarkedYAMLError(problem=f"the tag {brief(event.tag)} is not read", problem_mark=event.start_mark)
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"it is nested more than {MAX_DEPTH} levels deep", problem_mark=event.start_mark
            )
        before = self._entries
        self._entries += 1
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._entries - before
        return node

    def _count_alias(self, event: yaml.AliasEvent) -> None:
        size = self._sizes.get(event.anchor, 0)
        if not size and event.anchor in self.anchors:
            problem = f"the alias *{event.anchor} stands inside of what it names"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self._entries += size
        self._expanded += size
        if self._expanded > MAX_EXPANDED:
            problem = f"its aliases expand to more than {MAX_EXPANDED} entries"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == _MERGE:  # a key beside it replaces one in the merged mapping
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict)):
                raise yaml.MarkedYAMLError(
                    problem="a key is a list or a mapping, where a name is expected", problem_mark=key_node.start_mark
                )
            if key in seen:
                problem = f"the key {brief(key)} stands twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: Any) -> int | float:
        """Turn a node into a whole number or a fraction, if it can be used."""
        whole = node.tag.endswith(":int")
        if len(node.value) <= (_MAX_DIGITS + 1 if whole else _MAX_FRACTION):
            number = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
            if math.isfinite(number):
                return number
        raise _NumberError(problem=f"{brief(node.value)} is no number that can be used", problem_mark=node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)
