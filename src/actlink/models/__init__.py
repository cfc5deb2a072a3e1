"""Bundled trained policies: one folder each, with the files of its family and a ``CARD.md`` that says how it was made."""
