"""Tasks of the ACT server: which cameras a task has, under the names that clients use."""

TASK_CONFIGS = {
    "astrobench_dual_arm": {
        "episode_len": 1000,
        "camera_names": ["rgb_main", "rgb_left", "rgb_under"],
        "state_dim": 17,
        "action_dim": 16,
    },
}
