"""Robots. Law: one file per robot family; its driver is imported only inside it, when a robot is made."""
