"""The robot loop: a robot executes chunks while the next one is inferred elsewhere."""
