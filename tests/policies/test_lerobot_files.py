"""LeRobot directories as far as they can be judged without LeRobot: which are taken, what is missing, what they may not name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from actlink import loading
from actlink.errors import ConfigError, MissingPackageError
from actlink.policies import _lerobot_files, lerobot
from actlink.policies._open import open_policy
from actlink.types import Runtime

PREPROCESSOR: dict[str, Any] = {
    "name": "policy_preprocessor",
    "steps": [
        {
            "registry_name": "rename_observations_processor",
            "config": {"rename_map": {"observation.images.a": "observation.images.b"}},
        },
        {"registry_name": "tokenizer_processor", "config": {"tokenizer_name": "somebody/words", "max_length": 8}},
        {"registry_name": "normalizer_processor", "config": {}, "state_file": "policy_preprocessor_step_2.safetensors"},
    ],
}
POSTPROCESSOR = {"name": "policy_postprocessor", "steps": [{"registry_name": "device_processor", "config": {"device": "cpu"}}]}
CONFIG: dict[str, Any] = {
    "type": "diffusion",
    "input_features": {"observation.state": {"type": "STATE", "shape": [2]}},
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
    "device": "cuda",
    "pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1",
    "vlm_model_name": "somebody/words",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with every file that a checkpoint has; its weights are not weights."""
    directory = tmp_path / "pretrained_model"
    directory.mkdir()
    for name, content in (("config", CONFIG), ("policy_preprocessor", PREPROCESSOR), ("policy_postprocessor", POSTPROCESSOR)):
        write(directory / f"{name}.json", content)
    for name in ("model.safetensors", "policy_preprocessor_step_2.safetensors"):
        (directory / name).write_bytes(b"not read here")
    return directory


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


class TestRecognition:
    def test_the_directory_and_the_run_it_lies_in(self, place: Path) -> None:
        run = place.parent / "run" / "checkpoints"
        (run / "000100").mkdir(parents=True)
        place.rename(run / "000100" / "pretrained_model")
        (run / "last").symlink_to("000100")
        for path in (run / "000100" / "pretrained_model", run / "000100", run.parent):
            assert lerobot.recognises(path), path
        assert not lerobot.recognises(run)

    def test_act_is_another_familys(self, place: Path) -> None:
        write(place / "config.json", {**CONFIG, "type": "act"})
        assert not lerobot.recognises(place)
        assert _lerobot_files.type_of(place) == "act"

    @pytest.mark.parametrize(
        "content",
        [{"model_type": "llama"}, {"type": "diffusion"}, {"type": 3, "input_features": {}}, [], "diffusion"],
        ids=["transformers", "no features", "a number", "a list", "a text"],
    )
    def test_another_programs_config(self, place: Path, content: object) -> None:
        write(place / "config.json", content)
        assert not lerobot.recognises(place)

    def test_no_json_at_all(self, place: Path) -> None:
        (place / "config.json").write_bytes(b"\xff{" + b"[" * 100_000)
        assert not lerobot.recognises(place)
        assert not lerobot.recognises(place / "config.json")


class TestHalfACheckpoint:
    def test_a_whole_one(self, place: Path) -> None:
        checkpoint = _lerobot_files.read(place)
        assert checkpoint.type == "diffusion"
        assert checkpoint.renames() == {"observation.images.a": "observation.images.b"}

    @pytest.mark.parametrize(
        ("lost", "told"),
        [
            ("config.json", "expected a LeRobot checkpoint with config.json; it holds model.safetensors"),
            ("model.safetensors", "half a LeRobot checkpoint, without model.safetensors; it holds config.json"),
            ("policy_preprocessor.json", "without policy_preprocessor.json; .* lerobot.processor.migrate_policy_normalization"),
            ("policy_postprocessor.json", "without policy_postprocessor.json"),
            ("policy_preprocessor_step_2.safetensors", "without policy_preprocessor_step_2.safetensors, which policy_preprocessor"),
        ],
    )
    def test_a_file_is_missing(self, place: Path, lost: str, told: str) -> None:
        (place / lost).unlink()
        with pytest.raises(ConfigError, match=told):
            lerobot.load(str(place), lerobot.Config(), Runtime())

    def test_weights_in_a_pickle(self, place: Path) -> None:
        (place / "model.safetensors").rename(place / "pytorch_model.bin")
        with pytest.raises(ConfigError, match=r"pytorch_model\.bin is not read: save it as safetensors"):
            _lerobot_files.read(place)

    def test_an_adapter(self, place: Path) -> None:
        write(place / "adapter_config.json", {})
        with pytest.raises(ConfigError, match="a PEFT adapter, not of a policy; merge"):
            _lerobot_files.read(place)

    @pytest.mark.parametrize("source", ["lerobot/smolvla_base", "", "/no/such/place"])
    def test_a_name_is_not_looked_up(self, source: str) -> None:
        with pytest.raises(ConfigError, match=r"no such directory; .* nothing is looked up in a hub"):
            lerobot.load(source or "./nothing", lerobot.Config(), Runtime())


