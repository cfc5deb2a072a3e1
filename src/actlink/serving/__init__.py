"""The server half. Law: never imports the client or anything above it; inference never runs on the event loop."""
