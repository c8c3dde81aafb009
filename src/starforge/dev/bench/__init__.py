"""Benchmarks: figures that are measured, never asserted in a timed test."""
