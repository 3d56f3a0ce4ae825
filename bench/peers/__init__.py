"""Servers that a competent team would write instead, each the shortest way its library offers."""
