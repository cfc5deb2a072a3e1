"""IL-Studio's records, under the names that travel in its pickles."""
