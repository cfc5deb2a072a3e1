"""The import paths of vibe-rl's serving, answered by actlink; every other module is an installed vibe-rl's own."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from vibe_rl.serving.trained import TrainConfig, create_trained_policy

__all__ = ["TrainConfig", "create_trained_policy"]
