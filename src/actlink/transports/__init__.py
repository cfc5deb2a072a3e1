"""Frames over a wire. Law: no msgpack, no policy; errors of other libraries are mapped to ours here. One file, one transport."""
