"""DeepXDE both ways: its problems, networks and geometries here, and factors in its models."""
