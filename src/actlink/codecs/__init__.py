"""Values to bytes and back. Law: no I/O; lengths, dtypes and shapes are checked before anything is allocated."""
