"""``from vibe_rl.serving import PolicyServer``."""

from vibe_rl.serving.trained import PRESETS, TrainConfig, create_trained_policy
from vibe_rl.serving.websocket_server import PolicyServer

__all__ = ["PRESETS", "PolicyServer", "TrainConfig", "create_trained_policy"]
