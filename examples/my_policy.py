"""A torch module behind an address in ten lines.

    actlink serve examples/my_policy.py:MyPolicy
    actlink serve "examples/my_policy.py:MyPolicy?weights=my.safetensors"

What follows the ``?`` are the constructor's arguments.
"""

import numpy as np
import torch
from safetensors.torch import load_file

from actlink import ActionChunk, Field, Policy, Spec


class MyPolicy(Policy):
    """Chunks of 50 actions for 14 joints, from their positions."""

    def __init__(self, weights: str = ""):
        joints = Field((14,), unit="rad")
        self.spec = Spec({"state": joints}, joints, action_horizon=50, rate_hz=50.0, max_batch_size=16)
        self.net = torch.nn.Sequential(torch.nn.Linear(14, 256), torch.nn.ReLU(), torch.nn.Linear(256, 50 * 14)).eval()
        if weights:
            self.net.load_state_dict(load_file(weights))

    def infer(self, requests):
        with torch.inference_mode():
            states = np.stack([request.observation["state"] for request in requests])
            actions = self.net(torch.from_numpy(states)).reshape(-1, 50, 14).numpy()
        return [ActionChunk(actions[i], one.step, one.episode, one.session) for i, one in enumerate(requests)]
