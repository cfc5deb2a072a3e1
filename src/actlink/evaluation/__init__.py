"""What a policy achieves: plan, rollout, workers, results. Law: never imports the server."""
