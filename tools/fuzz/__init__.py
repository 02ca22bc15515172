"""Fuzzing: files that nobody exported, made from models of the project's own, put to every command."""
