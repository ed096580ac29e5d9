import pytest
import yaml
from delivery_helpers import HIPPOCAMPUS, content, copy_bundle, refused
from huggingface_hub import ModelCard
from test_full_disk import room_for

from mednextv2.bundle.task import read_task
from mednextv2.delivery.hugging_face import licence_identifier, model_card, write_repository
from mednextv2.delivery.manifest import verify

README = (HIPPOCAMPUS / "docs" / "README.md").read_text(encoding="utf-8")


def test_the_repository_has_the_bundle_and_a_card(packed):
    repository = packed / "huggingface" / "mednextv2_hippocampus"
    verify(repository, "here")
    assert (repository / "configs" / "inference.json").is_file()
    assert (repository / "models" / "model.pt").read_bytes() == (HIPPOCAMPUS / "models" / "model.pt").read_bytes()
    card = ModelCard.load(repository / "README.md")
    assert card.data.license == "cc-by-sa-4.0"  # of the data, and so of the weights
    assert card.data.library_name == "monai"
    assert card.data.pipeline_tag == "image-segmentation"
    assert "mr" in card.data.tags
    assert "## Inference" in card.text
    assert "--repo OWNER/mednextv2_hippocampus" in card.text


def test_a_full_disk_leaves_the_repository_of_before(packed, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "README.md").write_text("of before")
    task = read_task(HIPPOCAMPUS / "task.yaml")
    with room_for(5000):
        message = refused(write_repository, tmp_path / "x", task, {"docs/README.md": README.encode(), "a": b"x" * 9000})
    assert message.startswith(f"{tmp_path / 'x'}: cannot be written (File too large); make room")
    assert content(tmp_path) == {"x/README.md": b"of before"}


# the identifiers of https://huggingface.co/docs/hub/repositories-licenses
@pytest.mark.parametrize(
    ("licence", "identifier"),
    [
        ("CC-BY-SA 4.0", "cc-by-sa-4.0"),
        ("CC BY 4.0", "cc-by-4.0"),
        ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("CC BY-NC-SA 3.0", "cc-by-nc-sa-3.0"),
        ("CC-BY-NC-ND-4.0", "cc-by-nc-nd-4.0"),
        ("CC0", "cc0-1.0"),
        ("Apache-2.0", "apache-2.0"),
        ("MIT", "mit"),
        ("CC BY-NC-SA 4.0 for the data, MIT for the challenge's code", "other"),
        ("not stated", "other"),
        ("CC BY-NC-SA (version not stated by the repository)", "other"),
    ],
)
def test_licences_have_the_identifiers_of_the_host(licence, identifier):
    assert licence_identifier(licence) == identifier


def test_another_licence_is_named_and_linked(tmp_path):
    folder = copy_bundle(tmp_path / "mednextv2_x", texts={"data_license: CC-BY-SA 4.0": "data_license: ask us: first"})
    (folder / "task.yaml").write_text((folder / "task.yaml").read_text().replace("ask us: first", "'ask us: first'"))
    card = model_card(read_task(folder / "task.yaml"), README)
    facts = yaml.safe_load(card.split("---\n")[1])
    assert facts["license"] == "other"
    assert facts["license_link"] == "docs/data_license.txt"
    assert "Licence of the weights: ask us: first." in card


def test_weights_may_have_a_licence_of_their_own(tmp_path):
    text = "data_license: CC-BY-SA 4.0"
    folder = copy_bundle(tmp_path / "mednextv2_x", texts={text: f"{text}\nweights_license: MIT"})
    card = model_card(read_task(folder / "task.yaml"), README)
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"
    assert "Licence of the weights: MIT." in card
