"""Simulators. Law: one file per simulator; its framework is imported only inside it, when an environment is made."""
