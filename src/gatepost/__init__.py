"""Gatepost: a self-hosted system that delivers webhooks."""

__version__ = "0.1.0"
