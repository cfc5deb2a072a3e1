"""From action chunks to one action per control step. Law: pure, numpy only, keyed by absolute control step."""
