"""Layers: what differs between two trees, and how a tree is changed by it."""
