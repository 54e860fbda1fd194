"""Scoring a trained net."""