class TestWhatItMayNotName:
    def test_a_class_to_import(self, place: Path) -> None:
        """LeRobot would import ``os`` here and call what it finds."""
        write(place / "policy_preprocessor.json", {"steps": [{"class": "os.system", "config": {"command": "true"}}]})
        with pytest.raises(ConfigError, match=r"names the class 'os\.system' to import"):
            _lerobot_files.read(place)

    @pytest.mark.parametrize("state", ["../../secrets.safetensors", "/etc/passwd", "statistics.pkl", 7])
    def test_a_file_elsewhere(self, place: Path, state: object) -> None:
        write(place / "policy_postprocessor.json", {"steps": [{"registry_name": "device_processor", "state_file": state}]})
        with pytest.raises(ConfigError, match=r"state_file: expected a \.safetensors file beside it"):
            _lerobot_files.read(place)

    @pytest.mark.parametrize("content", [{}, {"steps": "all"}, {"steps": ["one"]}, []])
    def test_steps_that_are_none(self, place: Path, content: object) -> None:
        write(place / "policy_preprocessor.json", content)
        with pytest.raises(ConfigError, match=r"policy_preprocessor\.json: expected a"):
            _lerobot_files.read(place)


class TestTheView:
    """What LeRobot is given instead of the directory itself."""

    def view(self, place: Path, **replace: str) -> tuple[dict[str, Any], dict[str, Any], Path]:
        target = place.parent / "view"
        target.mkdir()
        _lerobot_files.write_view(_lerobot_files.read(place), target, device="cpu", replace=replace)
        return (
            json.loads((target / "config.json").read_text()),
            json.loads((target / "policy_preprocessor.json").read_text()),
            target,
        )

    def test_nothing_to_download_and_our_device(self, place: Path) -> None:
        config, _, target = self.view(place)
        assert config["pretrained_backbone_weights"] is None
        assert config["device"] == "cpu"
        assert config["vlm_model_name"] == "somebody/words"
        assert (target / "model.safetensors").samefile(place / "model.safetensors")
        assert json.loads((place / "config.json").read_text()) == CONFIG

    def test_a_model_in_another_directory(self, place: Path) -> None:
        config, before, _ = self.view(place, **{"somebody/words": str(place)})
        assert config["vlm_model_name"] == before["steps"][1]["config"]["tokenizer_name"] == str(place)

    def test_a_model_among_the_checkpoints_own_folders(self, place: Path) -> None:
        (place / "somebody" / "words").mkdir(parents=True)
        config, before, _ = self.view(place)
        assert config["vlm_model_name"] == before["steps"][1]["config"]["tokenizer_name"] == str(place / "somebody" / "words")


def test_the_digest_knows_weights_and_statistics(place: Path) -> None:
    before = _lerobot_files.digest(_lerobot_files.read(place))
    (place / "policy_preprocessor_step_2.safetensors").write_bytes(b"other statistics")
    between = _lerobot_files.digest(_lerobot_files.read(place))
    (place / "model.safetensors").write_bytes(b"other weights")
    after = _lerobot_files.digest(_lerobot_files.read(place))
    assert len({before, between, after}) == 3


def test_without_lerobot_the_pip_line_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lerobot", None)
    monkeypatch.setattr(loading, "missing", lambda module: ("lerobot",) if module is lerobot else ())
    with pytest.raises(MissingPackageError, match=r"pip install 'actlink\[lerobot\]'"):
        open_policy(str(place))
