"""A program that uses a provider through the official `openai` client and verifies every answer: ``python -m downstream_openai``."""
