"""Conformance suites for adapters, ours and third parties'. Imported only by tests and ``actlink check``."""
