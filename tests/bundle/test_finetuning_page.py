"""What docs/finetuning.md shows: commands with options that exist, links that lead somewhere, values of the recipe."""

import inspect
import re
import shlex

import pytest
from bundle_helpers import HIPPOCAMPUS, ROOT

from mednextv2.bundle.overrides import override_problems
from mednextv2.bundle.run import read_workflow, workflow_files
from mednextv2.commands import VERBS
from mednextv2.commands.arguments import read_arguments

PAGE = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
LINES = [
    line.removeprefix("torchrun --standalone --nproc_per_node=4 -m ")
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.S)
    for line in block.replace("\\\n", " ").splitlines()
]
COMMANDS = [shlex.split(line, comments=True) for line in LINES if line.startswith("mednextv2 ")]


def config(workflow, network=None):
    return read_workflow(workflow_files(HIPPOCAMPUS, workflow.replace("upkern", "finetune"), network)).config


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c)[:80])
def test_commands_have_options_that_exist(command):
    verb = VERBS[command[1]]
    arguments = read_arguments(verb, command[2:])
    inspect.signature(verb).bind(**arguments)
    if command[1] == "run":
        settings = {
            k.removeprefix("first_"): v for k, v in arguments.items() if k not in ("bundle", "workflow", "network")
        }
        assert not override_problems(config(arguments["workflow"], arguments.get("network")), settings)


def test_monais_commands_have_settings_that_exist():
    lines = [line for line in LINES if line.startswith("python -m monai.bundle")]
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line)
        settings = {name[2:]: value for name, value in zip(words[4::2], words[5::2], strict=True)}
        settings.pop("config_file")
        assert not override_problems(config("finetune"), settings)


def test_every_option_that_the_page_names_exists():
    known = {*config("finetune"), *config("train"), "network", "nproc_per_node", "standalone"}
    known |= {
        name
        for verb in ("run", "curves", "report", "compare", "export")
        for name in inspect.signature(VERBS[verb]).parameters
    }
    known |= {f"first_{name}" for name in known} | {"config_file"}
    assert {*re.findall(r"--(\w+)", PAGE)} <= known | {"weights", "format"}


def test_links_within_the_page_lead_to_its_headings():
    headings = {
        re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^## (.*)$", PAGE, flags=re.M)
    }
    assert {*re.findall(r"\]\(#([\w-]+)\)", PAGE)} <= headings


def test_links_to_other_pages_lead_to_files():
    for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


@pytest.mark.parametrize(("network", "column"), [(None, 0), ("resenc_l", 1), ("plain_conv_unet", 1)])
def test_the_table_has_the_values_of_the_recipe(network, column):
    parser = read_workflow(workflow_files(HIPPOCAMPUS, "finetune", network))
    rows = dict(re.findall(r"^\| `--([^|]*?)` *(?:at its peak|, a linear[^|]*)? *\| (.*) \|$", PAGE, flags=re.M))
    epochs = parser.get_parsed_content("epochs")
    assert rows["epochs"].split(" | ")[column].split(";")[0] == str(epochs)
    (warm_up,) = re.findall(r"^\| `--warmup_epochs`[^|]*\| (.*) \|$", PAGE, flags=re.M)
    assert warm_up.split(" | ")[column].split(";")[0] == str(parser.get_parsed_content("warmup_epochs"))
    (optimizer,) = re.findall(r"^\| `--optimizer_name`[^|]*\| (.*) \|$", PAGE, flags=re.M)
    name, rate = optimizer.split(" | ")[column].split(", ")
    assert name.lower() == parser.get_parsed_content("optimizer_name")
    assert float(rate) == parser.get_parsed_content("learning_rate")
