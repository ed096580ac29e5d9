"""The workflow files of a packed bundle: they find the package beside them, and have equal twins in JSON.

MONAI runs import statements of a configuration before anything else, and keeps a failure for good. In a pack, functions
of the package are therefore no imports but items of the configuration. These items, and all components of the package,
require the item `package`, which makes sure first that the package can be imported.
"""

import json
import re
from pathlib import Path

from mednextv2.text_files import parse_yaml

_IMPORTS = re.compile(r"^imports: (\[[^\]]*\])\n", re.MULTILINE)
_FUNCTION = re.compile(r"\$from (mednextv2[\w.]*) import (\w+)")
_NEEDED = ("$import sys", "$import inspect", "$from importlib.util import find_spec")
# Where the package is: the folder of the bundle, or for callers that do not name it, such as monai.bundle.load, the
# folder above that of the configuration files, which MONAI's workflow knows.
_PACKAGE = """\
# The package mednextv2 is in the folder of this bundle; it is used where none is installed.
package_places: "$[@bundle_root] + [str(i.frame.f_locals['self'].config_root_path.parent) for i in inspect.stack(0) \
if isinstance(i.frame.f_locals.get('self'), monai.bundle.ConfigWorkflow)]"
package: "$'installed' if getattr(find_spec('mednextv2'), 'origin', None) else sys.path.append(os.path.abspath(\
([p for p in @package_places if os.path.isfile(os.path.join(p, 'mednextv2', '__init__.py'))] + [@bundle_root])[0])) \
or 'in the bundle'"
functions:                                 # of the package, for the expressions below
"""


def self_contained(text: str) -> str:
    """Return a workflow file that also runs where the package is only in the folder of the bundle.

    Args:
        text: The YAML text of a workflow or of an overlay.
    """
    if found := _IMPORTS.search(text):
        statements = parse_yaml(found[1], "imports")
        functions = {match[2]: match[1] for s in statements if (match := _FUNCTION.fullmatch(s))}
        kept = [s for s in statements if not _FUNCTION.fullmatch(s)]
        assert not any("mednextv2" in statement for statement in kept), "imports: write $from MODULE import NAME"
        rest = text[found.end() :]
        for name in functions:
            rest = re.sub(rf"(?<![\w.:@]){name}(?=\()", f"@functions::{name}", rest)
        items = [f"  {name}: {{_target_: {module}.{name}, _mode_: callable}}\n" for name, module in functions.items()]
        imports = f"imports: {json.dumps([*kept, *(s for s in _NEEDED if s not in kept)])}\n"
        text = text[: found.start()] + imports + _PACKAGE + "".join(items) + rest
    text = text.replace("{_target_: mednextv2.", '{_requires_: "@package", _target_: mednextv2.')
    return re.sub(r"^initialize:\n", 'initialize:\n- "$@package"\n', text, flags=re.MULTILINE)


def as_json(text: str, name: str) -> str:
    """Return the twin of a YAML file: the same content as JSON.

    Args:
        text: The YAML text.
        name: The name of the file, for messages.
    """
    return json.dumps(parse_yaml(text, name), indent=4, ensure_ascii=False) + "\n"


def workflow_files(built: dict[str, str]) -> dict[str, str]:
    """Return the files of a bundle as they are packed.

    Args:
        built: The generated files: see :func:`mednextv2.bundle.build.build_bundle`.

    Returns:
        All of them, the workflows as :func:`self_contained` returns them, each with its twin.
    """
    files = dict(built)
    for path, text in built.items():
        if Path(path).suffix == ".yaml" and Path(path).parts[0] == "configs":
            files[path] = self_contained(text)
            files[str(Path(path).with_suffix(".json"))] = as_json(files[path], path)
    return files
