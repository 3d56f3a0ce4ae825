"""Benchmarks of Tailrace and its peers that prove order and completeness while they measure."""
