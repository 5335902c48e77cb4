"""Scaffold: a project that runs, written from files that nobody has described."""
