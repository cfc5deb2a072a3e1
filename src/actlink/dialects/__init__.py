"""Wire languages: frames to events, replies to frames. Law: no socket, no clock, no thread, no policy. One file, one wire."""
