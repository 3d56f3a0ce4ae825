"""Kafka -> viewers: the edge node."""
